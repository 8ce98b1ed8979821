"""An image as a user hands it over: a path, the bytes of a file, an array, or Pillow's."""

from __future__ import annotations

import os
from typing import Optional, Union

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files, images
from panoptic_tf.datasets.notes import Notes
from panoptic_tf.serving import decoding

ImageSource = Union[str, "os.PathLike[str]", bytes, np.ndarray, Image.Image]

TURNED = "images have an EXIF orientation, which is not applied: they are predicted as stored"
"""A kind of `Notes`."""

_MORE_THAN_8_BITS = ("I", "F")


def read_image(
    image: ImageSource,
    *,
    name: str = "the image",
    max_pixels: int = decoding.MAX_PIXELS,
    notes: Optional[Notes] = None,
) -> np.ndarray:
    """Reads one image.

    Args:
      image: path, JPEG or PNG bytes, uint8 [H, W, 3] RGB, or a Pillow image of 8 bits a channel.
      name: of the image where it is no path, for messages.
      max_pixels: limit of height times width; a larger one is not decoded.
      notes: takes `TURNED`.

    Returns:
      uint8 [H, W, 3], RGB; alpha is dropped, an EXIF orientation is not applied.

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
    if isinstance(image, Image.Image):
        pixels = _convert(image, name, max_pixels)
        orientation = images.orientation_of(image.getexif)
    else:
        if isinstance(image, bytes):
            content = image
        elif isinstance(image, (str, os.PathLike)):
            name = os.fsdecode(image)
            content = files.read_bytes(name, expected=images.EXPECTED)
        else:
            raise ValueError(
                f"{name} must be a path, bytes, a uint8 array or a Pillow image, "
                f"got {type(image).__name__}."
            )
        pixels = decoding.decode_image(content, name=name, max_pixels=max_pixels)
        orientation = images.orientation(content)
    if orientation != 1 and notes is not None:
        notes.add(TURNED, name)
    return pixels


def _convert(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    if image.mode.startswith(_MORE_THAN_8_BITS):
        raise ValueError(
            f"{name}: a Pillow image must have 8 bits a channel, got mode {image.mode!r}. "
            "Convert it to 'RGB'."
        )
    decoding.check_size(image.height, image.width, name=name, max_pixels=max_pixels)
    try:
        return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # The file is decoded only now.
        raise ValueError(f"{name} is damaged or truncated: {error}") from error
