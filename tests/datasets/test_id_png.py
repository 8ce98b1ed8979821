"""PNGs of ids: every way of storing colours gives the ids that Pillow's own pixels give."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from panoptic_tf.datasets import id_png, segments


@pytest.fixture(params=["kornia-rs", "Pillow"], autouse=True)
def decoder(request, monkeypatch):
    """Every test has the decoder of the extra, then the one without."""
    if request.param == "Pillow":
        monkeypatch.setattr(id_png, "kornia_io", None)
    elif id_png.kornia_io is None:
        pytest.skip("the extra `png` is not installed")


def encode(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def draw(kind, size):
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 2**24, size).astype(np.uint32)
    blocks = rng.integers(0, 2**24, (6, 5)).astype(np.uint32)
    return np.kron(blocks, np.ones((size[0] // 6 + 1, size[1] // 5 + 1), np.uint32))[
        : size[0], : size[1]
    ]


@pytest.mark.parametrize("kind", ["noise", "blocks"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (200, 311)])
def test_ids_come_back(kind, size):
    ids = draw(kind, size)
    found = id_png.decode_id_png(encode(Image.fromarray(segments.id_to_rgb(ids))))
    assert found.dtype == np.uint32 and found.flags.writeable
    np.testing.assert_array_equal(found, ids)


@pytest.mark.parametrize("decoder", ["kornia-rs"], indirect=True)
def test_pillow_decodes_no_pixel_of_plain_files(monkeypatch):
    def load(self):
        raise AssertionError("Pillow decodes")

    ids = draw("noise", (7, 3))
    content = encode(Image.fromarray(segments.id_to_rgb(ids)))
    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    np.testing.assert_array_equal(id_png.decode_id_png(content), ids)


def test_pixels_in_many_chunks():
    ids = draw("noise", (300, 300))  # Pillow writes chunks of 64 KiB
    content = encode(Image.fromarray(segments.id_to_rgb(ids)))
    assert content.count(b"IDAT") > 2
    np.testing.assert_array_equal(id_png.decode_id_png(content), ids)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_other_modes(mode):
    ids = np.array([[0, 255], [256, 70000]], np.uint32)
    image = Image.fromarray(segments.id_to_rgb(ids)).convert(mode, palette=1)
    np.testing.assert_array_equal(id_png.decode_id_png(encode(image)), ids)


def test_16_bits_are_reduced_as_pillow_does():
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 256, (5, 4, 6)).astype(np.uint8)  # 4 pixels of 3 numbers of 2 bytes
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
    )
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (*chunks, (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    expected = segments.rgb_to_id(np.asarray(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(id_png.decode_id_png(content), expected)


@pytest.mark.parametrize("decoder", ["Pillow"], indirect=True)
def test_without_memory_of_its_own(monkeypatch):
    """A Pillow that copies what it should decode into is noticed."""
    ids = draw("blocks", (30, 40))
    copied = Image.frombuffer
    monkeypatch.setattr(
        Image, "frombuffer", lambda mode, size, data, *a: copied(mode, size, bytes(data), *a)
    )
    found = id_png.decode_id_png(encode(Image.fromarray(segments.id_to_rgb(ids))))
    np.testing.assert_array_equal(found, ids)


@pytest.mark.parametrize("position", [60, 300, 900])
def test_damaged(position):
    """Pillow says what is wrong, or reads on as it does."""
    content = bytearray(encode(Image.fromarray(segments.id_to_rgb(draw("blocks", (400, 400))))))
    content[position] ^= 0x40

    def read(decode):
        try:
            return decode(bytes(content))
        except (OSError, SyntaxError) as error:
            return str(error)

    expected = read(lambda data: segments.rgb_to_id(np.asarray(Image.open(io.BytesIO(data)))))
    np.testing.assert_array_equal(read(id_png.decode_id_png), expected)


@pytest.mark.parametrize("kind", ["noise", "blocks"])
@pytest.mark.parametrize("kept", [40, 900])
def test_cut_off(kind, kept):
    content = encode(Image.fromarray(segments.id_to_rgb(draw(kind, (400, 400)))))
    assert len(content) > kept + 100
    with pytest.raises((OSError, SyntaxError)):
        id_png.decode_id_png(content[:kept])
