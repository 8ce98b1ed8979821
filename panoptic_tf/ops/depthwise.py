"""Depthwise convolution."""

from __future__ import annotations

from typing import Optional

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops.recompute import recompute


@forms.op
def depthwise_conv2d(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int = 1,
    dilation_rate: int = 1,
    padding: str = "SAME",
    training: Optional[bool] = None,
) -> tf.Tensor:
    """Convolves each channel of [B, H, W, C] with its own kernels, of [k, k, C, M].

    Args:
      inputs: any float dtype.
      kernel: of the same dtype.
      strides: of both axes.
      dilation_rate: of both axes.
      padding: TensorFlow's `SAME` or `VALID`.
      training: whether gradients will be asked for.

    Returns:
      [B, h, w, C * M].
    """

    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.depthwise_conv2d(
            inputs, kernel, [1, strides, strides, 1], padding, dilations=[dilation_rate] * 2
        )

    if training is True and dilation_rate > 1:
        # TensorFlow pads the input and cuts it up, into several times its size.
        return recompute(convolve, inputs, kernel)
    return convolve(inputs, kernel)
