"""The segment table of a panoptic prediction: static rows, valid ones first."""

from __future__ import annotations

from typing import NamedTuple, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.layers import operators
from panoptic_tf.structures import Prediction, Tensors


class Rows(NamedTuple):
    """Candidate segments, R of them per image, in any order.

    Attributes:
      category: int32 [B, R].
      is_thing: bool [B, R].
      score: float32 [B, R].
      area: int32 [B, R], pixels; a row of area 0 is no segment.
    """

    category: tf.Tensor
    is_thing: tf.Tensor
    score: tf.Tensor
    area: tf.Tensor


def build_segments(row_map: tf.Tensor, rows: Rows) -> Tensors:
    """Numbers the instances and writes masks and table.

    Args:
      row_map: int32 [B, H, W], the row of each pixel's segment, R on void.
      rows: the candidates.

    Returns:
      The panoptic keys of `structures.Prediction` but for the image size; table rows in the order
      of `rows`, valid ones first, the rest zero.
    """
    valid = rows.area > 0  # [B, R]
    is_instance = tf.cast(tf.logical_and(valid, rows.is_thing), tf.int32)
    instance = tf.cumsum(is_instance, axis=1) * is_instance  # [B, R], 1..M on valid things
    category = tf.where(valid, rows.category, 0)
    order = _valid_first(valid)

    def table(values: tf.Tensor) -> tf.Tensor:
        values = tf.where(valid, values, tf.zeros_like(values))
        return tf.gather(values, order, axis=1, batch_dims=1)

    return {
        Prediction.CATEGORY_MASK: _look_up(category, row_map),
        Prediction.INSTANCE_MASK: _look_up(instance, row_map),
        Prediction.SEGMENT_CATEGORY: table(category),
        Prediction.SEGMENT_INSTANCE: table(instance),
        Prediction.SEGMENT_SCORE: table(rows.score),
        Prediction.SEGMENT_AREA: table(rows.area),
        Prediction.NUM_SEGMENTS: tf.reduce_sum(tf.cast(valid, tf.int32), axis=1),
    }


def sum_by_row(values: Sequence[tf.Tensor], row_map: tf.Tensor, num_rows: int) -> Tuple:
    """Sums per-pixel values by row.

    Args:
      values: tensors [B, H, W] of one dtype each.
      row_map: int32 [B, H, W]; entries outside 0..num_rows - 1 are dropped.
      num_rows: static R.

    Returns:
      One tensor [B, R] for each of `values`.
    """
    batch = tf.shape(row_map)[0]
    first = tf.range(batch)[:, tf.newaxis, tf.newaxis] * (num_rows + 1)
    inside = tf.logical_and(row_map >= 0, row_map < num_rows)
    index = tf.reshape(tf.where(inside, row_map, num_rows) + first, [-1])
    size = batch * (num_rows + 1)

    def total(value: tf.Tensor) -> tf.Tensor:
        value = tf.reshape(value, [-1])
        if operators.only_builtin_operators():
            # To TFLite a segment sum is of unknown size, and with one of those its older
            # interpreters run nothing of a model on their fast kernels.
            sums = tf.scatter_nd(tf.expand_dims(index, axis=-1), value, [size])
        else:
            sums = tf.math.unsorted_segment_sum(value, index, size)
        return tf.reshape(sums, [batch, num_rows + 1])[:, :num_rows]

    return tuple(total(value) for value in values)


def _valid_first(valid: tf.Tensor) -> tf.Tensor:
    """Row order that puts valid rows first and keeps their order: int32 [B, R]."""
    count = valid.shape[1]
    key = tf.cast(valid, tf.int32) * count - tf.range(count)[tf.newaxis, :]
    return tf.math.top_k(key, k=count).indices


def _look_up(values: tf.Tensor, row_map: tf.Tensor) -> tf.Tensor:
    """values[b, row_map[b, y, x]], 0 for the void row: [B, H, W]."""
    padded = tf.pad(values, [[0, 0], [0, 1]])
    flat = tf.reshape(row_map, [tf.shape(row_map)[0], row_map.shape[1] * row_map.shape[2]])
    looked_up = tf.gather(padded, flat, axis=1, batch_dims=1)
    return tf.reshape(looked_up, tf.shape(row_map))
