"""Elements of arrays as files store them, and what is given out for them.

Shapes come from untrusted files: they are checked as numbers, before anything of their size exists.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Tuple

import numpy as np

# NumPy 1 has no more; a network's arrays have at most five or so.
_MAX_DIMENSIONS = 32
# Above any real array, below where counts of bytes leave 64 bits.
_MAX_ELEMENTS = 2**48


@dataclasses.dataclass(frozen=True)
class ElementType:
    """How elements lie in a file.

    Attributes:
      stored: their type and byte order; bfloat16 lies as 16-bit integers.
      is_bfloat16: whether these integers are bfloat16.
    """

    stored: np.dtype
    is_bfloat16: bool = False

    @property
    def given(self) -> np.dtype:
        """The type that is given out."""
        return np.dtype(np.float32) if self.is_bfloat16 else self.stored.newbyteorder("=")

    def swapped(self) -> ElementType:
        """The same in big-endian order."""
        return dataclasses.replace(self, stored=self.stored.newbyteorder(">"))

    def convert(self, raw: np.ndarray) -> np.ndarray:
        """What is given out for elements as they are stored; a view of them where that is it."""
        if self.is_bfloat16:
            # bfloat16 is the upper half of float32.
            raw = np.asarray(np.left_shift(raw.astype(np.uint32), 16)).view(np.float32)
        elif self.stored.kind == "b":
            # A byte that is neither 0 nor 1 is no valid bool.
            raw = np.asarray(raw.view(np.uint8) != 0)
        return np.require(raw, self.given, ["ALIGNED", "C_CONTIGUOUS"])


BFLOAT16 = ElementType(np.dtype("<u2"), is_bfloat16=True)


def element_type(code: str) -> ElementType:
    """Of a NumPy type code, as `f4`; little-endian."""
    return ElementType(np.dtype(code).newbyteorder("<"))


def checked_shape(shape: Any) -> Tuple[int, ...]:
    """A shape that a file claims.

    Raises:
      ValueError: not a list or tuple of whole numbers, or beyond what an array can have.
    """
    sizes = checked_sizes(shape)
    # A size of 0 does not make the others right.
    if math.prod(max(size, 1) for size in sizes) > _MAX_ELEMENTS:
        raise ValueError(f"an array of shape {list(sizes)}")
    return sizes


def checked_sizes(sizes: Any) -> Tuple[int, ...]:
    """Whole numbers that a file claims, each by itself: strides, or offsets.

    Raises:
      ValueError: not a list or tuple of whole numbers, or more or larger than those of an array.
    """
    is_whole = isinstance(sizes, (list, tuple)) and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= _MAX_ELEMENTS
        for size in sizes
    )
    if not is_whole or len(sizes) > _MAX_DIMENSIONS:
        raise ValueError("sizes of an array that are no whole numbers, or too large")
    return tuple(sizes)


def count(shape: Tuple[int, ...]) -> int:
    """Number of elements."""
    return math.prod(shape)
