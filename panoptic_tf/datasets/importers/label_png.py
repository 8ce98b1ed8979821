"""PNGs whose pixels are numbers or colours of labels, read without any conversion of them."""

from __future__ import annotations

import io
from typing import Sequence

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files, png
from panoptic_tf.datasets.importers.source import Size

GREY_8, GREY_16, PALETTE, RGB = "8-bit grey", "16-bit grey", "palette", "8-bit RGB"

_KINDS = {(8, 0): GREY_8, (16, 0): GREY_16, (8, 2): RGB}
_KINDS.update({(bits, 3): PALETTE for bits in (1, 2, 4, 8)})
"""By bits and kind of colour of the header."""

_HEADER = 33
"""Bytes of the signature and IHDR."""


def read_size(path: str, *, expected: str) -> Size:
    """Reads (height, width) of a PNG from its header.

    Args:
      path: the file.
      expected: what the file should be, for the error message.

    Raises:
      ValueError: no such file, or not a PNG with a whole header.
    """
    problem = files.file_problem(path)
    try:
        if problem is None:
            with open(path, "rb") as file:
                return png.header_size(file.read(_HEADER))
    except OSError as error:
        problem = error.strerror or str(error)
    raise ValueError(f"{path}: {problem}; expected {expected}.")


def read(path: str, size: Size, kinds: Sequence[str], *, expected: str) -> np.ndarray:
    """Reads a PNG, whose checksums must be right: another number is as good as any.

    Args:
      path: the file.
      size: (height, width) that it must have.
      kinds: of `GREY_8`, `GREY_16`, `PALETTE`, `RGB`.
      expected: what the file should be, for the error message.

    Returns:
      int32 [H, W], or [H, W, 3] of an `RGB` one; of a `PALETTE` the indices.

    Raises:
      ValueError: no such file, damaged, cut off, or of another kind or size.
    """
    content = files.read_bytes(path, expected=expected)
    try:
        found = png.header_size(content)
        png.check_whole(content)
    except OSError as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); expected {expected}.") from error
    kind = _KINDS.get((content[24], content[25]))
    if kind not in kinds:
        raise ValueError(
            f"{path}: must be a PNG of {' or '.join(kinds)}, got "
            f"{kind or f'{content[24]} bits of colour type {content[25]}'}; expected {expected}."
        )
    if found != tuple(size):
        raise ValueError(
            f"{path}: must be {size[0]} x {size[1]} (height x width of its image), got "
            f"{found[0]} x {found[1]}."
        )
    try:
        with Image.open(io.BytesIO(content)) as image:
            if (image.height, image.width) != found:
                raise OSError("two headers")
            return np.asarray(image).astype(np.int32)
    except Exception as error:  # Pillow raises what it meets: IndexError of a short iCCP.
        raise ValueError(f"{path}: cannot be decoded ({error}); expected {expected}.") from error


def first_pixel(is_wrong: np.ndarray) -> str:
    """Names the first pixel of a bool array [H, W] that has one."""
    y, x = np.argwhere(is_wrong)[0].tolist()
    return f"(y, x) = ({y}, {x})"
