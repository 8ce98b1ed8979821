"""ONNX Runtime's own has an absolute error of 6e-8 and is 0 below -18."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops import sigmoid as reference


@forms.register(reference.sigmoid, forms.Form.ONNX)
def sigmoid(logits: tf.Tensor) -> tf.Tensor:
    """See the reference."""
    return 1.0 / (1.0 + tf.exp(-logits))
