"""Positions as sines (DETR, arXiv:2005.12872, after arXiv:1706.03762)."""

from __future__ import annotations

from typing import Tuple

import numpy as np

_TEMPERATURE = 10000.0
_EPSILON = 1e-6


def sine_positions(height: int, width: int, channels: int) -> Tuple[np.ndarray, np.ndarray]:
    """Sines and cosines of rows in the first half of the channels, of columns in the second.

    Position i of n is 2 pi i / (n + 1e-6), i = 1..n. Channel c of a half with C / 2 channels is its
    sine, or cosine where c is odd, divided by 10000^(2 floor(c / 2) / (C / 2)).

    Args:
      height, width: of the map.
      channels: C, a multiple of 4.

    Returns:
      Two parts whose sum is the encoding: float32 [1, height, 1, C], 0 in the second half, and
      [1, 1, width, C], 0 in the first. So no map of it is held.

    Raises:
      ValueError: C is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"sine positions need a multiple of 4 channels, got {channels}.")
    half = channels // 2
    rows = np.pad(_along_axis(height, half), [[0, 0], [0, half]])
    columns = np.pad(_along_axis(width, half), [[0, 0], [half, 0]])
    return rows[np.newaxis, :, np.newaxis], columns[np.newaxis, np.newaxis]


def _along_axis(size: int, channels: int) -> np.ndarray:
    """float32 [size, channels]."""
    positions = np.arange(1, size + 1) / (size + _EPSILON) * 2 * np.pi
    exponents = 2 * (np.arange(channels) // 2) / channels
    angles = positions[:, np.newaxis] / _TEMPERATURE**exponents
    is_even = np.arange(channels) % 2 == 0
    return np.where(is_even, np.sin(angles), np.cos(angles)).astype(np.float32)
