"""An image as a user hands it over: a path, the bytes of a file, an array, or Pillow's.

JPEG and PNG are decoded as in training, everything else by Pillow.
"""

from __future__ import annotations

import io
import os
import warnings
from typing import List, Union

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files, images, png
from panoptic_tf.serving import decoding

ImageSource = Union[str, "os.PathLike[str]", bytes, np.ndarray, Image.Image]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif")
"""Of the files that are looked for in folders."""

EXPECTED = "a photograph (JPEG, PNG, WebP, TIFF, BMP, GIF or, where Pillow reads it, AVIF)"

APPLY, IGNORE = EXIF = ("apply", "ignore")
"""What is done with an EXIF orientation: the picture is turned as it says, or left as stored."""

_PILLOW_FORMATS = ("WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
"""HEIF is there when a plug-in has registered it. Pillow has readers that start other programs."""

_MORE_THAN_8_BITS = ("I", "F")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation (tag 0x0112)."""


def read_image(
    image: ImageSource,
    *,
    name: str = "the image",
    max_pixels: int = decoding.MAX_PIXELS,
    exif: str = APPLY,
) -> np.ndarray:
    """Reads one image.

    Args:
      image: path, bytes of a file, uint8 [H, W, 3] RGB, or a Pillow image of 8 bits a channel.
      name: of the image where it is no path, for messages.
      max_pixels: limit of height times width; a larger one is not decoded.
      exif: one of `EXIF`; arrays have no orientation.

    Returns:
      uint8 [H, W, 3], RGB; alpha is dropped, of several frames the first is taken.

    Raises:
      ValueError: it cannot be read, or is too large; the message names it.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"{name}: an image array must be uint8 [H, W, 3], got {image.dtype} "
                f"{list(image.shape)}."
            )
        return image
    if isinstance(image, (str, os.PathLike)):
        name = os.fsdecode(image)
        image = files.read_bytes(name, expected=EXPECTED)
    if isinstance(image, bytes):
        if image.startswith((png.SIGNATURE, images.JPEG_SIGNATURE)):
            pixels = decoding.decode_image(image, name=name, max_pixels=max_pixels)
            return _turn(pixels, images.orientation(image), exif)
        image = _open(image, name)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"{name} must be a path, bytes, a uint8 array or a Pillow image, "
            f"got {type(image).__name__}."
        )
    pixels = _convert(image, name, max_pixels)
    return _turn(pixels, images.orientation_of(image.getexif), exif)


def _open(content: bytes, name: str) -> Image.Image:
    """The header of a file that is neither JPEG nor PNG."""
    Image.init()
    formats: List[str] = [each for each in _PILLOW_FORMATS if each in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked
            return Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}") from error
    except Exception as error:  # Pillow raises what it meets.
        raise ValueError(
            f"{name} is not an image that can be read: expected {EXPECTED}, "
            f"got {decoding.describe(content)}."
        ) from error


def _convert(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    if image.mode.startswith(_MORE_THAN_8_BITS):
        raise ValueError(
            f"{name}: an image must have 8 bits a channel, got mode {image.mode!r} of Pillow. "
            "Convert it to 'RGB'."
        )
    decoding.check_size(image.height, image.width, name=name, max_pixels=max_pixels)
    try:
        return np.array(image.convert("RGB"))
    except Exception as error:  # The file is decoded only now, and Pillow raises what it meets.
        raise ValueError(f"{name} is damaged or truncated: {error}") from error


def _turn(pixels: np.ndarray, orientation: int, exif: str) -> np.ndarray:
    if orientation == 1 or exif == IGNORE:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(_TURNS[orientation]))
