"""Sigmoid focal loss (arXiv:1708.02002, equation 5) against soft targets."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_TINY = 1e-12


def sigmoid_focal_loss(
    logits: tf.Tensor, targets: tf.Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> tf.Tensor:
    """The loss of every element, with p = sigmoid(x) and a target t of 0 to 1.

    L = a m^gamma CE(x, t), a = alpha t + (1 - alpha) (1 - t), m = p (1 - t) + t (1 - p) = 1 - p_t.
    The article has t in {0, 1}. Between them the weights are mixed linearly, which is what the
    authors of Panoptic FCN (arXiv:2012.00720) do with the slopes of their Gaussians.

    Its slope, a (gamma m^(gamma - 1) (1 - 2 t) p (1 - p) CE + m^gamma (p - t)), is computed along
    with it: nothing else is kept for the gradient.

    Args:
      logits: float32 of any shape.
      targets: float32 of the same shape; they get no gradient.
      alpha: weight of foreground against background, 0..1.
      gamma: exponent of the modulating factor, not negative.

    Returns:
      float32 of the same shape.
    """
    targets = tf.stop_gradient(targets)
    weights = (1.0 - alpha) + (2.0 * alpha - 1.0) * targets
    sign = 1.0 - 2.0 * targets

    @tf.custom_gradient
    def loss(logits: tf.Tensor) -> Any:
        p = tf.sigmoid(logits)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        m = tf.maximum(targets + sign * p, _TINY)
        factor = tf.square(m) if gamma == 2.0 else tf.pow(m, gamma)
        weighted = weights * factor
        slope = weighted * (gamma / m * sign * p * (1.0 - p) * entropy + (p - targets))
        return weighted * entropy, lambda upstream: upstream * slope

    return loss(logits)
