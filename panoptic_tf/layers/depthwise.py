"""The layer of `ops.depthwise`."""

from __future__ import annotations

from typing import Optional

import tensorflow as tf

from panoptic_tf.ops.depthwise import depthwise_conv2d


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class DepthwiseConv2D(tf.keras.layers.DepthwiseConv2D):
    """Keras's layer, whose kernel can be scaled in the call; channels are last."""

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
        kernel, bias = self.depthwise_kernel, self.bias if self.use_bias else None
        if scale is not None:
            kernel = tf.cast(kernel, tf.float32) * scale[:, tf.newaxis]
            bias = shift if bias is None else bias * scale + shift
        x = depthwise_conv2d(
            inputs,
            tf.cast(kernel, inputs.dtype),
            strides=self.strides[0],
            dilation_rate=self.dilation_rate[0],
            padding=self.padding.upper(),
            training=training,
        )
        if bias is not None:
            x = tf.nn.bias_add(x, tf.cast(bias, x.dtype))
        return x if self.activation is None else self.activation(x)
