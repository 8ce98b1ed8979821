"""Gradients of a grouped convolution by dense ones: without oneDNN, TensorFlow has none on CPU."""

from __future__ import annotations

import functools
import math
from typing import Any, Callable, Optional, Tuple

import tensorflow as tf

from panoptic_tf.ops import conv2d as reference
from panoptic_tf.ops import forms

# A convolution with fewer channels leaves parts of the vector registers empty.
_MIN_DENSE_CHANNELS = 16


@forms.register(reference.conv2d, forms.Form.CPU)
def conv2d(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int = 1,
    dilation_rate: int = 1,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """See the reference."""
    convolve = functools.partial(
        forms.reference_of(reference.conv2d), strides=strides, dilation_rate=dilation_rate
    )

    @tf.custom_gradient
    def grouped(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, ...]:
            with tf.GradientTape() as tape:
                tape.watch([inputs, kernel])
                outputs = _by_groups(convolve, inputs, kernel)
            return tuple(tape.gradient(outputs, [inputs, kernel], upstream))

        return convolve(inputs, kernel), gradient

    if training is True and kernel.shape[2] != inputs.shape[-1]:
        return grouped(inputs, kernel)
    return convolve(inputs, kernel, training=training)


def _by_groups(
    convolve: Callable[..., tf.Tensor], inputs: tf.Tensor, kernel: tf.Tensor
) -> tf.Tensor:
    """Grouped convolution as dense ones; narrow groups share one with a block-diagonal kernel."""
    size, _, channels, filters = kernel.shape  # channels of a group, filters of all
    groups = inputs.shape[-1] // channels
    shared = math.gcd(groups, max(1, _MIN_DENSE_CHANNELS // channels))
    parts = groups // shared
    # [k * k, 1, c, parts, shared, d] x [shared, 1, 1, shared, 1]
    kernel = tf.reshape(kernel, [size**2, 1, channels, parts, shared, filters // groups])
    kernel *= tf.eye(shared, dtype=kernel.dtype)[:, None, None, :, None]
    kernel = tf.reshape(kernel, [size, size, shared * channels, filters])
    pairs = zip(tf.split(inputs, parts, axis=-1), tf.split(kernel, parts, axis=-1))
    return tf.concat([convolve(*pair) for pair in pairs], axis=-1)
