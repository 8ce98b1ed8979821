"""Reads the PNG of an id map into the array of its ids, without a copy between.

Pillow keeps a colour image as four bytes a pixel, red first: an id with another byte on top. It is
given the array's memory to decode into, and pixels that are inflated already.
"""

from __future__ import annotations

import io
import struct
from typing import Callable, Iterator, Optional, Tuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from zlib_ng import zlib_ng

from panoptic_tf.datasets import files, png
from panoptic_tf.datasets.segments import MAX_SEGMENT_ID

_FORMAT = slice(24, 29)  # bits, kind of colour, compression, filter, interlace
_PLAIN = bytes((8, 2, 0, 0, 0))
"""Three bytes a pixel, row by row."""

_EXPECTED = "an RGB PNG of segment ids"

_FILLER = 255
"""What Pillow writes into the fourth byte."""

_BLOCK = 32768
"""Bytes that are read or inflated at a time: what a stored block can hold, and the cache."""


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
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _not_decoded(path, f" ({error})") from error


def _not_decoded(path: str, reason: str = "") -> ValueError:
    return ValueError(f"{path}: cannot be decoded{reason}; expected {_EXPECTED}.")


class WrongPixels(ValueError):
    """A file that can be decoded, but holds no colours."""


def decode_id_png(content: bytes) -> np.ndarray:
    """Decodes a panoptic PNG.

    Args:
      content: of the file; RGB, RGBA or with a palette, id = R + 256 G + 65536 B.

    Returns:
      uint32 [H, W].

    Raises:
      WrongPixels: not a PNG of colours.
      OSError, SyntaxError, PIL.Image.DecompressionBombError: Pillow cannot read it.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.format != "PNG" or image.mode not in ("RGB", "RGBA", "P"):
            raise WrongPixels(f"got a {image.format} of mode {image.mode}")
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
    compressed = b"".join(c.data for c in png.chunks(content) if c.kind == b"IDAT")
    try:
        stored = _store(compressed, height * (1 + 3 * width))
        target.frombytes(stored, "zip", "RGB")
    except (ValueError, zlib_ng.error):  # type: ignore[misc]  # Damaged; its stub is no class.
        return None
    return pixels if pixels[-1, -1] >> 24 == _FILLER else None


def _store(compressed: bytes, size: int) -> memoryview:
    """The zlib stream of the same bytes in which they are stored, not compressed (RFC 1950, 1951).

    Pillow asks for a row of pixels at a time. From a compressed stream that takes several times as
    long as all at once; from a stored one it is a copy.

    Args:
      compressed: a zlib stream.
      size: how many bytes it holds, what comes later is left out.

    Raises:
      ValueError: it holds fewer.
      zlib_ng.error: it is damaged.
    """
    most_blocks = -(-size // _BLOCK) - (-len(compressed) // _BLOCK)
    stream = np.empty(2 + 5 * most_blocks + size + 4, np.uint8).data
    stream[:2] = b"\x78\x01"
    checksum, end = 1, 2
    for block in _inflate(compressed, size):
        size -= len(block)
        header = struct.pack("<BHH", size == 0, len(block), len(block) ^ 0xFFFF)
        for part in (header, block):
            stream[end : end + len(part)] = part
            end += len(part)
        checksum = zlib_ng.adler32(block, checksum)
    stream[end : end + 4] = checksum.to_bytes(4, "big")
    return stream[: end + 4]


def _inflate(compressed: bytes, size: int) -> Iterator[bytes]:
    """What `_store` stores, in blocks that are full or end with a block of the compressed bytes."""
    inflater, start, left = zlib_ng.decompressobj(), 0, size
    while left:
        piece = memoryview(compressed)[start : start + _BLOCK]
        block = inflater.decompress(piece, min(_BLOCK, left))
        if not block and not piece:
            raise ValueError(f"the pixels end after {size - left} of {size} bytes")
        start += len(piece) - len(inflater.unconsumed_tail)
        left -= len(block)
        if block:
            yield block
