"""Matrix NMS (SOLOv2, arXiv:2003.10152): scores decay by overlap, all at once."""

from __future__ import annotations

import tensorflow as tf


def matrix_nms(
    masks: tf.Tensor,
    scores: tf.Tensor,
    classes: tf.Tensor,
    valid: tf.Tensor,
    *,
    kernel: str = "gaussian",
    sigma: float = 2.0,
    class_aware: bool = True,
) -> tf.Tensor:
    """Multiplies scores by

        decay_j = min over i before j of f(iou_ij) / f(max over k before i of iou_ki),

    f(x) = exp(-sigma * x^2) (gaussian) or 1 - x (linear). The denominator says how likely i was
    suppressed itself.

    Args:
      masks: float32 [B, K, N], 0 or 1 of each of N pixels, K static. Soft masks give the IoU
        of products.
      scores: float32 [B, K], descending among the valid.
      classes: int32 [B, K].
      valid: bool [B, K]; others suppress none, and score 0.
      kernel: "gaussian" or "linear".
      sigma: of the gaussian.
      class_aware: only masks of one class suppress each other.

    Returns:
      float32 [B, K], not necessarily descending.

    Raises:
      ValueError: an unknown kernel.
    """
    if kernel not in ("gaussian", "linear"):
        raise ValueError(
            f"the kernel of matrix NMS must be 'gaussian' or 'linear', got {kernel!r}."
        )
    row = tf.range(masks.shape[1], dtype=tf.float32)
    iou = tf.where(row[:, tf.newaxis] < row[tf.newaxis, :], _pairwise_iou(masks), 0.0)
    suppresses = tf.logical_and(valid[:, :, tf.newaxis], valid[:, tf.newaxis, :])
    if class_aware:
        numbers = tf.cast(classes, tf.float32)
        same_class = tf.equal(numbers[:, :, tf.newaxis], numbers[:, tf.newaxis, :])
        suppresses = tf.logical_and(suppresses, same_class)
    iou = tf.where(suppresses, iou, 0.0)  # [B, K (i), K (j)]
    suppressed = tf.reduce_max(iou, axis=1)[:, :, tf.newaxis]  # [B, K (i), 1]
    if kernel == "gaussian":
        decay = tf.exp(sigma * (suppressed**2 - iou**2))
    else:
        decay = tf.math.divide_no_nan(1.0 - iou, 1.0 - suppressed)
        decay = tf.where(suppressed < 1.0, decay, 1.0)  # a copy of another suppresses nobody
    return tf.where(valid, scores * tf.reduce_min(decay, axis=1), 0.0)


def _pairwise_iou(masks: tf.Tensor) -> tf.Tensor:
    """[B, K, N] -> [B, K, K]."""
    intersection = tf.matmul(masks, masks, transpose_b=True)
    area = tf.reduce_sum(masks, axis=-1)
    union = area[:, :, tf.newaxis] + area[:, tf.newaxis, :] - intersection
    return tf.math.divide_no_nan(intersection, union)
