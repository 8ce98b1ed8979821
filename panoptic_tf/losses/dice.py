"""Weighted dice loss: several masks predicted for each object (Panoptic FCN, arXiv:2012.00720)."""

from __future__ import annotations

from typing import Tuple

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
    overlap, area = _sums(tf.sigmoid(logits), tf.stop_gradient(targets))
    return tf.reduce_sum(weights * (1.0 - 2.0 * overlap / tf.maximum(area, _EPSILON)), axis=-1)


def weighted_dice_gradients(
    logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, upstream: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Gradients of `weighted_dice_loss`, for where its own, which keeps p, takes too much memory.

    With o = <p, t>, a = <p, p> + <t, t>: dL/dp_k = w_k 2 / a (2 o / a p_k - t), dp/dx = p (1 - p).

    Args:
      logits: see `weighted_dice_loss`.
      targets: see there.
      weights: see there.
      upstream: float32 [B, P], gradient with respect to the loss.

    Returns:
      of_logits: float32 [B, P, k, N].
      of_weights: float32 [B, P, k].
    """
    p = tf.sigmoid(logits)
    overlap, area = _sums(p, targets)
    ratio = 2.0 * overlap / tf.maximum(area, _EPSILON)
    upstream = upstream[..., tf.newaxis]
    scale = 2.0 * upstream * weights / tf.maximum(area, _EPSILON)
    along = tf.where(area >= _EPSILON, scale * ratio, 0.0)
    t = targets[:, :, tf.newaxis]  # [B, P, 1, N]
    of_p = along[..., tf.newaxis] * p - scale[..., tf.newaxis] * t
    return tf.raw_ops.SigmoidGrad(y=p, dy=of_p), upstream * (1.0 - ratio)


def _sums(p: tf.Tensor, targets: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """<p, t> and <p, p> + <t, t> of every mask, [B, P, k] each."""
    t = targets[:, :, tf.newaxis]  # [B, P, 1, N]
    overlap = tf.matmul(p, t, transpose_b=True)[..., 0]
    return overlap, tf.reduce_sum(tf.square(p), axis=-1) + tf.reduce_sum(tf.square(t), axis=-1)
