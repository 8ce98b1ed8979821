"""Which of K centers is nearest to where each pixel points."""

from __future__ import annotations

from typing import Optional

import tensorflow as tf

from panoptic_tf.ops import blocks, forms

FAR = 1e6


@forms.op
def nearest_center(
    points: tf.Tensor,
    centers: tf.Tensor,
    valid: tf.Tensor,
    where: Optional[tf.Tensor] = None,
) -> tf.Tensor:
    """The valid center nearest to each point.

    Args:
      points: float32 [B, H, W, 2], (y, x), anywhere.
      centers: float32 [B, K, 2].
      valid: bool [B, K], valid ones first.
      where: bool [B, H, W], the points that count, or None: all.

    Returns:
      float32 [B, H, W], 1..K, the first of equals, anything at points that do not count; 0
      everywhere in an image without a valid center.
    """
    del where
    centers = tf.where(valid[..., tf.newaxis], centers, FAR)
    center_y, center_x = (
        centers[:, tf.newaxis, tf.newaxis, :, 0],
        centers[:, tf.newaxis, tf.newaxis, :, 1],
    )

    def nearest(block: tf.Tensor) -> tf.Tensor:  # [B, rows, W, 2] -> [B, rows, W]
        y, x = block[..., 0:1] - center_y, block[..., 1:2] - center_x  # [B, rows, W, K]
        return tf.cast(tf.argmin(y * y + x * x, axis=-1), tf.float32) + 1.0

    found = blocks.map_rows(nearest, [points], values_per_row=points.shape[2] * centers.shape[1])
    return tf.where(tf.reduce_any(valid, axis=1)[:, tf.newaxis, tf.newaxis], found, 0.0)
