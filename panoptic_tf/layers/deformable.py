"""Layers of `ops.deformable_conv2d` whose offsets and modulation come from the same input."""

from __future__ import annotations

from typing import Any, Optional

import tensorflow as tf

from panoptic_tf.layers import conv2d, convolution
from panoptic_tf.ops.deformable_conv2d import deform_conv2d


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class DeformableConv2D(tf.keras.layers.Layer):
    """Deformable convolution that predicts its offsets by a convolution of the same input.

    Variables `kernel` [k, k, C, D], `bias` [D] if asked for, `offset/kernel` and `offset/bias`. The
    latter two are zero at first: the layer is an ordinary convolution, times 1/2 if modulated. The
    offset convolution has 2 * G * k * k channels for the offsets (see `deform_conv2d`), then, if
    modulated, G * k * k whose sigmoid is the modulation.

    Args:
      filters: D.
      kernel_size: k, odd.
      strides: of both axes.
      dilation_rate: of both axes.
      deformable_groups: G; must divide C.
      modulated: version 2, else version 1.
      use_bias: whether there is a bias.
      kernel_initializer: of Keras.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        *,
        strides: int = 1,
        dilation_rate: int = 1,
        deformable_groups: int = 1,
        modulated: bool = True,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"{self.name}: kernel_size must be odd, got {kernel_size}.")
        self._settings = {
            "filters": filters,
            "kernel_size": kernel_size,
            "strides": strides,
            "dilation_rate": dilation_rate,
            "deformable_groups": deformable_groups,
            "modulated": modulated,
            "use_bias": use_bias,
        }
        self.use_bias = use_bias
        self.kernel_initializer = tf.keras.initializers.get(kernel_initializer)
        self._num_offsets = 2 * deformable_groups * kernel_size**2
        self.offset = conv2d.Conv2D(
            self._num_offsets * 3 // 2 if modulated else self._num_offsets,
            kernel_size,
            strides=strides,
            dilation_rate=dilation_rate,
            kernel_initializer="zeros",
            name="offset",
        )

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the variables.

        Raises:
          ValueError: the groups do not divide the channels.
        """
        settings, channels = self._settings, int(input_shape[-1])
        if channels % settings["deformable_groups"]:
            raise ValueError(
                f"{self.name}: deformable_groups must divide the channels, got "
                f"{settings['deformable_groups']} groups and {channels} channels."
            )
        shape = (*[settings["kernel_size"]] * 2, channels, settings["filters"])
        # See `conv2d.Conv2D`.
        options = {"dtype": tf.float32, "experimental_autocast": False}
        self.kernel = self.add_weight(
            "kernel", shape, initializer=self.kernel_initializer, **options
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight("bias", shape[-1:], initializer="zeros", **options)
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
          training: see `deform_conv2d`.
          scale: see `conv2d.Conv2D`.
          shift: see `conv2d.Conv2D`.
        """
        predicted = tf.cast(self.offset(inputs, training=training), tf.float32)
        modulation = None
        if self._settings["modulated"]:
            modulation = tf.sigmoid(predicted[..., self._num_offsets :])
        kernel, bias = self.kernel, self.bias
        if scale is not None:
            kernel = kernel * scale
            bias = shift if bias is None else bias * scale + shift
        names = ("strides", "dilation_rate", "deformable_groups")
        x = deform_conv2d(
            inputs,
            predicted[..., : self._num_offsets],
            tf.cast(kernel, inputs.dtype),
            modulation=modulation,
            training=training,
            **{name: self._settings[name] for name in names},
        )
        return x if bias is None else tf.nn.bias_add(x, tf.cast(bias, x.dtype))


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class DeformableConvNormAct(convolution.FoldingNormAct):
    """Deformable convolution, normalisation, activation; variables `conv/kernel`, `norm/gamma`, ...

    Args:
      filters: output channels.
      kernel_size: odd.
      deformable_groups: see `DeformableConv2D`.
      modulated: see `DeformableConv2D`.
      **kwargs: as of `convolution.ConvNormAct`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        *,
        deformable_groups: int = 1,
        modulated: bool = True,
        **kwargs: Any,
    ):
        super().__init__(filters, kernel_size=kernel_size, **kwargs)
        self.conv = DeformableConv2D(
            deformable_groups=deformable_groups, modulated=modulated, **self._conv_options
        )
