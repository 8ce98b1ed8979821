"""Decodes the PNG of an id map into the array of its ids, without a copy between.

Pillow keeps a colour image as four bytes a pixel, red first: an id with another byte on top. It is
given the array's memory to decode into.
"""

from __future__ import annotations

import io
from typing import Optional, Tuple

import numpy as np
from PIL import Image

from panoptic_tf.datasets.segments import MAX_SEGMENT_ID

_SIGNATURE_SIZE = 8
_FORMAT = slice(24, 29)  # bits, kind of colour, compression, filter, interlace
_PLAIN = bytes((8, 2, 0, 0, 0))
"""Three bytes a pixel, row by row."""

_FILLER = 255
"""What Pillow writes into the fourth byte."""


def decode_id_png(content: bytes) -> np.ndarray:
    """Decodes a panoptic PNG.

    Args:
      content: of the file; RGB, RGBA or with a palette, id = R + 256 G + 65536 B.

    Returns:
      uint32 [H, W].

    Raises:
      ValueError: not a PNG of colours, or its pixels are cut off.
      OSError, SyntaxError, PIL.Image.DecompressionBombError: Pillow cannot read it.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.format != "PNG" or image.mode not in ("RGB", "RGBA", "P"):
            raise ValueError(f"got a {image.format} of mode {image.mode}")
        is_plain = content[_FORMAT] == _PLAIN
        pixels = _decode_in_place(content, image.size) if is_plain else None
        if pixels is None:
            colors = image if image.mode == "RGB" else image.convert("RGB")
            pixels = np.frombuffer(colors.tobytes("raw", "RGBX"), "<u4").copy()
            pixels = pixels.reshape(image.height, image.width)
    pixels &= np.uint32(MAX_SEGMENT_ID)
    return pixels.astype(np.uint32, copy=False)


def _decode_in_place(content: bytes, size: Tuple[int, int]) -> Optional[np.ndarray]:
    """Four bytes for each pixel of a PNG with 3 bytes each, None if it is not that simple."""
    width, height = size
    pixels = np.empty((height, width), "<u4")
    pixels[-1, -1] = 0
    target = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
    try:
        target.frombytes(_compressed_pixels(content), "zip", "RGB")
    except ValueError:  # Damaged.
        return None
    return pixels if pixels[-1, -1] >> 24 == _FILLER else None


def _compressed_pixels(content: bytes) -> bytes:
    """What the IDAT chunks of a PNG hold together."""
    parts = []
    start = _SIGNATURE_SIZE
    while start + 8 <= len(content):
        kind = content[start + 4 : start + 8]
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if kind == b"IDAT":
            parts.append(content[start + 8 : end])
        start = end + 4  # the checksum
    return b"".join(parts)
