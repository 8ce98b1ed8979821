"""Weighted dice loss: several masks predicted for each object (Panoptic FCN, arXiv:2012.00720)."""

from __future__ import annotations

import tensorflow as tf

_EPSILON = 1e-8


def weighted_dice_loss(logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """L = sum over k of w_k (1 - 2 <p_k, t> / max(<p_k, p_k> + <t, t>, 1e-8)), p = sigmoid(x).

    The article's weighted dice; its denominator is that of V-Net (arXiv:1606.04797),
    of squares, as in the authors' implementation.

    Args:
      logits: float32 [B, P, k, N], k masks of N cells for each of P objects.
      targets: float32 [B, P, N], 0..1; they get no gradient.
      weights: float32 [B, P, k], shares of the k masks.

    Returns:
      float32 [B, P].
    """
    return tf.reduce_sum(weights * _dice(logits, tf.stop_gradient(targets)), axis=-1)


def _dice(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The loss of every mask, [B, P, k]."""
    p = tf.sigmoid(logits)
    t = targets[:, :, tf.newaxis]  # [B, P, 1, N]
    overlap = tf.matmul(p, t, transpose_b=True)[..., 0]  # [B, P, k]
    area = tf.reduce_sum(tf.square(p), axis=-1) + tf.reduce_sum(tf.square(t), axis=-1)
    return 1.0 - 2.0 * overlap / tf.maximum(area, _EPSILON)
