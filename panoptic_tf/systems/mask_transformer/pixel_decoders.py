"""Pixel decoders: from the backbone's levels to features for the queries and for the masks."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence

import tensorflow as tf

from panoptic_tf.layers import attention, convolution, resize
from panoptic_tf.layers.deformable_attention import DeformableAttention, Size
from panoptic_tf.layers.position_encoding import sine_positions

_FINEST = "2"
_NORM = {"norm": "group", "use_bias": False, "kernel_initializer": "xavier"}

# level: [B, h, w, C]
Levels = Mapping[str, tf.Tensor]


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class DeformablePixelDecoder(tf.keras.layers.Layer):
    """The pixel decoder of Mask2Former (arXiv:2112.01527, section 3.2.2).

    Layers of deformable attention over levels 5, 4 and 3 together, then one step of an FPN to
    level 2. Its attention is computed in float32, as published.

    Args:
      channels: C of every feature.
      num_layers: of the encoder.
      num_heads: of its attention.
      num_points: that a head reads on each level.
      hidden_channels: of its feed-forward layers.
      levels: that attend to each other, coarsest first.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        channels: int = 256,
        *,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        hidden_channels: int = 1024,
        levels: Sequence[str] = ("5", "4", "3"),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._channels = channels
        self._levels = tuple(levels)
        self.layers = [
            _DeformableLayer(
                channels,
                num_heads=num_heads,
                num_levels=len(self._levels),
                num_points=num_points,
                hidden_channels=hidden_channels,
                dtype=tf.float32,
                name=f"layer_{i}",
            )
            for i in range(num_layers)
        ]
        conv = convolution.ConvNormAct
        self.inputs = [
            conv(
                channels,
                norm="group",
                use_bias=True,
                activation=None,
                kernel_initializer="glorot_uniform",
                name=f"input_{level}",
            )
            for level in self._levels
        ]
        self.lateral = conv(channels, activation=None, name="lateral_2", **_NORM)
        self.finest = conv(channels, 3, name="output_2", **_NORM)
        self.mask_features = conv(
            channels,
            norm="none",
            activation=None,
            kernel_initializer="xavier",
            name="mask_features",
        )

    def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
        """Creates the learnt vectors of levels."""
        self.level_embedding = self.add_weight(
            "level_embedding",
            shape=[len(self._levels), self._channels],
            initializer=tf.keras.initializers.RandomNormal(stddev=1.0),
            dtype=tf.float32,
            experimental_autocast=False,
        )
        super().build(input_shape)

    def call(self, inputs: Levels, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
        """Encodes.

        Args:
          inputs: {level: [B, h, w, any]} of levels 2 to 5.
          training: of Keras.

        Returns:
          `mask_features` [B, H/4, W/4, C] and, of level 2 and those that attend, `level_<l>`
          [B, h, w, C].
        """
        maps = [
            conv(inputs[level], training=training) for level, conv in zip(self._levels, self.inputs)
        ]
        sizes = [tuple(x.shape[1:3]) for x in maps]
        x = tf.cast(
            tf.concat([attention.flatten_cells(x) for x in maps], axis=1), tf.float32
        )  # [B, N, C]
        positions = self._positions(sizes)
        for layer in self.layers:
            x = layer(x, positions, sizes, training=training)
        counts = [height * width for height, width in sizes]
        maps = [
            tf.cast(tf.reshape(part, [-1, *size, self._channels]), self.compute_dtype)
            for part, size in zip(tf.split(x, counts, axis=1), sizes)
        ]
        fine = self.lateral(inputs[_FINEST], training=training)
        fine += resize.upsample_like(maps[-1], fine)
        maps.append(self.finest(fine, training=training))
        outputs = {f"level_{level}": x for level, x in zip([*self._levels, _FINEST], maps)}
        return {"mask_features": self.mask_features(maps[-1], training=training), **outputs}

    def _positions(self, sizes: Sequence[Size]) -> tf.Tensor:
        """Positions and vectors of the levels: float32 [1, N, C]."""
        embeddings = tf.unstack(self.level_embedding)
        parts = (sine_positions(*size, self._channels) for size in sizes)
        encoded = [
            attention.flatten_cells(rows + (columns + embedding))
            for (rows, columns), embedding in zip(parts, embeddings)
        ]
        return tf.concat(encoded, axis=1)


class _DeformableLayer(tf.keras.layers.Layer):
    """Deformable attention, then a feed-forward layer."""

    def __init__(self, channels: int, *, hidden_channels: int, dtype: Any, name: str, **options):
        super().__init__(dtype=dtype, name=name)
        self.attention = DeformableAttention(channels, dtype=dtype, name="attention", **options)
        self.norm = attention.layer_norm(dtype=dtype)
        self.feed_forward = attention.FeedForward(hidden_channels, name="feed_forward", dtype=dtype)

    def call(
        self,
        inputs: tf.Tensor,
        positions: tf.Tensor,
        sizes: Sequence[Size],
        training: Optional[bool] = None,
    ) -> tf.Tensor:
        """[B, N, C] -> [B, N, C]; the positions are [1, N, C], `sizes` those of the levels."""
        x = self.norm(inputs + self.attention(inputs, positions, sizes, training=training))
        return self.feed_forward(x, training=training)


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class TransformerFPN(tf.keras.layers.Layer):
    """The pixel decoder of MaskFormer (arXiv:2107.06278, section 4.1 and its published models).

    Layers of attention on level 5, then an FPN of sums with nearest upsampling.

    Args:
      channels: C of every feature.
      num_layers: of the encoder on level 5; 0 is the plain FPN.
      num_heads: of its attention.
      hidden_channels: of its feed-forward layers.
      dropout: in them.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        channels: int = 256,
        *,
        num_layers: int = 6,
        num_heads: int = 8,
        hidden_channels: int = 2048,
        dropout: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._channels = channels
        conv = convolution.ConvNormAct
        self.encoder = [
            _EncoderLayer(
                channels,
                num_heads=num_heads,
                hidden_channels=hidden_channels,
                dropout=dropout,
                name=f"layer_{i}",
            )
            for i in range(num_layers)
        ]
        if num_layers:
            self.input_projection = conv(
                channels,
                norm="none",
                activation=None,
                kernel_initializer="xavier",
                name="input_5",
            )
        self.laterals = [
            conv(channels, activation=None, name=f"lateral_{k}", **_NORM) for k in (4, 3, 2)
        ]
        self.outputs = [conv(channels, 3, name=f"output_{k}", **_NORM) for k in (5, 4, 3, 2)]
        self.mask_features = conv(
            channels,
            3,
            norm="none",
            activation=None,
            kernel_initializer="xavier",
            name="mask_features",
        )

    def call(self, inputs: Levels, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
        """Encodes.

        Args:
          inputs: {level: [B, h, w, any]} of levels 2 to 5.
          training: of Keras.

        Returns:
          `mask_features` [B, H/4, W/4, C] and `level_5`, of C channels with an encoder, else the
          backbone's.
        """
        top = inputs["5"]
        if self.encoder:
            top = self._encode(top, training)
        x = self.outputs[0](top, training=training)
        for level, lateral, output in zip("432", self.laterals, self.outputs[1:]):
            side = lateral(inputs[level], training=training)
            x = output(side + resize.repeat_like(x, side, 2), training=training)
        return {"mask_features": self.mask_features(x, training=training), "level_5": top}

    def _encode(self, top: tf.Tensor, training: Optional[bool]) -> tf.Tensor:
        x = self.input_projection(top, training=training)
        size = x.shape[1:3]
        rows, columns = (tf.cast(part, x.dtype) for part in sine_positions(*size, self._channels))
        positions = attention.flatten_cells(rows + columns)  # [1, N, C]
        x = attention.flatten_cells(x)
        for layer in self.encoder:
            x = layer(x, positions, training=training)
        return tf.reshape(x, [-1, *size, self._channels])


class _EncoderLayer(tf.keras.layers.Layer):
    """Self-attention, then a feed-forward layer."""

    def __init__(
        self, channels: int, *, num_heads: int, hidden_channels: int, dropout: float, name: str
    ):
        super().__init__(name=name)
        self.attention = attention.Attention(channels, num_heads, dropout=dropout, name="attention")
        self.dropout = tf.keras.layers.Dropout(dropout)
        self.norm = attention.layer_norm()
        self.feed_forward = attention.FeedForward(
            hidden_channels, dropout=dropout, name="feed_forward"
        )

    def call(self, inputs: tf.Tensor, positions: tf.Tensor, training: Optional[bool] = None):
        """[B, N, C] -> [B, N, C]; the positions are [1, N, C]."""
        query = inputs + positions
        x = self.attention(query, query, inputs, training=training)
        x = self.norm(inputs + self.dropout(x, training=training))
        return self.feed_forward(x, training=training)
