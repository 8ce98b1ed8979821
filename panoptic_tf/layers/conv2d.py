"""The layer of `ops.conv2d`."""

from __future__ import annotations

from typing import Any, Optional

import tensorflow as tf

from panoptic_tf.ops.conv2d import conv2d


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
          training: see `ops.conv2d`.
          scale: float32 [D], of the result; the kernel is multiplied with it, which is cheaper.
          shift: float32 [D], added to the scaled result.
        """
        kernel, bias = self.kernel, self.bias
        if scale is not None:
            kernel = kernel * scale
            bias = shift if bias is None else bias * scale + shift
        x = self.convolve(inputs, kernel, training=training)
        return x if bias is None else tf.nn.bias_add(x, tf.cast(bias, x.dtype))

    def convolve(
        self, inputs: tf.Tensor, kernel: tf.Tensor, *, training: Optional[bool]
    ) -> tf.Tensor:
        """Convolves [B, H, W, C] with another kernel, of any float dtype, and adds nothing."""
        return conv2d(
            inputs,
            tf.cast(kernel, inputs.dtype),
            strides=self.strides,
            dilation_rate=self.dilation_rate,
            training=training,
        )
