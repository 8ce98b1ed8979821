"""Convolution, normalisation and activation in one layer, padded symmetrically."""

from __future__ import annotations

import functools
from typing import Any, Callable, Optional, Sequence, Union

import tensorflow as tf

from panoptic_tf.layers import conv2d, normalization
from panoptic_tf.layers import depthwise as depthwise_layers

Initializer = Union[str, tf.keras.initializers.Initializer]

_SCALES = {"msra": (2.0, "untruncated_normal"), "xavier": (1.0, "uniform")}


def build_initializer(initializer: Initializer, *, depthwise: bool = False) -> Any:
    """Builds a kernel initialiser.

    Args:
      initializer: `msra` (normal, variance 2 / fan out, arXiv:1502.01852), `xavier` (uniform,
        variance 1 / fan in), or anything Keras knows.
      depthwise: whether the kernel is [k, k, C, 1]; both fans are then k * k.
    """
    if initializer not in _SCALES:
        return tf.keras.initializers.get(initializer)
    scale, distribution = _SCALES[initializer]
    # Keras reads the fan out of [k, k, C, 1] as k * k.
    mode = "fan_out" if depthwise or initializer == "msra" else "fan_in"
    return tf.keras.initializers.VarianceScaling(scale, mode=mode, distribution=distribution)


