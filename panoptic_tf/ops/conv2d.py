"""Convolution, padded symmetrically.

TensorFlow's 'same' padding with stride 2 puts the odd pixel right and bottom, which shifts every
feature map by a pixel against weights trained elsewhere. Here each side gets (k - 1) * d / 2 zeros.
"""

from __future__ import annotations

from typing import Optional

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops.recompute import recompute


@forms.op
def conv2d(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int = 1,
    dilation_rate: int = 1,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """Convolves [B, H, W, C] with [k, k, C / groups, D], k odd.

    Args:
      inputs: any float dtype.
      kernel: of the same dtype.
      strides: of both axes.
      dilation_rate: of both axes.
      training: whether gradients will be asked for.

    Returns:
      [B, ceil(H / strides), ceil(W / strides), D].
    """
    margin = (kernel.shape[0] - 1) * dilation_rate // 2

    def pad_and_convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(inputs, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
        return tf.nn.conv2d(padded, kernel, strides, "VALID", dilations=dilation_rate)

    # At stride 1 TensorFlow's 'same' is symmetric already, and needs no copy of the input.
    if strides == 1 or not margin:
        padding = "SAME" if strides == 1 else "VALID"
        outputs = tf.nn.conv2d(inputs, kernel, strides, padding, dilations=dilation_rate)
    elif training is True:
        outputs = recompute(pad_and_convolve, inputs, kernel)
    else:
        outputs = pad_and_convolve(inputs, kernel)
    if kernel.shape[2] == inputs.shape[-1]:
        return outputs
    # Keeps grappler from fusing what follows: only oneDNN's fused operator knows groups.
    return tf.ensure_shape(outputs, outputs.shape)
