"""Changes built Keras models in place: padding, dilation, frozen norms. No variable is touched.

official.vision builds its blocks' layers inside the blocks and takes no such options. What a layer
reads when it is called (strides, padding, dilation, whether it is trainable) can be set until then,
and a functional model calls its layers anew on every call, so the change holds wherever the model
is called from then on.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Tuple, Type

import tensorflow as tf

_CONVOLUTIONS = (tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D)


class _Padded:
    """Pads [B, H, W, C] by (k - 1) * d / 2 on each side; the layer itself pads nothing."""

    padding_value = 0.0

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), D]."""
        del training
        rates = getattr(self, "dilation_rate", (1, 1))
        rows, columns = ([(k - 1) * d // 2] * 2 for k, d in zip(_window(self), rates))
        margins = [[0, 0], rows, columns, [0, 0]]
        return super().call(tf.pad(inputs, margins, constant_values=self.padding_value))


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class PaddedConv2D(_Padded, tf.keras.layers.Conv2D):
    """Convolution with `padding` 'valid', after symmetric padding."""


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class PaddedDepthwiseConv2D(_Padded, tf.keras.layers.DepthwiseConv2D):
    """Depthwise convolution with `padding` 'valid', after symmetric padding."""


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class PaddedMaxPooling2D(_Padded, tf.keras.layers.MaxPooling2D):
    """Max pooling with `padding` 'valid', after padding that never is the maximum."""

    padding_value = tf.float16.min


_PADDED: Dict[Type[tf.keras.layers.Layer], Type[tf.keras.layers.Layer]] = {
    tf.keras.layers.Conv2D: PaddedConv2D,
    tf.keras.layers.DepthwiseConv2D: PaddedDepthwiseConv2D,
    tf.keras.layers.MaxPooling2D: PaddedMaxPooling2D,
}


def pad_symmetrically(model: tf.keras.Model) -> None:
    """Replaces 'same' padding where layers stride, as PyTorch pads; channels last.

    TensorFlow puts the odd pixel of an even map right and bottom. On an odd map, and without a
    stride, nothing changes.

    Args:
      model: its strided windows are odd.
    """
    for layer in _sublayers(model):
        if type(layer) not in _PADDED or layer.padding != "same":
            continue
        if max(layer.strides) > 1 and max(_window(layer)) > 1:
            layer.__class__ = _PADDED[type(layer)]
            layer.padding = "valid"


def dilate(model: tf.keras.Model, output_stride: int) -> None:
    """Removes the strides beyond an output stride; the convolutions after them dilate instead.

    The result, read at every 2nd or 4th cell, is that of the strided model, if that pads
    symmetrically.

    Args:
      model: a chain of layers, each of which strides in one convolution at most.
      output_stride: what the model shall end with.
    """
    stride, rate = 1, 1
    for layer in model.layers:
        next_rate = rate
        for conv in _sublayers(layer):
            if not isinstance(conv, _CONVOLUTIONS):
                continue
            step = conv.strides[0]
            if stride * step > output_stride:
                conv.strides, next_rate = (1, 1), rate * step
            else:
                stride *= step
            if max(conv.kernel_size) > 1 and rate > 1:
                conv.dilation_rate = (rate, rate)
        rate = next_rate


def freeze_norms(model: tf.keras.Model) -> None:
    """Batch norms scale and shift by what they hold: untrained, and in inference mode always."""
    for layer in _sublayers(model):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False


def gate_squeezes(model: tf.keras.Model, activation: str) -> None:
    """Sets what makes gates of the squeezes' outputs, a Keras activation."""
    from official.vision.modeling.layers import nn_layers

    for layer in _sublayers(model):
        if isinstance(layer, nn_layers.SqueezeExcitation):
            layer._gating_activation_fn = tf.keras.activations.get(activation)


def stem(model: tf.keras.Model) -> List[tf.keras.layers.Layer]:
    """The layers before the second that strides."""
    count = 0
    layers = []
    for layer in model.layers:
        count += max((max(_strides(part)) for part in _sublayers(layer)), default=1) > 1
        if count > 1:
            break
        layers.append(layer)
    return layers


def _sublayers(layer: Any) -> Iterator[tf.keras.layers.Layer]:
    """A layer and all within; of a model all within."""
    for module in (layer, *layer.submodules):
        if isinstance(module, tf.keras.layers.Layer):
            yield module


def _window(layer: tf.keras.layers.Layer) -> Tuple[int, int]:
    return layer.pool_size if hasattr(layer, "pool_size") else layer.kernel_size


def _strides(layer: tf.keras.layers.Layer) -> Tuple[int, ...]:
    return getattr(layer, "strides", (1, 1))
