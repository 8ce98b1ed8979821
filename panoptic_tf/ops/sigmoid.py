"""The sigmoid of logits whose small probabilities compete."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.ops import forms


@forms.op
def sigmoid(logits: tf.Tensor) -> tf.Tensor:
    """1 / (1 + exp(-x)), whose relative error is small also where it is next to 0.

    Args:
      logits: float32, of any shape.

    Returns:
      float32 of the same shape, 0..1.
    """
    return tf.sigmoid(logits)
