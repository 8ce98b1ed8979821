"""Depthwise convolution whose 5x5 kernel gradient is fast on CPU.

oneDNN has a vectorised kernel gradient for 3x3 depthwise convolutions but not for 5x5. The taps of
a 5x5 kernel are those of four 3x3 kernels, starting at tap 0 or 2 in each direction; the four 3x3
gradients together take a half (float32) to a tenth (bfloat16) of the time of the one 5x5 gradient.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import tensorflow as tf

from panoptic_tf.layers import operators

_NO_STRIDE = (1, 1, 1, 1)


@tf.custom_gradient
def depthwise_conv_5x5(
    inputs: tf.Tensor, kernel: tf.Tensor
) -> Tuple[tf.Tensor, Callable[[tf.Tensor], Tuple[tf.Tensor, tf.Tensor]]]:
    """Convolves [B, H, W, C] with [5, 5, C, 1], stride 1, zero padded to the same size."""
    outputs = tf.nn.depthwise_conv2d(inputs, kernel, _NO_STRIDE, "SAME")

    def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        # Convolving back is convolving with the kernel turned by half a turn.
        turned = tf.reverse(kernel, axis=[0, 1])
        wrt_inputs = tf.nn.depthwise_conv2d(upstream, turned, _NO_STRIDE, "SAME")
        return wrt_inputs, _kernel_gradient(inputs, upstream)

    return outputs, gradient


def _kernel_gradient(inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] twice -> [5, 5, C, 1]."""
    channels = inputs.shape[-1]

    def taps(rows: Tuple[int, int], columns: Tuple[int, int]) -> tf.Tensor:
        return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=tf.pad(inputs, [[0, 0], rows, columns, [0, 0]]),
            filter_sizes=[3, 3, channels, 1],
            out_backprop=upstream,
            strides=_NO_STRIDE,
            padding="VALID",
        )

    first, last = (2, 0), (0, 2)  # padding that lines up taps 0..2, taps 2..4
    top = tf.concat([taps(first, first), taps(first, last)[:, 1:]], axis=1)
    bottom = tf.concat([taps(last, first), taps(last, last)[:, 1:]], axis=1)
    return tf.concat([top, bottom[1:]], axis=0)


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class DepthwiseConv2D(tf.keras.layers.DepthwiseConv2D):
    """Keras's layer, with `depthwise_conv_5x5` where it applies: training on CPU."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        plain = self.strides == (1, 1) and self.dilation_rate == (1, 1)
        self._is_plain_5x5 = (
            plain
            and self.kernel_size == (5, 5)
            and self.padding == "same"
            and self.data_format == "channels_last"
            and self.depth_multiplier == 1
        )

    @tf.autograph.experimental.do_not_convert
    def call(
        self,
        inputs: tf.Tensor,
        training: Optional[bool] = None,
        scale: Optional[tf.Tensor] = None,
        shift: Optional[tf.Tensor] = None,
    ) -> tf.Tensor:
        """[B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), C].

        Args:
          inputs: see above.
          training: whether gradients will be asked for.
          scale: float32 [C], of the result; the kernel is multiplied with it, which is cheaper.
          shift: float32 [C], added to the scaled result.
        """
        is_fast = training is True and self._is_plain_5x5 and not operators.has_accelerator()
        if scale is None and not is_fast:
            return super().call(inputs)
        kernel, bias = self.depthwise_kernel, self.bias if self.use_bias else None
        if scale is not None:
            kernel = tf.cast(kernel, tf.float32) * scale[:, tf.newaxis]
            bias = shift if bias is None else bias * scale + shift
        kernel = tf.cast(kernel, inputs.dtype)
        x = depthwise_conv_5x5(inputs, kernel) if is_fast else self._convolve(inputs, kernel)
        if bias is not None:
            x = tf.nn.bias_add(x, tf.cast(bias, x.dtype))
        return x if self.activation is None else self.activation(x)

    def _convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.depthwise_conv2d(
            inputs,
            kernel,
            strides=[1, *self.strides, 1],
            padding=self.padding.upper(),
            dilations=self.dilation_rate,
        )
