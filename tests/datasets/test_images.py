"""Image files: header, orientation, and what the decoder of training takes."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import images


def encode(kind, size=(5, 7), **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(buffer, format=kind, **options)
    return buffer.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize(
    "kind, options",
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"comment": b"\xff\xc0" * 50, "exif": exif(6)}),
    ],
)
def test_size_in_the_header(kind, options):
    content = encode(kind, (5, 7), **options)
    assert images.header_size(content) == (5, 7)
    images.check_decodes(content)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP"])
def test_other_formats_have_no_header(kind):
    with pytest.raises(ValueError, match="starts with"):
        images.header_size(encode(kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind, orientation):
    assert images.orientation(encode(kind, exif=exif(orientation))) == orientation
    assert images.orientation(encode(kind)) == 1


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0" + b"\xff" * 60,
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    ],
)
def test_damaged_exif_data_is_no_orientation(block):
    content = encode("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    content = content[:2] + segment + content[2:]
    assert images.orientation(content) == 1
    for cut in range(len(segment) + 2):
        assert images.orientation(content[:cut]) == 1
    images.check_decodes(content)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not(orientation):
    assert images.orientation(encode("JPEG", exif=exif(orientation))) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_is_cut_off_does_not_decode(kind):
    content = encode(kind, (40, 40))
    with pytest.raises(ValueError, match="^[^{\\[]+$"):  # nothing of TensorFlow's graph
        images.check_decodes(content[:-30])


@pytest.mark.parametrize("length", [2**30, 2**31 - 1])
def test_a_chunk_longer_than_the_file_is_not_decoded(length):
    content = encode("PNG", (40, 40))
    bomb = struct.pack(">I", length) + b"zTXt" + b"text\0\0" + bytes(4)
    with pytest.raises(ValueError, match="its chunk b'zTXt' is longer than the file"):
        images.check_decodes(content[:33] + bomb + content[33:])
