"""Photographs of all kinds: kept, recoded without loss, or turned as the annotation's size says."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets import images
from panoptic_tf.datasets.importers import photographs

HEIGHT, WIDTH = 6, 10
LIMIT = 1000


def pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 256, [HEIGHT, WIDTH, 3], np.uint8)


def save(path, array, image_format, orientation=1, **options):
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    Image.fromarray(array).save(path, image_format, **options)
    return str(path)


def decoded(photograph):
    return tf.io.decode_image(photograph.content, channels=3, expand_animations=False).numpy()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_jpeg_and_png_are_kept_byte_for_byte(tmp_path, image_format):
    path = save(tmp_path / "a", pixels(), image_format)
    found = photographs.read(path, stated=(HEIGHT, WIDTH), max_pixels=LIMIT)
    assert found.content == (tmp_path / "a").read_bytes()
    assert found.size == (HEIGHT, WIDTH) and found.notes == ()


@pytest.mark.parametrize(
    "image_format, options", [("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {}), ("GIF", {})]
)
def test_others_become_png_of_the_same_pixels(tmp_path, image_format, options):
    path = save(tmp_path / "a", pixels(), image_format, **options)
    expected = np.asarray(Image.open(path).convert("RGB"))
    found = photographs.read(path, max_pixels=LIMIT)
    np.testing.assert_array_equal(decoded(found), expected)
    assert found.size == (HEIGHT, WIDTH) and found.notes == (photographs.RECODED,)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_the_stated_size_tells_the_frame(tmp_path, orientation):
    path = save(tmp_path / "a.png", pixels(), "PNG", orientation)
    stored = photographs.read(path, stated=(HEIGHT, WIDTH), max_pixels=LIMIT)
    assert stored.content == (tmp_path / "a.png").read_bytes()
    assert stored.notes == (images.TURNED,)
    turned = photographs.read(path, stated=(WIDTH, HEIGHT), max_pixels=LIMIT)
    assert turned.size == (WIDTH, HEIGHT) and turned.notes == (photographs.APPLIED,)
    x = pixels()
    expected = {
        5: x.transpose(1, 0, 2),
        6: np.rot90(x, -1),
        7: np.rot90(x, 2).transpose(1, 0, 2),
        8: np.rot90(x),
    }
    np.testing.assert_array_equal(decoded(turned), expected[orientation])
    assert images.orientation(turned.content) == 1


@pytest.mark.parametrize("orientation, stated", [(3, (HEIGHT, WIDTH)), (6, None)])
def test_where_the_size_cannot_tell_somebody_must(tmp_path, orientation, stated):
    path = save(tmp_path / "a.png", pixels(), "PNG", orientation)
    with pytest.raises(ValueError, match=rf"a\.png: its EXIF orientation is {orientation}.*--exif"):
        photographs.read(path, stated=stated, max_pixels=LIMIT)
    stored = photographs.read(path, stated=stated, max_pixels=LIMIT, exif=photographs.STORED)
    np.testing.assert_array_equal(decoded(stored), pixels())
    turned = photographs.read(path, stated=stated, max_pixels=LIMIT, exif=photographs.TURNED)
    rotations = {3: 2, 6: -1}
    np.testing.assert_array_equal(decoded(turned), np.rot90(pixels(), rotations[orientation]))


def test_others_are_turned_only_where_that_is_meant(tmp_path):
    path = save(tmp_path / "a.webp", pixels(), "WEBP", 6, lossless=True)
    stored = photographs.read(path, stated=(HEIGHT, WIDTH), max_pixels=LIMIT)
    np.testing.assert_array_equal(decoded(stored), pixels())
    assert stored.size == (HEIGHT, WIDTH) and images.orientation(stored.content) == 1
    turned = photographs.read(path, stated=(WIDTH, HEIGHT), max_pixels=LIMIT)
    np.testing.assert_array_equal(decoded(turned), np.rot90(pixels(), -1))
    assert photographs.size_and_orientation(path) == ((HEIGHT, WIDTH), 6)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_tiff_that_pillow_turns_by_itself(tmp_path, orientation):
    path = save(tmp_path / "a.tif", pixels(), "TIFF", orientation)
    png = save(tmp_path / "a.png", pixels(), "PNG", orientation)
    turned_size = (WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH)
    assert photographs.size_and_orientation(path) == ((HEIGHT, WIDTH), orientation)
    for exif, stated in ((photographs.STORED, (HEIGHT, WIDTH)), (photographs.TURNED, turned_size)):
        found = photographs.read(path, stated=stated, max_pixels=LIMIT, exif=exif)
        expected = photographs.read(png, stated=stated, max_pixels=LIMIT, exif=exif)
        assert found.size == stated
        np.testing.assert_array_equal(decoded(found), decoded(expected))
        if orientation > 4:
            same = photographs.read(path, stated=stated, max_pixels=LIMIT)
            assert (same.content, same.size) == (found.content, stated)
    if orientation <= 4:
        with pytest.raises(ValueError, match="it is not clear"):
            photographs.read(path, stated=(HEIGHT, WIDTH), max_pixels=LIMIT)


def test_pixels_of_another_size_than_the_header_says(tmp_path, monkeypatch):
    path = save(tmp_path / "a.bmp", pixels(), "BMP")
    other = Image.new("RGB", (WIDTH, HEIGHT + 1))
    monkeypatch.setattr(images, "in_frame", lambda *_, **__: other)
    with pytest.raises(ValueError, match=r"a\.bmp: has 7 x 10 pixels .* its header, 6 x 10"):
        photographs.read(path, max_pixels=LIMIT)


def sixteen_bits(path):
    Image.fromarray(np.full([4, 4], 1000, np.uint16)).save(path, "TIFF")


def cut_off(path, image_format):
    content = io.BytesIO()
    Image.fromarray(np.tile(pixels(), [5, 5, 1])).save(content, image_format)
    path.write_bytes(content.getvalue()[:-200])


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: path.write_bytes(b"no image"), "cannot be decoded; expected a photograph"),
        (lambda path: path.write_bytes(b""), "cannot be decoded"),
        # Pillow would start Ghostscript.
        (lambda path: save(path, pixels(), "EPS"), "cannot be decoded; expected a photograph"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "no such file"),
        (sixteen_bits, "mode 'I;16'.*8 bits a channel"),
        (lambda path: cut_off(path, "PNG"), "cannot be decoded"),
        (lambda path: cut_off(path, "BMP"), "cannot be decoded"),
        (lambda path: path.write_bytes(b"\xff\xd8\xff"), "cannot be decoded"),
        (lambda path: save(path, np.zeros([40, 40, 3], np.uint8), "PNG"), "40 x 40.*1,600|--max_p"),
        (lambda path: save(path, pixels(), "PNG"), r"must be 3 x 4 .*got 6 x 10"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, write, message):
    path = tmp_path / "photo.x"
    write(path)
    limit = 1550 if "must be" not in message else LIMIT
    stated = (3, 4) if "must be" in message else None
    with pytest.raises(ValueError, match=message) as error:
        photographs.read(str(path), stated=stated, max_pixels=limit)
    assert str(path) in str(error.value)
