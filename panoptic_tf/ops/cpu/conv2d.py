"""Gradients of grouped and of dilated convolutions by plain ones; without AVX512 by products.

Without oneDNN, which TensorFlow takes by itself only on processors with AVX512 and more, it has
none of these on CPUs. Where oneDNN is turned on without AVX512, its kernel gradient of a plain
convolution takes up to four times as long as a product of matrices for each tap of the kernel; the
gradient without oneDNN takes as long as these products.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, Callable, List, Optional, Tuple

import tensorflow as tf

from panoptic_tf.ops import conv2d as reference
from panoptic_tf.ops import forms

# A convolution with fewer channels leaves parts of the vector registers empty.
_MIN_DENSE_CHANNELS = 16

# With oneDNN: from as many weights of a tap on, a product for a row of taps is faster than one for
# each tap, and a product faster than TensorFlow's gradient of a 1x1 kernel.
_MIN_FOR_ROWS = 2**17
_MIN_FOR_PRODUCT = 2**20


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
    plain = functools.partial(_cut_up, strides=strides, dilation_rate=dilation_rate)
    is_dense = kernel.shape[2] == inputs.shape[-1]

    @tf.custom_gradient
    def special(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, ...]:
            with tf.GradientTape() as tape:
                tape.watch([inputs, kernel])
                outputs = _by_groups(plain, inputs, kernel)
            return tuple(tape.gradient(outputs, [inputs, kernel], upstream))

        return convolve(inputs, kernel), gradient

    if training is not True or (is_dense and dilation_rate == 1):
        return convolve(inputs, kernel, training=training)
    if is_dense and strides == 1:
        return _dense(inputs, kernel, dilation_rate, _kernel_gradient_of_parts)
    return special(inputs, kernel)


@forms.register(reference.conv2d, forms.Form.CPU_AVX2)
def conv2d_avx2(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int = 1,
    dilation_rate: int = 1,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """See the reference."""
    is_dense = kernel.shape[2] == inputs.shape[-1]
    pays = kernel.shape[0] > 1 or kernel.shape.num_elements() >= _MIN_FOR_PRODUCT
    if training is True and is_dense and strides == 1 and pays:
        return _dense(inputs, kernel, dilation_rate, _kernel_gradient_by_taps)
    return conv2d(inputs, kernel, strides=strides, dilation_rate=dilation_rate, training=training)


def _dense(
    inputs: tf.Tensor, kernel: tf.Tensor, dilation_rate: int, kernel_gradient: Callable[..., Any]
) -> tf.Tensor:
    """A dense convolution of stride 1."""

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
            # Convolving back is convolving with the kernel turned by half a turn.
            turned = tf.transpose(tf.reverse(kernel, axis=[0, 1]), [0, 1, 3, 2])
            of_inputs = tf.nn.conv2d(upstream, turned, 1, "SAME", dilations=dilation_rate)
            return of_inputs, kernel_gradient(inputs, upstream, kernel.shape, dilation_rate)

        return tf.nn.conv2d(inputs, kernel, 1, "SAME", dilations=dilation_rate), gradient

    return convolve(inputs, kernel)


def _kernel_gradient_of_parts(
    inputs: tf.Tensor, upstream: tf.Tensor, shape: tf.TensorShape, dilation_rate: int
) -> tf.Tensor:
    """That of a plain convolution of every r-th cell."""
    return tf.raw_ops.Conv2DBackpropFilter(
        input=_parts(inputs, dilation_rate),
        filter_sizes=shape,
        out_backprop=_parts(upstream, dilation_rate),
        strides=[1, 1, 1, 1],
        padding="SAME",
    )


def _kernel_gradient_by_taps(
    inputs: tf.Tensor, upstream: tf.Tensor, shape: tf.TensorShape, dilation_rate: int
) -> tf.Tensor:
    """[B, H, W, C], [B, H, W, D] -> [k, k, C, D]: cells times gradients, for a tap or a row."""
    size, _, channels, filters = shape
    at_once = size if channels * filters >= _MIN_FOR_ROWS else 1
    margin = (size - 1) * dilation_rate // 2
    padded = tf.pad(inputs, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
    cells = tf.shape(inputs)
    upstream = tf.reshape(upstream, [-1, filters])
    starts = [i * dilation_rate for i in range(size)]
    corners = list(itertools.product(starts, repeat=2))
    products: List[tf.Tensor] = []
    for first in range(0, len(corners), at_once):
        with tf.control_dependencies(products[-1:]):  # Few copies of the inputs at a time.
            taps = [
                tf.slice(padded, [0, row, column, 0], cells)
                for row, column in corners[first : first + at_once]
            ]
        side_by_side = tf.reshape(tf.concat(taps, axis=-1), [-1, at_once * channels])
        products.append(tf.matmul(side_by_side, upstream, transpose_a=True))
    return tf.reshape(tf.concat(products, axis=0), shape)


def _cut_up(inputs: tf.Tensor, kernel: tf.Tensor, *, strides: int, dilation_rate: int) -> tf.Tensor:
    """A dilated convolution as a plain one of every r-th cell, r^2 images in place of one."""
    convolve = forms.reference_of(reference.conv2d)
    if dilation_rate == 1:
        return convolve(inputs, kernel, strides=strides)
    outputs = convolve(_parts(inputs, dilation_rate), kernel)
    outputs = tf.batch_to_space(outputs, [dilation_rate] * 2, _missing(inputs, dilation_rate))
    return outputs[:, ::strides, ::strides]


def _parts(x: tf.Tensor, rate: int) -> tf.Tensor:
    """Every r-th cell: [B, H, W, C] -> [r * r * B, ceil(H / r), ceil(W / r), C]."""
    return tf.space_to_batch(x, [rate] * 2, _missing(x, rate))


def _missing(x: tf.Tensor, rate: int) -> List[List[Any]]:
    """What makes height and width multiples, after the last row and column."""
    sizes = (x.shape[axis] or tf.shape(x)[axis] for axis in (1, 2))
    return [[0, -size % rate] for size in sizes]


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
