"""Pasting the masks of boxes into the image, as Mask R-CNN does (arXiv:1703.06870).

Bilinear interpolation is separable: a pasted mask is a product of three matrices, weights of the
rows [H, m], the mask [m, m] and weights of the columns [m, W].
"""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

Size = Tuple[int, int]

_NOWHERE = 1e9


def paste_masks(masks: tf.Tensor, boxes: tf.Tensor, *, output_size: Size) -> tf.Tensor:
    """Pastes masks into their boxes.

    Output pixel y, whose center is at y + 0.5, reads the mask at

        p = (y + 0.5 - ymin) / (ymax - ymin) * m - 0.5,

    cell j with weight max(0, 1 - |p - j|); the same along x. Zero lies around the mask. A box
    without extent reads nothing.

    Args:
      masks: float32 [..., m, m], probabilities.
      boxes: float32 [..., 4], pixels of the output.
      output_size: static (height, width).

    Returns:
      float32 [..., H, W].
    """
    rows, columns = (
        _weights(boxes[..., axis], boxes[..., axis + 2], masks.shape[axis - 2], output_size[axis])
        for axis in (0, 1)
    )
    # [..., H, m] x [..., m, m] x [..., W, m] -> [..., H, W]
    return tf.matmul(tf.matmul(rows, masks), columns, transpose_b=True)


def _weights(low: tf.Tensor, high: tf.Tensor, cells: int, length: int) -> tf.Tensor:
    """Weights of cells between low and high [...] for the pixels: [..., length, cells]."""
    centers = tf.range(length, dtype=tf.float32) + 0.5
    extent = tf.where(high > low, high - low, 1.0)[..., tf.newaxis]
    low = tf.where(high > low, low, _NOWHERE)[..., tf.newaxis]
    position = (centers - low) * (float(cells) / extent) - 0.5  # [..., length]
    distance = tf.abs(position[..., tf.newaxis] - tf.range(cells, dtype=tf.float32))
    return tf.nn.relu(1.0 - distance)
