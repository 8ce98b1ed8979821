"""Sigmoid focal loss (arXiv:1708.02002, equation 5) against soft targets."""

from __future__ import annotations

from typing import Callable, Tuple

import tensorflow as tf

_TINY = 1e-12


def sigmoid_focal_loss(
    logits: tf.Tensor, targets: tf.Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> tf.Tensor:
    """The loss of every element, with p = sigmoid(x) and a target t of 0 to 1.

    L = a m^gamma CE(x, t), a = alpha t + (1 - alpha) (1 - t), m = p (1 - t) + t (1 - p) = 1 - p_t.
    The article has t in {0, 1}. Between them the weights are mixed linearly, which is what the
    authors of Panoptic FCN (arXiv:2012.00720) do with the slopes of their Gaussians.

    Args:
      logits: float32 of any shape.
      targets: float32 of the same shape; they get no gradient.
      alpha: weight of foreground against background, 0..1.
      gamma: exponent of the modulating factor, not negative.

    Returns:
      float32 of the same shape.
    """
    targets = tf.stop_gradient(targets)

    @tf.custom_gradient
    def loss(x: tf.Tensor) -> Tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        p = tf.sigmoid(x)
        entropy = tf.nn.softplus(x) - x * targets  # derivative: p - t
        turn = 1.0 - 2.0 * targets  # dm/dp
        factor, factor_slope = _modulate(targets + turn * p, gamma)
        weights = (1.0 - alpha) + (2.0 * alpha - 1.0) * targets
        # The derivative is all that is kept until the backward pass.
        m_slope = tf.raw_ops.SigmoidGrad(y=p, dy=turn)  # dm/dx = dm/dp p (1 - p)
        slope = weights * ((p - targets) * factor + entropy * factor_slope * m_slope)
        return weights * factor * entropy, lambda upstream: upstream * slope

    return loss(logits)


def _modulate(m: tf.Tensor, gamma: float) -> Tuple[tf.Tensor, tf.Tensor]:
    """m^gamma and its derivative by m."""
    if gamma == 2.0:
        return tf.square(m), 2.0 * m
    m = tf.maximum(m, _TINY)
    return tf.pow(m, gamma), gamma * tf.pow(m, gamma - 1.0)
