"""Sums by row of an operator whose size TFLite knows."""

from __future__ import annotations

from typing import Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops import sum_by_row as reference


@forms.register(reference.sum_by_row, forms.Form.TFLITE)
def sum_by_row(
    values: Sequence[tf.Tensor], row_map: tf.Tensor, num_rows: int
) -> Tuple[tf.Tensor, ...]:
    """By a scatter.

    To TFLite a segment sum is of unknown size, and with one of those its older interpreters run
    nothing of a model on their fast kernels.
    """
    batch = tf.shape(row_map)[0]
    index = reference.flat_rows(row_map, num_rows)[:, tf.newaxis]
    size = [batch * (num_rows + 1)]
    sums = [tf.scatter_nd(index, tf.reshape(v, [-1]), size) for v in values]
    return tuple(tf.reshape(s, [batch, num_rows + 1])[:, :num_rows] for s in sums)
