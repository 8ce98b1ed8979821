"""The segment table of a panoptic prediction: static rows, valid ones first."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

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


class Merged(NamedTuple):
    """A panoptic map; see `build_segments`.

    Attributes:
      row_map: float32 [B, H, W], the row of each pixel's segment, R on void.
      rows: the candidates.
    """

    row_map: tf.Tensor
    rows: Rows


def build_segments(row_map: tf.Tensor, rows: Rows) -> Tensors:
    """Numbers the instances and writes masks and table.

    Args:
      row_map: float32 [B, H, W], the row of each pixel's segment, R on void.
      rows: the candidates.

    Returns:
      The panoptic keys of `structures.Prediction` but for the image size; table rows in the order
      of `rows`, valid ones first, the rest zero.
    """
    valid = rows.area > 0  # [B, R]
    is_instance = tf.cast(tf.logical_and(valid, rows.is_thing), tf.int32)
    instance = tf.cumsum(is_instance, axis=1) * is_instance  # [B, R], 1..M on valid things
    category = tf.where(valid, rows.category, 0)
    goes_to = valid_first(valid)

    def table(values: tf.Tensor) -> tf.Tensor:
        moved = tf.where(goes_to, tf.cast(values, tf.float32)[:, tf.newaxis], 0.0)
        return tf.cast(tf.reduce_sum(moved, axis=2), values.dtype)

    return {
        Prediction.CATEGORY_MASK: _look_up(category, row_map),
        Prediction.INSTANCE_MASK: _look_up(instance, row_map),
        Prediction.SEGMENT_CATEGORY: table(category),
        Prediction.SEGMENT_INSTANCE: table(instance),
        Prediction.SEGMENT_SCORE: table(rows.score),
        Prediction.SEGMENT_AREA: table(rows.area),
        Prediction.NUM_SEGMENTS: tf.reduce_sum(tf.cast(valid, tf.int32), axis=1),
    }


def valid_first(valid: tf.Tensor) -> tf.Tensor:
    """Where rows go for valid ones to be first and in their order: bool [B, R (to), R (from)].

    Invalid ones go nowhere. Not a sort, which OpenVINO gets wrong within such a graph.
    """
    number = tf.cumsum(tf.cast(valid, tf.float32), axis=1)  # 1..S on valid rows
    to = tf.range(1.0, valid.shape[1] + 1.0)[:, tf.newaxis]
    return tf.logical_and(valid[:, tf.newaxis], tf.equal(number[:, tf.newaxis], to))


def _look_up(values: tf.Tensor, row_map: tf.Tensor) -> tf.Tensor:
    """values[b, row_map[b, y, x]], 0 for the void row: int32 [B, H, W]."""
    padded = tf.pad(values, [[0, 0], [0, 1]])
    return tf.gather(padded, tf.cast(row_map, tf.int32), axis=1, batch_dims=1)
