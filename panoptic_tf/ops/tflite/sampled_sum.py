"""Weighted sums of rows for TFLite and ONNX, a summand at a time."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops import sampled_sum as reference


@forms.register(reference.sampled_sum, forms.Form.TFLITE, forms.Form.ONNX)
def sampled_sum(cells: tf.Tensor, index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """See the reference."""
    indices, weights = tf.unstack(index, axis=1), tf.unstack(weight[..., tf.newaxis], axis=1)
    terms = (tf.gather(cells, i) * w for i, w in zip(indices, weights))  # [M, C] each
    total = next(terms)
    for term in terms:
        total += term
    return total
