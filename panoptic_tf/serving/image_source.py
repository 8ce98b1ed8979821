"""An image as a user hands it over: a path, the bytes of a file, an array, or Pillow's.

JPEG and PNG are decoded as in training, everything else by Pillow.
"""

from __future__ import annotations

import os
from typing import Union

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files, images, png
from panoptic_tf.serving import decoding

ImageSource = Union[str, "os.PathLike[str]", bytes, np.ndarray, Image.Image]

EXPECTED = "a photograph (JPEG, PNG, WebP, TIFF, BMP, GIF or, where Pillow reads it, AVIF)"

_MORE_THAN_8_BITS = ("I", "F")


def read_image(
    image: ImageSource,
    *,
    name: str = "the image",
    max_pixels: int = decoding.MAX_PIXELS,
    exif: str = images.APPLY,
) -> np.ndarray:
    """Reads one image.

    Args:
      image: path, bytes of a file, uint8 [H, W, 3] RGB, or a Pillow image of 8 bits a channel.
      name: of the image where it is no path, for messages.
      max_pixels: limit of height times width; a larger one is not decoded.
      exif: one of `images.EXIF`; arrays have no orientation.

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
            orientation = images.orientation(image)
            if orientation == 1 or exif == images.IGNORE:
                return pixels
            turned = images.in_frame(Image.fromarray(pixels), orientation, is_turned=True)
            return np.asarray(turned)
        image = _open(image, name)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"{name} must be a path, bytes, a uint8 array or a Pillow image, "
            f"got {type(image).__name__}."
        )
    return _convert(image, name, max_pixels, is_turned=exif == images.APPLY)


def _open(content: bytes, name: str) -> Image.Image:
    """The header of a file that is neither JPEG nor PNG."""
    try:
        return images.open_picture(content)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}") from error
    except Exception as error:  # Pillow raises what it meets.
        raise ValueError(
            f"{name} is not an image that can be read: expected {EXPECTED}, "
            f"got {decoding.describe(content)}."
        ) from error


def _convert(image: Image.Image, name: str, max_pixels: int, *, is_turned: bool) -> np.ndarray:
    if image.mode.startswith(_MORE_THAN_8_BITS):
        raise ValueError(
            f"{name}: an image must have 8 bits a channel, got mode {image.mode!r} of Pillow. "
            "Convert it to 'RGB'."
        )
    decoding.check_size(image.height, image.width, name=name, max_pixels=max_pixels)
    orientation = images.orientation_of(image.getexif)  # Decoding a TIFF takes it away.
    try:
        return np.array(images.in_frame(image, orientation, is_turned=is_turned).convert("RGB"))
    except Exception as error:  # The file is decoded only now, and Pillow raises what it meets.
        raise ValueError(f"{name} is damaged or truncated: {error}") from error
