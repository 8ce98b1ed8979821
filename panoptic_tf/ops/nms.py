"""Greedy non-maximum suppression of batches of boxes, with static shapes.

The definition everywhere: boxes go by descending score, equal scores by lower index; a box is
dropped if its IoU with a kept one is above (not equal to) the threshold.
"""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

from panoptic_tf.ops import boxes as box_ops
from panoptic_tf.ops import forms


def batched_nms(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    groups: tf.Tensor,
    *,
    iou_threshold: float,
    score_threshold: float = float("-inf"),
    max_outputs: int,
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Keeps the best boxes; those of different groups never suppress each other.

    Groups are moved apart on a square grid before the IoU is taken, so that coordinates, and with
    them rounding, grow with the root of the number of groups only.

    Args:
      boxes: float32 [B, N, 4]; those that are not finite are dropped.
      scores: float32 [B, N]; NaN and -inf are dropped.
      groups: float32 or integers [B, N], whole numbers, 0 or more.
      iou_threshold: see the module.
      score_threshold: largest score that is dropped.
      max_outputs: K.

    Returns:
      indices: int64 [B, K] into N by descending score, 0 where not valid.
      valid: bool [B, K].
    """
    valid = tf.logical_and(scores > score_threshold, box_ops.finite_boxes(boxes))
    keys = tf.where(valid, scores, float("-inf"))
    keys, order = tf.math.top_k(keys, k=boxes.shape[1])  # [B, N]
    boxes = tf.where(valid[..., tf.newaxis], boxes, 0.0)
    boxes = tf.gather(_move_groups_apart(boxes, groups), order, axis=1, batch_dims=1)
    kept, valid = nms_of_sorted(
        boxes, keys > float("-inf"), iou_threshold=iou_threshold, max_outputs=max_outputs
    )
    indices = tf.gather(tf.cast(order, tf.int64), kept, axis=1, batch_dims=1)
    return tf.where(valid, indices, 0), valid


def nms_of_sorted(
    boxes: tf.Tensor, valid: tf.Tensor, *, iou_threshold: float, max_outputs: int
) -> Tuple[tf.Tensor, tf.Tensor]:
    """The same for one group of boxes that are in order already.

    Args:
      boxes: float32 [B, N, 4] by descending score.
      valid: bool [B, N]; other boxes neither stay nor suppress, and may be anything.
      iou_threshold: see the module.
      max_outputs: K.

    Returns:
      indices: int64 [B, K] into N, rising, 0 where not valid.
      valid: bool [B, K].
    """
    count = boxes.shape[1]
    # The operators see ranks, N..1: they break ties between equal scores as they like, and one
    # returns scores but not indices. Floats hold ranks up to 2^24 exactly.
    ranks = tf.where(valid, tf.range(count, 0, -1, dtype=tf.float32), 0.0)  # [B, N]
    indices, counts = suppress_by_rank(boxes, ranks, iou_threshold, max_outputs)
    kept = tf.range(max_outputs) < counts[:, tf.newaxis]  # [B, K]
    return tf.where(kept, indices, 0), kept


@forms.op
def suppress_by_rank(
    boxes: tf.Tensor, ranks: tf.Tensor, iou_threshold: float, max_outputs: int
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Greedy suppression of boxes of different ranks.

    Args:
      boxes: float32 [B, N, 4] by descending rank.
      ranks: float32 [B, N], N - index, or 0: not a candidate.
      iou_threshold: see the module.
      max_outputs: K.

    Returns:
      indices: int64 [B, K] of the kept boxes, rising; then anything.
      counts: int32 [B], how many are kept.
    """

    def suppress(image: Tuple[tf.Tensor, tf.Tensor]) -> Tuple[tf.Tensor, tf.Tensor]:
        indices, count = tf.raw_ops.NonMaxSuppressionV4(
            boxes=image[0],
            scores=image[1],
            max_output_size=max_outputs,
            iou_threshold=iou_threshold,
            score_threshold=0.5,
            pad_to_max_output_size=True,
        )
        return tf.cast(tf.ensure_shape(indices, [max_outputs]), tf.int64), count

    if boxes.shape[0] is None:
        return tf.map_fn(suppress, (boxes, ranks), fn_output_signature=(tf.int64, tf.int32))
    images = [suppress(image) for image in zip(tf.unstack(boxes), tf.unstack(ranks))]
    indices, counts = (tf.stack(x) for x in zip(*images))
    return indices, counts


def _move_groups_apart(boxes: tf.Tensor, groups: tf.Tensor) -> tf.Tensor:
    """Puts the boxes of each group into a cell of their own of a square grid, per image."""
    groups = tf.cast(groups, tf.float32)[..., tf.newaxis]  # [B, N, 1]
    columns = tf.math.ceil(tf.sqrt(tf.reduce_max(groups, axis=1, keepdims=True) + 1.0))
    row = tf.math.floor((groups + 0.5) / columns)
    corner = tf.concat([row, groups - row * columns], axis=-1)  # [B, N, 2]
    low = tf.reduce_min(boxes, axis=[1, 2], keepdims=True)
    extent = tf.reduce_max(boxes, axis=[1, 2], keepdims=True) - low + 1.0
    return boxes - low + extent * tf.concat([corner, corner], axis=-1)
