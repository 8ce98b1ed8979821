"""Reads the PNG of an id map into the array of its ids.

With the extra `png`, kornia-rs decodes plain files, which is faster. Without it, Pillow does: it
keeps a colour image as four bytes a pixel, red first, which is an id with another byte on top, and
is given the array's memory to decode into.
"""

from __future__ import annotations

import io
from typing import Callable, Optional, Tuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from panoptic_tf.datasets import files, png
from panoptic_tf.datasets.segments import MAX_SEGMENT_ID

try:
    from kornia_rs import io as kornia_io
except ImportError:
    kornia_io = None  # type: ignore[assignment]

_FORMAT = slice(24, 29)  # bits, kind of colour, compression, filter, interlace
_PLAIN = bytes((8, 2, 0, 0, 0))
"""Three bytes a pixel, row by row."""

_EXPECTED = "an RGB PNG of segment ids"

_FILLER = 255
"""What Pillow writes into the fourth byte."""


def read_id_map(
    path: str, *, check_size: Optional[Callable[[Tuple[int, int]], None]] = None
) -> np.ndarray:
    """Reads a panoptic PNG, whose checksums must be right: another id is as good as any.

    Args:
      path: RGB PNG, id = R + 256 G + 65536 B.
      check_size: called with the (height, width) of its header before any pixel is decoded.

    Returns:
      uint32 [H, W], 0 is void.

    Raises:
      ValueError: no such file, damaged, cut off, not a PNG, or not a colour image; and what
        `check_size` raises.
    """
    content = files.read_bytes(path, expected=_EXPECTED)
    try:
        if content.startswith(png.SIGNATURE):
            png.check_whole(content)
            size = png.header_size(content)
        else:
            size = None
    except OSError as error:
        raise _not_decoded(path, f" ({error})") from error
    if size is not None and check_size is not None:
        check_size(size)
    try:
        return decode_id_png(content)
    except WrongPixels as error:
        raise ValueError(f"{path}: expected {_EXPECTED}, {error}.") from error
    except UnidentifiedImageError as error:
        raise _not_decoded(path) from error
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise _not_decoded(path, f" ({error})") from error


def _not_decoded(path: str, reason: str = "") -> ValueError:
    return ValueError(f"{path}: cannot be decoded{reason}; expected {_EXPECTED}.")


class WrongPixels(ValueError):
    """A file that can be decoded, but holds no colours."""


def decode_id_png(content: bytes) -> np.ndarray:
    """Decodes a panoptic PNG.

    Args:
      content: of the file; RGB, RGBA or with a palette, id = R + 256 G + 65536 B. What zlib has
        as the checksum of the pixels is compared by Pillow only.

    Returns:
      uint32 [H, W].

    Raises:
      WrongPixels: not a PNG of colours.
      OSError, SyntaxError, PIL.Image.DecompressionBombError: Pillow cannot read it.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.format != "PNG" or image.mode not in ("RGB", "RGBA", "P"):
            raise WrongPixels(f"got a {image.format} of mode {image.mode}")
        decode_plain = _decode_in_place if kornia_io is None else _decode_with_kornia
        is_plain = content[_FORMAT] == _PLAIN
        pixels = decode_plain(content, image.size) if is_plain else None
        if pixels is None:
            colors = image if image.mode == "RGB" else image.convert("RGB")
            pixels = np.frombuffer(colors.tobytes("raw", "RGBX"), "<u4").copy()
            pixels = pixels.reshape(image.height, image.width)
    pixels &= np.uint32(MAX_SEGMENT_ID)
    return pixels.astype(np.uint32, copy=False)


def _decode_with_kornia(content: bytes, size: Tuple[int, int]) -> Optional[np.ndarray]:
    """Four bytes for each pixel of a PNG with 3 bytes each, None if it cannot be decoded."""
    width, height = size
    try:
        colors = kornia_io.decode_image_png_u8(content, (height, width), "rgb")
    except Exception:  # the only class that it raises
        return None
    pixels = np.empty((height, width), "<u4")
    flat = pixels.reshape(-1)
    # Four bytes from each pixel's first on: the last is of the next pixel, which the last lacks.
    flat[:-1] = np.ndarray(flat.size - 1, "<u4", colors, strides=3)
    flat[-1] = int.from_bytes(colors[-1, -1], "little")
    return pixels


def _decode_in_place(content: bytes, size: Tuple[int, int]) -> Optional[np.ndarray]:
    """Four bytes for each pixel of a PNG with 3 bytes each, None if it is not that simple."""
    width, height = size
    pixels = np.empty((height, width), "<u4")
    pixels[-1, -1] = 0
    target = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
    compressed = b"".join(c.data for c in png.chunks(content) if c.kind == b"IDAT")
    try:
        target.frombytes(compressed, "zip", "RGB")
    except ValueError:  # damaged
        return None
    return pixels if pixels[-1, -1] >> 24 == _FILLER else None
