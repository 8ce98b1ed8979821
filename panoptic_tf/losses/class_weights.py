"""Weights of pixels by their category, for semantic losses."""

from __future__ import annotations

from typing import Sequence

import tensorflow as tf


def weigh_pixels(category_mask: tf.Tensor, class_weights: Sequence[float]) -> tf.Tensor:
    """The weight of every pixel.

    Args:
      category_mask: integers [B, H, W], channel + 1 of the semantic logits, 0 is void.
      class_weights: by channel, N.

    Returns:
      float32 [B, H, W], 0 on void.
    """
    table = tf.constant([0.0, *class_weights], tf.float32)
    # TensorFlow computes int32 on the host.
    return tf.gather(table, tf.cast(category_mask, tf.int64))
