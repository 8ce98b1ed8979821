"""Images in every form and format, and the turns of EXIF."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, features

from panoptic_tf.datasets.importers import photographs
from panoptic_tf.serving.image_source import read_image

ORIENTATION = 0x0112

# What EXIF's orientations do to this picture: where the first row and column of the stored pixels
# lie in the scene (EXIF 2.3, tag 0x0112: 6 = row 0 is the right side, column 0 the top).
STORED = [[1, 2, 3], [4, 5, 6]]
TURNED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


def save(pixels, image_format, orientation=None, **options):
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def drawn():
    """Four flat squares of 8 x 8, which lossy formats keep nearly as they are."""
    colors = np.array([[[220, 30, 40], [20, 200, 60]], [[30, 40, 210], [240, 230, 220]]])
    return np.kron(colors, np.ones((8, 8, 1))).astype(np.uint8)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG", "AVIF"])
def test_formats(image_format, tmp_path):
    if image_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    content = save(drawn(), image_format)
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with Image.open(path) as opened:
        forms = [path, str(path), content, opened]
        for pixels in map(read_image, forms):
            assert pixels.dtype == np.uint8 and pixels.shape == (16, 16, 3)
            # Away from the edges, which lossy formats smear.
            difference = np.abs(pixels.astype(int) - drawn())[2::8, 2::8]
            assert difference.max() <= (0 if image_format in ("PNG", "TIFF", "BMP") else 12)


@pytest.mark.parametrize(
    "image_format, modes",
    [
        ("PNG", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
        ("JPEG", ["L", "RGB", "CMYK"]),
        ("TIFF", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"]),
        ("BMP", ["1", "L", "P", "RGB", "RGBA"]),
        ("GIF", ["L", "P", "RGB"]),
        ("WEBP", ["L", "P", "RGB", "RGBA"]),
    ],
)
def test_pixels_are_those_of_training(image_format, modes, tmp_path):
    """What `convert` stores, decoded as the graph does."""
    path = tmp_path / "a.bin"
    for mode in modes:
        picture = Image.fromarray(drawn())
        picture = picture.convert("L").convert("I") if mode == "I;16" else picture
        picture = picture.convert(mode)
        if mode in ("LA", "RGBA"):
            picture.putalpha(100)
        # What Pillow 12 writes of this mode uncompressed it does not read.
        options = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}
        picture.save(path, image_format, **options)
        stored = photographs.read(str(path), max_pixels=1000).content
        expected = tf.io.decode_image(stored, channels=3, expand_animations=False)
        np.testing.assert_array_equal(read_image(path), expected, err_msg=mode)


def test_the_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (255, 0)]
    for image_format in ("GIF", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, image_format, save_all=True, append_images=frames[1:])
        assert read_image(buffer.getvalue()).min() > 250


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", sorted(TURNED))
def test_orientations(image_format, orientation):
    stored = np.repeat(np.uint8(STORED)[..., np.newaxis], 3, axis=-1)
    options = {"lossless": True} if image_format == "WEBP" else {}
    content = save(stored, image_format, orientation, **options)
    with Image.open(io.BytesIO(content)) as opened:
        for form in (content, opened):
            np.testing.assert_array_equal(read_image(form)[..., 0], TURNED[orientation])
    np.testing.assert_array_equal(read_image(content, exif="ignore")[..., 0], STORED)


def test_what_pillow_would_start_other_programs_for_is_not_opened(tmp_path):
    path = tmp_path / "a.eps"
    path.write_bytes(save(drawn(), "EPS"))
    with pytest.raises(ValueError, match=r"a\.eps is not an image that can be read: expected a ph"):
        read_image(path)


@pytest.mark.parametrize("image_format", ["TIFF", "BMP", "GIF", "WEBP"])
def test_damaged_files(image_format):
    content = save(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8), image_format)
    for cut in (3, 10, len(content) // 2):
        try:
            read_image(content[:cut], name="b.x")
        except ValueError as error:
            assert str(error).startswith("b.x ") and "\n" not in str(error)
    with pytest.raises(ValueError, match="b.x has 40 x 40 pixels .* limit is 1,599"):
        read_image(content, name="b.x", max_pixels=1599)


def test_more_than_8_bits():
    with pytest.raises(ValueError, match="the image: an image must have 8 bits a channel"):
        read_image(save(np.zeros((4, 4), np.uint16), "TIFF"))
