"""Sums of per-pixel values for each row of a table."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops import forms


@forms.op
def sum_by_row(
    values: Sequence[Optional[tf.Tensor]], row_map: tf.Tensor, num_rows: int
) -> Tuple[tf.Tensor, ...]:
    """Sums per-pixel values by row.

    Args:
      values: float32 [B, H, W] each, finite, or None, which counts pixels; counts are exact up to
        2^24 pixels. A value that is not finite spoils sums of its image: that of its row in the
        reference, any in a form that multiplies by 0; other images and counts are not touched.
      row_map: float32 [B, H, W], whole numbers; entries outside 0..num_rows - 1 are dropped.
      num_rows: static R, at most 2^22.

    Returns:
      float32 [B, R] for each of `values`.
    """
    batch = tf.shape(row_map)[0]
    index = _flat_rows(row_map, num_rows)
    size = batch * (num_rows + 1)
    sums = [
        tf.math.unsorted_segment_sum(
            tf.ones_like(index, tf.float32) if v is None else tf.reshape(v, [-1]), index, size
        )
        for v in values
    ]
    return tuple(tf.reshape(s, [batch, num_rows + 1])[:, :num_rows] for s in sums)


def _flat_rows(row_map: tf.Tensor, num_rows: int) -> tf.Tensor:
    """Where each pixel counts among num_rows + 1 rows of each image: int64 [B * H * W].

    Entries outside 0..R - 1 count in the last row of their image. Not float32, which has no odd
    numbers above 2^24, nor int32, which GPUs hand to the host.
    """
    first = tf.range(tf.cast(tf.shape(row_map)[0], tf.int64)) * (num_rows + 1)
    inside = tf.logical_and(row_map >= 0.0, row_map < num_rows)
    row = tf.cast(tf.where(inside, row_map, float(num_rows)), tf.int64)
    return tf.reshape(row + first[:, tf.newaxis, tf.newaxis], [-1])
