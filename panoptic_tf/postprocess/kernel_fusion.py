"""Kernel fusion of Panoptic FCN (arXiv:2012.00720): one kernel per object."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_MIN_NORM = 1e-8
# Equal kernels have a similarity of 1, however it is rounded.
_ROUNDING = 1e-6


class Kernels(NamedTuple):
    """K candidates per image by descending score, valid ones first; zeros where not valid.

    Attributes:
      kernels: float32 [B, K, C].
      scores: float32 [B, K], probabilities.
      classes: int32 [B, K], thing index 0..T-1.
      valid: bool [B, K].
    """

    kernels: tf.Tensor
    scores: tf.Tensor
    classes: tf.Tensor
    valid: tf.Tensor


def fuse_kernels(
    kernels: tf.Tensor,
    scores: tf.Tensor,
    classes: tf.Tensor,
    valid: tf.Tensor,
    *,
    similarity_threshold: float = 0.9,
    class_aware: bool = True,
) -> Kernels:
    """Averages similar kernels, in the order of score.

    A kernel belongs to the first one, itself included, whose cosine similarity to it is at least
    the threshold. Those that belong to themselves stay, each as the mean of the kernels that belong
    to it. Matches recorded outputs of the authors' implementation. So a kernel that is similar to a
    dropped one is dropped as well, and counts in no mean.

    Args:
      kernels: float32 [B, K, C], embedded.
      scores: float32 [B, K], descending among the valid.
      classes: int32 [B, K].
      valid: bool [B, K]; other kernels neither stay nor count.
      similarity_threshold: see above.
      class_aware: only kernels of one class are ever similar.

    Returns:
      `Kernels`, of the same K.
    """
    count = kernels.shape[1]
    unit = kernels / tf.maximum(tf.norm(kernels, axis=-1, keepdims=True), _MIN_NORM)
    # [B, K, C] x [B, K, C] -> [B, K (earlier), K]
    similar = tf.matmul(unit, unit, transpose_b=True) >= similarity_threshold - _ROUNDING
    if class_aware:
        numbers = tf.cast(classes, tf.float32)
        same_class = tf.equal(numbers[:, :, tf.newaxis], numbers[:, tf.newaxis, :])
        similar = tf.logical_and(similar, same_class)
    similar = tf.logical_and(similar, valid[:, :, tf.newaxis])

    row = tf.range(count, dtype=tf.float32)
    earlier = row[:, tf.newaxis] < row[tf.newaxis, :]
    similar = tf.logical_and(similar, earlier)
    first = tf.reduce_min(tf.where(similar, row[:, tf.newaxis], float(count)), axis=1)
    first = tf.minimum(first, row)  # [B, K], nobody earlier: itself
    stays = tf.logical_and(valid, tf.equal(first, row))

    belongs = tf.equal(first[:, tf.newaxis, :], row[:, tf.newaxis])  # [B, K (first), K]
    belongs = tf.cast(tf.logical_and(belongs, valid[:, tf.newaxis, :]), tf.float32)
    members = tf.reduce_sum(belongs, axis=-1, keepdims=True)
    fused = tf.math.divide_no_nan(tf.matmul(belongs, kernels), members)
    return best_first(Kernels(fused, scores, classes, stays))


def best_first(candidates: Kernels) -> Kernels:
    """Puts valid candidates first, by descending score (equal scores: as they come)."""
    keys = tf.where(candidates.valid, candidates.scores, -1.0)
    keys, order = tf.math.top_k(keys, k=keys.shape[1])
    valid = keys >= 0.0
    kernels, classes = (
        tf.gather(x, order, axis=1, batch_dims=1) for x in (candidates.kernels, candidates.classes)
    )
    return Kernels(
        kernels=tf.where(valid[..., tf.newaxis], kernels, 0.0),
        scores=tf.where(valid, keys, 0.0),
        classes=tf.where(valid, classes, 0),
        valid=valid,
    )