class _NormAct(tf.keras.layers.Layer):
    """Convolves, normalises, activates; a subclass makes `conv` from `_conv_options`."""

    def __init__(
        self,
        *,
        kernel_size: int = 1,
        strides: int = 1,
        dilation_rate: int = 1,
        norm: str = "batch",
        activation: Any = "relu",
        use_bias: Optional[bool] = None,
        kernel_initializer: Initializer = "msra",
        norm_momentum: float = 0.9,
        norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"{self.name}: kernel_size must be odd, got {kernel_size}.")
        self._kernel_initializer = kernel_initializer
        self._conv_options = {
            "kernel_size": kernel_size,
            "strides": strides,
            "dilation_rate": dilation_rate,
            "use_bias": norm == "none" if use_bias is None else use_bias,
            "name": "conv",
        }
        self.norm = normalization.build_norm(
            norm, momentum=norm_momentum, epsilon=norm_epsilon, name="norm"
        )
        self._activation = tf.keras.activations.get(activation)

    def call(
        self, inputs: tf.Tensor, training: Optional[bool] = None, *, is_linear: bool = False
    ) -> tf.Tensor:
        """[B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), filters].

        Args:
          inputs: see above.
          training: whether gradients will be asked for.
          is_linear: only convolves; `norm_act` does the rest.
        """
        if is_linear:
            return self.conv(inputs, training=training)
        if not normalization.is_constant(self.norm, training):
            return self.norm_act(self.conv(inputs, training=training), training)
        scale, shift = normalization.scale_and_shift(self.norm)
        return self._activation(self.conv(inputs, training=training, scale=scale, shift=shift))

    def norm_act(
        self,
        x: tf.Tensor,
        training: Optional[bool],
        then: Callable[..., tf.Tensor] = lambda y: y,
        others: Sequence[tf.Tensor] = (),
    ) -> tf.Tensor:
        """then(y, *others) of the normalised and activated; see `normalization.SyncBatchNorm`."""

        def activate(y: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
            return then(self._activation(y), *others)

        if isinstance(self.norm, normalization.SyncBatchNorm):
            return self.norm(x, training=training, then=activate, others=others)
        return activate(self.norm(x, training=training), *others)

    def _build_norm(self, channels: int) -> None:
        """Creates the variables of a batch norm, which may never be called."""
        if isinstance(self.norm, normalization.BATCH_NORMS):
            with tf.name_scope(self.norm.name):
                self.norm.build(tf.TensorShape([None, None, None, channels]))


class FoldingNormAct(_NormAct):
    """With `filters`, and a `conv` that takes `scale` and `shift`; made from `_conv_options`.

    A frozen batch norm, in inference any batch norm, costs nothing: kernel and bias take it up, in
    float32.
    """

    def __init__(self, filters: int, **kwargs: Any):
        super().__init__(**kwargs)
        initializer = build_initializer(self._kernel_initializer)
        self._conv_options.update(filters=filters, kernel_initializer=initializer)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the variables of the norm."""
        self._build_norm(self._conv_options["filters"])
        super().build(input_shape)


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class ConvNormAct(FoldingNormAct):
    """Convolution, normalisation, activation; variables `conv/kernel`, `norm/gamma`, ...

    Args:
      filters: output channels.
      kernel_size: odd.
      groups: of a grouped convolution.
      strides: of the convolution.
      dilation_rate: of the convolution.
      norm: a name of `normalization.build_norm`.
      activation: a Keras activation, or None.
      use_bias: None gives a bias exactly where there is no norm.
      kernel_initializer: see `build_initializer`.
      norm_momentum: see `normalization.build_norm`.
      norm_epsilon: see `normalization.build_norm`.
      **kwargs: of the Keras layer.
    """

    def __init__(self, filters: int, kernel_size: int = 1, *, groups: int = 1, **kwargs: Any):
        super().__init__(filters, kernel_size=kernel_size, **kwargs)
        self.conv = conv2d.Conv2D(groups=groups, **self._conv_options)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the variables."""
        with tf.name_scope(self.conv.name):
            self.conv.build(input_shape)
        super().build(input_shape)

    def call(
        self,
        inputs: tf.Tensor,
        training: Optional[bool] = None,
        *,
        is_linear: bool = False,
        before: Optional[_NormAct] = None,
    ) -> tf.Tensor:
        """See the base class.

        Args:
          inputs: [B, H, W, C].
          training: see the base class.
          is_linear: see the base class.
          before: normalises and activates the inputs; the gradient keeps them as they come.
        """
        if before is None:
            return super().call(inputs, training=training, is_linear=is_linear)
        convolve = functools.partial(self.conv.convolve, training=training)
        x = before.norm_act(inputs, training, convolve, [tf.convert_to_tensor(self.conv.kernel)])
        return self.norm_act(x, training)


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class DepthwiseConvNormAct(_NormAct):
    """Depthwise convolution, normalisation, activation; variable `conv/depthwise_kernel`.

    Args:
      kernel_size: odd.
      **kwargs: as of `ConvNormAct`.
    """

    def __init__(self, kernel_size: int = 3, **kwargs: Any):
        super().__init__(kernel_size=kernel_size, **kwargs)
        initializer = build_initializer(self._kernel_initializer, depthwise=True)
        strides, dilation_rate = self._conv_options["strides"], self._conv_options["dilation_rate"]
        # See `conv2d`.
        self._padding = (kernel_size - 1) * dilation_rate // 2 if strides > 1 else 0
        self.conv = depthwise_layers.DepthwiseConv2D(
            depthwise_initializer=initializer,
            padding="same" if strides == 1 else "valid",
            **self._conv_options,
        )

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the variables of the norm."""
        self._build_norm(int(input_shape[-1]))
        super().build(input_shape)

    def call(
        self, inputs: tf.Tensor, training: Optional[bool] = None, *, is_linear: bool = False
    ) -> tf.Tensor:
        """[B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), C]; see the base class."""
        if self._padding:
            margins = [self._padding] * 2
            inputs = tf.pad(inputs, [[0, 0], margins, margins, [0, 0]])
        return super().call(inputs, training=training, is_linear=is_linear)


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class SeparableConvNormAct(tf.keras.layers.Layer):
    """Depthwise then pointwise convolution, each with its own normalisation and activation.

    Args:
      filters: output channels.
      kernel_size: of the depthwise part, odd.
      strides: of the depthwise part.
      dilation_rate: of the depthwise part.
      norm: a name of `normalization.build_norm`.
      activation: a Keras activation, or None.
      kernel_initializer: see `build_initializer`.
      norm_momentum: see `normalization.build_norm`.
      norm_epsilon: see `normalization.build_norm`.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 5,
        *,
        strides: int = 1,
        dilation_rate: int = 1,
        norm: str = "batch",
        activation: Any = "relu",
        kernel_initializer: Initializer = "msra",
        norm_momentum: float = 0.9,
        norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        common = {
            "norm": norm,
            "activation": activation,
            "kernel_initializer": kernel_initializer,
            "norm_momentum": norm_momentum,
            "norm_epsilon": norm_epsilon,
        }
        self.depthwise = DepthwiseConvNormAct(
            kernel_size, strides=strides, dilation_rate=dilation_rate, name="depthwise", **common
        )
        self.pointwise = ConvNormAct(filters, name="pointwise", **common)

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), filters]."""
        norms = (self.depthwise.norm, self.pointwise.norm)
        if all(normalization.is_learning_over_replicas(norm, training) for norm in norms):
            x = self.depthwise(inputs, training=training, is_linear=True)
            return self.pointwise(x, training=training, before=self.depthwise)
        return self.pointwise(self.depthwise(inputs, training=training), training=training)
