"""Sums of per-pixel values for each row of a table."""

from __future__ import annotations

from typing import Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops import forms


@forms.op
def sum_by_row(
    values: Sequence[tf.Tensor], row_map: tf.Tensor, num_rows: int
) -> Tuple[tf.Tensor, ...]:
    """Sums per-pixel values by row.

    Args:
      values: tensors [B, H, W] of one dtype each; sums of float32 ones are exact up to 2^24 pixels.
      row_map: float32 or int32 [B, H, W]; entries outside 0..num_rows - 1 are dropped.
      num_rows: static R.

    Returns:
      One tensor [B, R] for each of `values`.
    """
    batch = tf.shape(row_map)[0]
    index = flat_rows(row_map, num_rows)
    size = batch * (num_rows + 1)
    sums = [tf.math.unsorted_segment_sum(tf.reshape(v, [-1]), index, size) for v in values]
    return tuple(tf.reshape(s, [batch, num_rows + 1])[:, :num_rows] for s in sums)


def flat_rows(row_map: tf.Tensor, num_rows: int) -> tf.Tensor:
    """Where each pixel counts among num_rows + 1 rows of each image: int32 [B * H * W].

    Args:
      row_map: float32 or int32 [B, H, W].
      num_rows: R; entries outside 0..R - 1 count in the last row of their image.
    """
    row_map = tf.cast(row_map, tf.float32)
    first = tf.range(tf.shape(row_map)[0]) * (num_rows + 1)
    inside = tf.logical_and(row_map >= 0.0, row_map < num_rows)
    row = tf.where(inside, row_map, float(num_rows)) + tf.cast(first, tf.float32)[:, None, None]
    return tf.cast(tf.reshape(row, [-1]), tf.int32)
