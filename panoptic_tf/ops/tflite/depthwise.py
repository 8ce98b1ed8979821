"""Dilated depthwise convolution as one operator.

TensorFlow's own function cuts the input up, and the converter puts the pieces together only where
one convolution reads them. The ASPPs of two branches share them, and delegates do not cut.
"""

from __future__ import annotations

from typing import Optional

import tensorflow as tf

from panoptic_tf.ops import depthwise as reference
from panoptic_tf.ops import forms


@forms.register(reference.depthwise_conv2d, forms.Form.TFLITE)
def depthwise_conv2d(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int = 1,
    dilation_rate: int = 1,
    padding: str = "SAME",
    training: Optional[bool] = None,
) -> tf.Tensor:
    """See the reference."""
    if training is not True and dilation_rate > 1 and strides == 1:
        return tf.raw_ops.DepthwiseConv2dNative(
            input=inputs,
            filter=kernel,
            strides=[1, 1, 1, 1],
            padding=padding,
            dilations=[1, dilation_rate, dilation_rate, 1],
        )
    plain = forms.reference_of(reference.depthwise_conv2d)
    return plain(
        inputs,
        kernel,
        strides=strides,
        dilation_rate=dilation_rate,
        padding=padding,
        training=training,
    )
