"""Anchors of a region proposal network on a pyramid (arXiv:1506.01497; arXiv:1612.03144)."""

from __future__ import annotations

from typing import Dict, Sequence, Tuple

import numpy as np


def generate_anchors(
    image_size: Tuple[int, int],
    *,
    min_level: int = 2,
    max_level: int = 6,
    scale: float = 8.0,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    offset: float = 0.0,
) -> Dict[str, np.ndarray]:
    """Boxes of one area per level and several aspect ratios around every cell.

    An anchor of level k has the area (scale * 2^k)^2; nothing is rounded or clipped.

    Args:
      image_size: static (height, width) of the network's input, pixels.
      min_level: finest level.
      max_level: coarsest level.
      scale: square root of the area, in strides.
      aspect_ratios: height / width, A of them.
      offset: where in its cell an anchor is centered, in strides; 0 is the near corner.

    Returns:
      {level: float32 [cells * A, 4]}, [ymin, xmin, ymax, xmax] in pixels, in the order y, x, ratio;
      a level has ceil(size / 2^k) cells per axis.
    """
    return {
        str(level): _anchors_of_level(image_size, 2**level, scale, aspect_ratios, offset)
        for level in range(min_level, max_level + 1)
    }


def _anchors_of_level(
    image_size: Tuple[int, int],
    stride: int,
    scale: float,
    aspect_ratios: Sequence[float],
    offset: float,
) -> np.ndarray:
    ratios = np.asarray(aspect_ratios, np.float64)
    widths = scale * stride / np.sqrt(ratios)
    half = 0.5 * np.stack([widths * ratios, widths], axis=-1)  # [A, 2]
    cells = [-(-size // stride) for size in image_size]
    y, x = ((np.arange(count) + offset) * stride for count in cells)
    centers = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)[:, :, np.newaxis]  # [h, w, 1, 2]
    anchors = np.concatenate([centers - half, centers + half], axis=-1)  # [h, w, A, 4]
    return anchors.reshape(-1, 4).astype(np.float32)
