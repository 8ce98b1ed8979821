"""Boundaries of all segments of a map at once (Boundary IoU, arXiv:2103.16562).

A pixel belongs to the boundary of its segment if a pixel of another segment, or the outside of the
image, is at most d pixels away by the chessboard distance: what d erosions with a 3x3 square take
off the segment, as in the authors' `mask_to_boundary`. That is the case exactly where the square of
2 d + 1 pixels around it is not of one segment, so that one pass over the map serves all of them.
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np


def boundary_distance(size: Sequence[int], dilation_ratio: float) -> int:
    """d = max(1, round(dilation_ratio * sqrt(height^2 + width^2))), in pixels."""
    height, width = (int(side) for side in size)
    return max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))


def find_boundary(*masks: np.ndarray, distance: int) -> np.ndarray:
    """Where the boundaries of segments are.

    Args:
      *masks: [H, W] each; pixels that are equal in all of them are of one segment.
      distance: d, at least 1.

    Returns:
      bool [H, W].
    """
    (height, width), span = masks[0].shape, 2 * distance
    is_boundary = np.ones((height, width), bool)
    if span >= min(height, width):
        return is_boundary
    inner = slice(distance, width - distance)
    right = _any_differs([mask[:, 1:] for mask in masks], [mask[:, :-1] for mask in masks])
    rows = _any_of(right, span)  # [H, W - 2d]: the row differs within d columns
    down = _any_differs([m[1:, inner] for m in masks], [m[:-1, inner] for m in masks])
    # All rows of a square being uniform, it is if its middle column is.
    square = _any_of((rows[:-1] | down).T, span).T | rows[span:]  # [H - 2d, W - 2d]
    is_boundary[distance : height - distance, inner] = square
    return is_boundary


def _any_differs(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    differs = ones[0] != others[0]
    for one, other in zip(ones[1:], others[1:]):
        differs |= one != other
    return differs


def _any_of(values: np.ndarray, count: int) -> np.ndarray:
    """Whether any of `count` neighbours in a row is True: bool [A, B] -> [A, B - count + 1]."""
    span = 1
    while span < count:
        step = min(span, count - span)
        values = values[:, :-step] | values[:, step:]
        span += step
    return values
