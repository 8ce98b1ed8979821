"""Weighted regression losses on dense maps."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf


class WeightedMeanSquaredError(tf.keras.layers.Layer):
    """sum w (p - t)^2 / sum w: the center heatmap's loss (arXiv:1911.10194, section 3.3)."""

    def __init__(self, *, name: str = "weighted_mean_squared_error"):
        super().__init__(name=name, dtype=tf.float32)

    def call(
        self, predictions: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """Computes the loss.

        Args:
          predictions, targets: float32 [B, H, W, C].
          weights: float32 [B, H, W, 1].

        Returns:
          weighted_sum, normalizer: float32 [B] each; the normaliser counts each pixel once.
        """
        return _weighted(tf.math.squared_difference(predictions, targets), weights)


class WeightedAbsoluteError(tf.keras.layers.Layer):
    """sum w |p - t| / sum w: the offsets' loss; both coordinates share one count of pixels."""

    def __init__(self, *, name: str = "weighted_absolute_error"):
        super().__init__(name=name, dtype=tf.float32)

    def call(
        self, predictions: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """Computes the loss; arguments and results as in `WeightedMeanSquaredError.call`."""
        return _weighted(tf.abs(predictions - targets), weights)


def _weighted(losses: tf.Tensor, weights: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    axes = [1, 2, 3]
    return tf.reduce_sum(losses * weights, axis=axes), tf.reduce_sum(weights, axis=axes)
