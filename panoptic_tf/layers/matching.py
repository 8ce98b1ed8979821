"""Assignment of anchors or proposals to ground truth, and the draw of those that are trained on."""

from __future__ import annotations

from typing import Sequence, Tuple

import tensorflow as tf


def match(
    iou: tf.Tensor,
    *,
    thresholds: Sequence[float],
    labels: Sequence[int],
    allow_low_quality_matches: bool,
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Gives every anchor the ground truth it overlaps most, and a label by how much that is.

    The label is labels[i] where thresholds[i - 1] <= IoU < thresholds[i]. With
    `allow_low_quality_matches` the anchors of highest IoU with a ground truth (all of equals) get
    the last label whatever that IoU is, if it is above 0; their index does not change
    (arXiv:1506.01497, section 3.1.2).

    Args:
      iou: float32 [..., A, M]; -1 or 0 with padded ground truth. M may be 0 and unknown.
      thresholds: rising limits of IoU.
      labels: one more than thresholds: 1 positive, 0 negative, -1 ignored.
      allow_low_quality_matches: see above.

    Returns:
      matched_index: int64 [..., A] in 0..M-1, the smallest of equals; 0 where M is 0.
      label: float32 [..., A]; labels[0] where M is 0.
    """
    if not iou.shape[-1]:  # unknown or 0: the maximum of nothing is not defined
        iou = tf.pad(iou, [[0, 0]] * (iou.shape.rank - 1) + [[0, 1]], constant_values=-1.0)
    best = tf.reduce_max(iou, axis=-1)  # [..., A]
    label = tf.fill(tf.shape(best), float(labels[0]))
    for threshold, value in zip(thresholds, labels[1:]):
        label = tf.where(best >= threshold, float(value), label)
    if allow_low_quality_matches:
        best_of_truth = tf.reduce_max(iou, axis=-2, keepdims=True)  # [..., 1, M]
        is_best = tf.logical_and(tf.equal(iou, best_of_truth), best_of_truth > 0)
        label = tf.where(tf.reduce_any(is_best, axis=-1), float(labels[-1]), label)
    return tf.argmax(iou, axis=-1), label


def sample(
    labels: tf.Tensor, *, count: int, positive_fraction: float, priority: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws a fixed number of positives and negatives (arXiv:1506.01497, section 3.1.3).

    At most int(count * positive_fraction) positives; negatives fill up to `count`. Of either those
    of largest priority are taken, ties by lower index: random priorities give a random draw.

    Args:
      labels: float32 [..., A], 1 positive, 0 negative, -1 ignored; A static.
      count: how many to draw.
      positive_fraction: largest share of positives.
      priority: float32 [..., A] in [0, 1).

    Returns:
      indices: int64 [..., count] into A: positives, negatives, then 0 where there are not enough.
      is_positive: bool [..., count].
      is_valid: bool [..., count].
    """
    total = labels.shape[-1]
    most_positive = min(int(count * positive_fraction), total)
    positive, positive_index = _select(labels, 1, priority, most_positive)
    negative, negative_index = _select(labels, 0, priority, min(count, total))

    num_positive = tf.reduce_sum(positive, axis=-1, keepdims=True)  # [..., 1]
    num_negative = tf.minimum(tf.reduce_sum(negative, axis=-1, keepdims=True), count - num_positive)
    slots = tf.range(count, dtype=tf.int64)
    is_positive = slots < num_positive  # [..., count]
    is_valid = slots < num_positive + num_negative
    drawn = tf.concat([positive_index, negative_index], axis=-1)
    source = tf.where(is_positive, slots, slots + most_positive - num_positive)
    source = tf.where(is_valid, source, 0)
    indices = tf.gather(drawn, source, axis=-1, batch_dims=labels.shape.rank - 1)
    return tf.where(is_valid, indices, 0), is_positive, is_valid


def _select(
    labels: tf.Tensor, label: int, priority: tf.Tensor, count: int
) -> Tuple[tf.Tensor, tf.Tensor]:
    """The `count` of one label of largest priority: 1 where there is one, and their indices."""
    keys, index = tf.math.top_k(tf.where(tf.equal(labels, label), priority, -1.0), k=count)
    return tf.cast(keys >= 0.0, tf.int64), tf.cast(index, tf.int64)
