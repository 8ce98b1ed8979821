"""Deformable convolution, version 1 (arXiv:1703.06211) and modulated, version 2 (arXiv:1811.11168).

y(p) = sum over taps k of w_k * x(p + p_k + dp_k(p)) * dm_k(p), where x is bilinear between cells
and zero outside the map, and dp and dm are computed from x. Version 1 has no dm.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.layers import conv2d, convolution, deformable_sampling


def deform_conv2d(
    inputs: tf.Tensor,
    offsets: tf.Tensor,
    kernel: tf.Tensor,
    *,
    modulation: Optional[tf.Tensor] = None,
    strides: int = 1,
    dilation_rate: int = 1,
    deformable_groups: int = 1,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """Convolves [B, H, W, C] with [k, k, C, D], k odd, each tap moved by an offset.

    Args:
      inputs: any float dtype.
      offsets: float32 [B, h, w, G * k * k * 2] in cells, (y, x) of every tap in row order, group by
        group; h and w are the size of the result.
      kernel: of the inputs' dtype.
      modulation: float32 [B, h, w, G * k * k], by which samples are multiplied; None is 1.
      strides: of both axes.
      dilation_rate: of both axes.
      deformable_groups: G, parts of the input channels with offsets of their own.
      training: whether gradients will be asked for, which are fast then.

    Returns:
      [B, h, w, D] of the inputs' dtype, where h = ceil(H / strides), w = ceil(W / strides).
    """
    batch, height, width, channels = _sizes(inputs)
    out_height, out_width = _sizes(offsets)[1:3]
    samples = kernel.shape[0] ** 2 * deformable_groups
    y, x = _positions(offsets, kernel.shape[0], strides, dilation_rate, deformable_groups)
    if modulation is not None:
        modulation = _by_tap(modulation, deformable_groups)
    first = tf.range(batch)[:, tf.newaxis, tf.newaxis] * (height * width)
    group = np.tile(np.arange(deformable_groups, dtype=np.int32), kernel.shape[0] ** 2)

    def in_batch(corner: deformable_sampling.Corner) -> deformable_sampling.Corner:
        shape = [batch, out_height * out_width, samples]
        index = (tf.reshape(corner.index, shape) + first) * deformable_groups + group
        return deformable_sampling.Corner(index, tf.reshape(corner.weight, shape))

    corners = deformable_sampling.find_corners(y, x, height, width, modulation)
    outputs = deformable_sampling.sampled_product(
        tf.reshape(tf.cast(inputs, tf.float32), [-1, channels // deformable_groups]),
        [in_batch(corner) for corner in corners],
        tf.reshape(kernel, [-1, kernel.shape[-1]]),
        training=training,
    )
    return tf.reshape(outputs, [batch, out_height, out_width, kernel.shape[-1]])


def _sizes(x: tf.Tensor) -> Tuple[Any, ...]:
    """Plain integers where static."""
    shape = tf.shape(x)
    return tuple(shape[i] if size is None else size for i, size in enumerate(x.shape))


def _by_tap(x: tf.Tensor, groups: int) -> tf.Tensor:
    """[B, h, w, G * k * k] -> [B, h, w, k * k * G]: groups are neighbours, as channels are."""
    if groups == 1:
        return x
    batch, height, width, samples = _sizes(x)
    x = tf.reshape(x, [-1, groups, samples // groups])
    return tf.reshape(tf.transpose(x, [0, 2, 1]), [batch, height, width, samples])


def _positions(
    offsets: tf.Tensor, size: int, strides: int, dilation_rate: int, groups: int
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Where taps read, y and x: [B, h, w, k * k * G] each."""
    batch, height, width, channels = _sizes(offsets)
    pairs = tf.reshape(tf.cast(offsets, tf.float32), [batch, height, width, channels // 2, 2])
    y, x = (_by_tap(part, groups) for part in tf.unstack(pairs, axis=-1))
    taps = (np.arange(size, dtype=np.float32) - (size - 1) // 2) * dilation_rate
    taps_y, taps_x = (np.repeat(part, groups) for part in np.meshgrid(taps, taps, indexing="ij"))
    rows, columns = (
        tf.range(count, dtype=tf.float32)[:, tf.newaxis] * strides for count in (height, width)
    )
    return y + (rows + taps_y)[:, tf.newaxis], x + (columns + taps_x)


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

    def get_config(self) -> Dict[str, Any]:
        """Arguments of the constructor."""
        initializer = tf.keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), **self._settings, "kernel_initializer": initializer}


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
        options = {"deformable_groups": deformable_groups, "modulated": modulated}
        self._settings.update(options)
        self.conv = DeformableConv2D(**self._conv_options, **options)
