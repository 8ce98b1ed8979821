"""The heads of Mask R-CNN on an FPN (arXiv:1506.01497, 1612.03144, 1703.06870).

Recorded structure: detectron2's heads; parameter counts and initial values are theirs.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.layers.convolution import ConvNormAct, build_initializer


class RPNHead(tf.keras.layers.Layer):
    """One 3x3 convolution, then objectness and deltas of every anchor, shared by all levels.

    Args:
      num_anchors: per cell.
      filters: of the 3x3 convolution.
      **kwargs: of the Keras layer.
    """

    def __init__(self, num_anchors: int, *, filters: int = 256, **kwargs: Any):
        super().__init__(**kwargs)
        self._num_anchors = num_anchors

        def conv(channels: int, kernel_size: int, activation: Any, name: str) -> ConvNormAct:
            return ConvNormAct(
                channels,
                kernel_size,
                norm="none",
                activation=activation,
                kernel_initializer=_normal(0.01),
                name=name,
            )

        self.conv = conv(filters, 3, "relu", "conv")
        self.objectness = conv(num_anchors, 1, None, "objectness")
        self.deltas = conv(4 * num_anchors, 1, None, "deltas")

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: Optional[bool] = None
    ) -> Tuple[Dict[str, tf.Tensor], Dict[str, tf.Tensor]]:
        """{level: [B, h, w, C]} -> logits {level: [B, h*w*A]}, deltas {level: [B, h*w*A, 4]}."""
        logits, deltas = {}, {}
        for level, features in inputs.items():
            x = self.conv(features, training=training)
            logits[level] = _flatten(self.objectness(x), num_anchors=self._num_anchors)[..., 0]
            deltas[level] = _flatten(self.deltas(x), num_anchors=self._num_anchors)
        return logits, deltas


class BoxHead(tf.keras.layers.Layer):
    """Dense layers on pooled regions, then class logits and class-specific deltas.

    The regions flatten in the order height, width, channel.

    Args:
      num_things: T; the background is class T.
      fc_dims: units of the hidden layers.
      **kwargs: of the Keras layer.
    """

    def __init__(self, num_things: int, *, fc_dims: Sequence[int] = (1024, 1024), **kwargs: Any):
        super().__init__(**kwargs)
        self._num_things = num_things
        dense = tf.keras.layers.Dense
        self.hidden = [
            dense(
                units,
                activation="relu",
                kernel_initializer=build_initializer("xavier"),
                name=f"fc{i + 1}",
            )
            for i, units in enumerate(fc_dims)
        ]
        self.classes = dense(num_things + 1, kernel_initializer=_normal(0.01), name="classes")
        self.deltas = dense(4 * num_things, kernel_initializer=_normal(0.001), name="deltas")

    def call(
        self, inputs: tf.Tensor, training: Optional[bool] = None
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """[B, R, S, S, C] -> class logits [B, R, T + 1], deltas [B, R, T, 4], float32."""
        del training
        count, cells, channels = inputs.shape[1], inputs.shape[2], inputs.shape[-1]
        x = tf.reshape(inputs, [-1, cells * cells * channels])  # [B * R, S * S * C]
        for layer in self.hidden:
            x = layer(x)
        logits = tf.cast(self.classes(x), tf.float32)
        deltas = tf.cast(self.deltas(x), tf.float32)
        return (
            tf.reshape(logits, [-1, count, self._num_things + 1]),
            tf.reshape(deltas, [-1, count, self._num_things, 4]),
        )


class MaskHead(tf.keras.layers.Layer):
    """3x3 convolutions, a 2x2 transposed convolution, and the mask of one class for each region.

    The predictor holds a 1x1 convolution to all T classes, of which only the asked one is computed.

    Args:
      num_things: T.
      filters: of the convolutions; the transposed one has as many as the last.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self, num_things: int, *, filters: Sequence[int] = (256, 256, 256, 256), **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.convs = [
            ConvNormAct(width, 3, norm="none", name=f"conv{i + 1}")
            for i, width in enumerate(filters)
        ]
        self.deconv = tf.keras.layers.Conv2DTranspose(
            filters[-1],
            2,
            strides=2,
            activation="relu",
            kernel_initializer=build_initializer("msra"),
            name="deconv",
        )
        self.predictor = _ClassConv(num_things, name="predictor")

    def call(
        self, inputs: tf.Tensor, classes: tf.Tensor, training: Optional[bool] = None
    ) -> tf.Tensor:
        """[B, K, S, S, C] and thing indices int32 [B, K] -> float32 logits [B, K, 2S, 2S]."""
        cells = inputs.shape[2]
        x = tf.reshape(inputs, [-1, cells, cells, inputs.shape[-1]])  # [B * K, S, S, C]
        for conv in self.convs:
            x = conv(x, training=training)
        x = self.predictor(self.deconv(x), tf.reshape(classes, [-1]))  # [B * K, 2S, 2S]
        shape = tf.shape(classes)
        logits = tf.reshape(x, [shape[0], shape[1], 2 * cells, 2 * cells])
        return tf.ensure_shape(logits, [None, inputs.shape[1], 2 * cells, 2 * cells])


class _ClassConv(tf.keras.layers.Layer):
    """1x1 convolution to T channels, of which each element needs one; `kernel` is [1, 1, C, T]."""

    def __init__(self, num_classes: int, **kwargs: Any):
        super().__init__(**kwargs)
        self._num_classes = num_classes

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates kernel and bias."""
        shape = [1, 1, int(input_shape[-1]), self._num_classes]
        self.kernel = self.add_weight("kernel", shape, initializer=_normal(0.001))
        self.bias = self.add_weight("bias", [self._num_classes], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """[N, h, w, C], int32 [N] -> float32 [N, h, w]."""
        height, width, channels = inputs.shape[1:]
        # Not tf.one_hot, whose product is to TFLite a look-up that other runtimes do not read.
        numbers = tf.range(self._num_classes, dtype=tf.float32)
        distance = tf.cast(classes, tf.float32)[:, tf.newaxis] - numbers
        chosen = tf.cast(tf.nn.relu(1.0 - tf.abs(distance)), inputs.dtype)  # [N, T]
        kernels = tf.matmul(chosen, self.kernel[0, 0], transpose_b=True)  # [N, C]
        pixels = tf.reshape(inputs, [-1, height * width, channels])
        logits = tf.matmul(pixels, kernels[:, :, tf.newaxis])  # [N, h * w, 1]
        logits = tf.cast(tf.reshape(logits, [-1, height, width]), tf.float32)
        bias = tf.cast(tf.linalg.matvec(chosen, self.bias), tf.float32)
        return logits + bias[:, tf.newaxis, tf.newaxis]


def _normal(stddev: float) -> tf.keras.initializers.Initializer:
    return tf.keras.initializers.RandomNormal(stddev=stddev)


def _flatten(x: tf.Tensor, *, num_anchors: int) -> tf.Tensor:
    """[B, h, w, A * V] -> float32 [B, h * w * A, V]."""
    height, width, channels = x.shape[1:]
    shape = [-1, height * width * num_anchors, channels // num_anchors]
    return tf.cast(tf.reshape(x, shape), tf.float32)
