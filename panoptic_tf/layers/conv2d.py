"""Convolution, padded symmetrically, whose gradients are fast on CPU.

TensorFlow's 'same' padding with stride 2 puts the odd pixel right and bottom, which shifts every
feature map by a pixel against weights trained elsewhere. Here each side gets (k - 1) * d / 2 zeros.

Two gradients are not TensorFlow's where a network trains on CPU. The kernel gradient of 1x1 kernels
and of large maps is one matrix product per tap, which takes two thirds of the time. The gradients
of a grouped convolution are those of dense ones; without oneDNN, TensorFlow has none.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Callable, Dict, Optional, Tuple

import tensorflow as tf

from panoptic_tf.layers import operators

Convolution = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Gradients = Tuple[tf.Tensor, tf.Tensor]

# Input and output of one image together; a larger map does not stay in the cache between taps.
_LARGE_MAP_BYTES = 16_000_000
# A convolution with fewer channels leaves parts of the vector registers empty.
_MIN_DENSE_CHANNELS = 16


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
    if strides > 1 and margin:
        inputs = tf.pad(inputs, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
    convolve = functools.partial(
        tf.nn.conv2d,
        strides=strides,
        # At stride 1 TensorFlow's 'same' is symmetric already, and needs no copy of the input.
        padding="SAME" if strides == 1 else "VALID",
        dilations=dilation_rate,
    )
    on_cpu = training is True and not operators.has_accelerator()
    if kernel.shape[2] != inputs.shape[-1]:
        if on_cpu:
            convolve = _with_gradients(convolve, functools.partial(_grouped_gradients, convolve))
        outputs = convolve(inputs, kernel)
        # Keeps grappler from fusing what follows: only oneDNN's fused operator knows groups.
        return tf.ensure_shape(outputs, outputs.shape)
    if on_cpu and strides == dilation_rate == 1 and _is_product_faster(inputs, kernel):
        convolve = _with_gradients(convolve, _gradients_by_products)
    return convolve(inputs, kernel)


def _with_gradients(
    convolve: Convolution, gradients: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Gradients]
) -> Convolution:
    """The same function with gradients(inputs, kernel, upstream) of its own."""

    @tf.custom_gradient
    def function(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        return convolve(inputs, kernel), lambda upstream: gradients(inputs, kernel, upstream)

    return function


# Matrix products


def _is_product_faster(inputs: tf.Tensor, kernel: tf.Tensor) -> bool:
    height, width = inputs.shape[1:3]
    size, _, channels, filters = kernel.shape
    if not height or not width:
        return False
    if size == 1:
        return min(channels, filters) >= 64
    map_bytes = height * width * (channels + filters) * inputs.dtype.size
    return min(channels, filters) >= 128 and map_bytes >= _LARGE_MAP_BYTES


def _gradients_by_products(inputs: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor) -> Gradients:
    wrt_inputs = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(inputs),
        filter=kernel,
        out_backprop=upstream,
        strides=(1, 1, 1, 1),
        padding="SAME",
    )
    return wrt_inputs, _kernel_gradient(inputs, upstream, kernel.shape[0])


def _kernel_gradient(inputs: tf.Tensor, upstream: tf.Tensor, size: int) -> tf.Tensor:
    """[B, H, W, C] and [B, H, W, D] -> [size, size, C, D].

    dK[i, j] = sum over cells p of inputs[p + (i, j)]^T upstream[p]. Both maps are padded to the
    same rows, then a shift by (i, j) is an offset into the flat list of cells, which costs nothing.
    """
    height, width, channels = inputs.shape[1:]
    filters, border = upstream.shape[-1], size - 1
    if border:
        around, after = (border // 2, border // 2), (0, border)
        inputs = tf.pad(inputs, [[0, 0], around, around, [0, 0]])
        upstream = tf.pad(upstream, [[0, 0], after, after, [0, 0]])
    row = width + border
    offsets = [i * row + j for i in range(size) for j in range(size)]
    inputs = tf.reshape(inputs, [-1, channels])  # [B * rows * row, C]
    upstream = tf.reshape(upstream, [-1, filters])
    count = tf.shape(inputs)[0] - offsets[-1]
    upstream = upstream[:count]
    taps = [
        tf.matmul(inputs[offset : offset + count], upstream, transpose_a=True) for offset in offsets
    ]
    return tf.reshape(tf.stack(taps), [size, size, channels, filters])


# Groups


def _grouped_gradients(
    convolve: Convolution, inputs: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor
) -> Gradients:
    with tf.GradientTape() as tape:
        tape.watch([inputs, kernel])
        outputs = _convolve_by_groups(convolve, inputs, kernel)
    return tuple(tape.gradient(outputs, [inputs, kernel], upstream))


def _convolve_by_groups(convolve: Convolution, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
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


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class Conv2D(tf.keras.layers.Layer):
    """Convolution, variables `kernel` [k, k, C / groups, D] and, if asked for, `bias` [D].

    Args:
      filters: D.
      kernel_size: k, odd.
      strides: of both axes.
      dilation_rate: of both axes.
      groups: must divide C and D.
      use_bias: whether there is a bias.
      kernel_initializer: of Keras.
      bias_initializer: of Keras.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        dilation_rate: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.dilation_rate = dilation_rate
        self.groups = groups
        self.use_bias = use_bias
        self.kernel_initializer = tf.keras.initializers.get(kernel_initializer)
        self.bias_initializer = tf.keras.initializers.get(bias_initializer)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the variables.

        Raises:
          ValueError: the groups do not divide the channels.
        """
        channels = int(input_shape[-1])
        if channels % self.groups or self.filters % self.groups:
            raise ValueError(
                f"{self.name}: groups must divide the channels, got {self.groups} groups, "
                f"{channels} input and {self.filters} output channels."
            )
        shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.filters)
        # Read as float32 under every policy: `call` casts after scaling.
        options = {"dtype": tf.float32, "experimental_autocast": False}
        self.kernel = self.add_weight(
            "kernel", shape, initializer=self.kernel_initializer, **options
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                "bias", (self.filters,), initializer=self.bias_initializer, **options
            )
        super().build(input_shape)

    @tf.autograph.experimental.do_not_convert
    def call(
        self,
        inputs: tf.Tensor,
        training: Optional[bool] = None,
        scale: Optional[tf.Tensor] = None,
        shift: Optional[tf.Tensor] = None,
    ) -> tf.Tensor:
        """[B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), D].

        Args:
          inputs: see above.
          training: see `conv2d`.
          scale: float32 [D], of the result; the kernel is multiplied with it, which is cheaper.
          shift: float32 [D], added to the scaled result.
        """
        kernel, bias = self.kernel, self.bias
        if scale is not None:
            kernel = kernel * scale
            bias = shift if bias is None else bias * scale + shift
        x = conv2d(
            inputs,
            tf.cast(kernel, inputs.dtype),
            strides=self.strides,
            dilation_rate=self.dilation_rate,
            training=training,
        )
        return x if bias is None else tf.nn.bias_add(x, tf.cast(bias, x.dtype))

    def get_config(self) -> Dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "use_bias": self.use_bias,
            "kernel_initializer": tf.keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": tf.keras.initializers.serialize(self.bias_initializer),
        }
