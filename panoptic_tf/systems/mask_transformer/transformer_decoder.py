"""The transformer decoder: queries attend to features and to each other, and predict masks.

That of Mask2Former (arXiv:2112.01527, section 3.2), and as a choice of options that of MaskFormer
(arXiv:2107.06278) and DETR.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.layers import attention, resize
from panoptic_tf.layers.dense import Dense
from panoptic_tf.layers.position_encoding import sine_positions


class _Memory:
    """A level that queries attend to.

    Attributes:
      keys: [B, N, C].
      values: [B, N, C].
      mask_features: float32 [B, N, C], those of the masks at the cells of the level; None without
        masked attention.
    """

    def __init__(self, keys: tf.Tensor, values: tf.Tensor, mask_features: Optional[tf.Tensor]):
        self.keys, self.values, self.mask_features = keys, values, mask_features


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class TransformerDecoder(tf.keras.layers.Layer):
    """Queries, layers of attention, and a prediction before and after each layer.

    Args:
      num_classes: K; one more channel is "no object".
      channels: C of queries and features.
      num_queries: Q.
      num_layers: of the decoder.
      num_heads: of every attention.
      hidden_channels: of the feed-forward layers.
      dropout: share of attention weights and outputs dropped in training.
      levels: that the layers attend to, in turn.
      masked: whether a query attends only where its mask of the prediction before is.
      learnt_start: whether queries start from learnt features, and predict before the first layer;
        else from zeros.
      cross_attention_first: in each layer; else attention among the queries comes first.
      level_embedding: whether each level has a learnt vector added.
      **kwargs: of the Keras layer.

    Raises:
      ValueError: there is no layer, or no prediction to mask the first one with.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 256,
        num_queries: int = 100,
        num_layers: int = 9,
        num_heads: int = 8,
        hidden_channels: int = 2048,
        dropout: float = 0.0,
        levels: Sequence[str] = ("5", "4", "3"),
        masked: bool = True,
        learnt_start: bool = True,
        cross_attention_first: bool = True,
        level_embedding: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if masked and not learnt_start or num_layers < 1:
            raise ValueError(
                f"{self.name} needs num_layers >= 1, and learnt_start where masked is true: the "
                "first layer's masks are those of a prediction before it."
            )
        self._channels, self._num_queries = channels, num_queries
        self._levels = tuple(levels)
        self._masked, self._learnt_start = masked, learnt_start
        self._has_level_embedding = level_embedding
        self.layers = [
            _DecoderLayer(
                channels,
                num_heads=num_heads,
                hidden_channels=hidden_channels,
                dropout=dropout,
                cross_attention_first=cross_attention_first,
                name=f"layer_{i}",
            )
            for i in range(num_layers)
        ]
        self.norm = attention.layer_norm()
        self.class_predictor = Dense(
            num_classes + 1,
            kernel_initializer=_linear(),
            dtype=tf.float32,
            name="class_predictor",
        )
        activations = ("relu", "relu", None)
        self.mask_embedding = [
            Dense(channels, activation=a, kernel_initializer=_linear(), name=f"mask_embedding_{i}")
            for i, a in enumerate(activations)
        ]

    def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
        """Creates the learnt queries, vectors of levels, and projections of other channels to C."""
        self.projections = {
            level: Dense(self._channels, name=f"input_{level}")
            for level in self._levels
            if int(input_shape[f"level_{level}"][-1]) != self._channels
        }
        shape = [self._num_queries, self._channels]
        self.query_positions = self._embedding("query_positions", shape)
        if self._learnt_start:
            self.query_features = self._embedding("query_features", shape)
        if self._has_level_embedding:
            shape = [len(self._levels), self._channels]
            self.level_embedding = self._embedding("level_embedding", shape)
        super().build(input_shape)

    def _embedding(self, name: str, shape: List[int]) -> tf.Variable:
        initializer = tf.keras.initializers.RandomNormal(stddev=1.0)
        return self.add_weight(name, shape=shape, initializer=initializer)

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: Optional[bool] = None
    ) -> Dict[str, tf.Tensor]:
        """Decodes.

        Args:
          inputs: what a pixel decoder returns; the masks' features have C channels.
          training: of Keras.

        Returns:
          `class_logits` float32 [B, L, Q, K + 1] and `mask_embeddings` float32 [B, L, Q, C] of the
          L predictions, the last one last. A mask's logit at a cell is the product of its embedding
          with the cell's `mask_features`.
        """
        memories = [self._memory(inputs, i) for i in range(len(self._levels))]
        batch = tf.shape(inputs["mask_features"])[0]
        positions = tf.cast(self.query_positions, self.compute_dtype)
        queries = tf.tile(
            tf.cast(self.query_features, self.compute_dtype)[tf.newaxis]
            if self._learnt_start
            else tf.zeros([1, *positions.shape], self.compute_dtype),
            [batch, 1, 1],
        )
        predictions = [self._predict(queries)] if self._learnt_start else []
        for i, layer in enumerate(self.layers):
            memory = memories[i % len(memories)]
            bias = _bias(predictions[-1][1], memory.mask_features) if self._masked else None
            queries = layer(queries, positions, memory.keys, memory.values, bias, training=training)
            predictions.append(self._predict(queries))
        class_logits, mask_embeddings = (tf.stack(x, axis=1) for x in zip(*predictions))
        return {"class_logits": class_logits, "mask_embeddings": mask_embeddings}

    def _memory(self, inputs: Mapping[str, tf.Tensor], number: int) -> _Memory:
        level = self._levels[number]
        x = inputs[f"level_{level}"]
        size = x.shape[1:3]
        if level in self.projections:
            x = self.projections[level](x)
        features = None
        if self._masked:
            # Resizing is linear: smaller features give the resized masks.
            features = tf.stop_gradient(inputs["mask_features"])
            features = attention.flatten_cells(
                resize.resize_bilinear(tf.cast(features, tf.float32), size)
            )
        if self._has_level_embedding:
            x += tf.cast(self.level_embedding[number], x.dtype)
        rows, columns = (tf.cast(part, x.dtype) for part in sine_positions(*size, self._channels))
        return _Memory(
            attention.flatten_cells(x + rows + columns), attention.flatten_cells(x), features
        )

    def _predict(self, queries: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """Class logits [B, Q, K + 1] and mask embeddings [B, Q, C], float32."""
        queries = self.norm(queries)
        embedding = queries
        for layer in self.mask_embedding:
            embedding = layer(embedding)
        return self.class_predictor(queries), tf.cast(embedding, tf.float32)


class _DecoderLayer(tf.keras.layers.Layer):
    """Attention to features and among the queries, then a feed-forward layer."""

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        hidden_channels: int,
        dropout: float,
        cross_attention_first: bool,
        name: str,
    ):
        super().__init__(name=name)
        self._cross_attention_first = cross_attention_first
        options = {"channels": channels, "num_heads": num_heads, "dropout": dropout}
        self.cross_attention = attention.Attention(name="cross_attention", **options)
        self.cross_attention_norm = attention.layer_norm("cross_attention_norm")
        self.self_attention = attention.Attention(name="self_attention", **options)
        self.self_attention_norm = attention.layer_norm("self_attention_norm")
        self.dropout = tf.keras.layers.Dropout(dropout)
        self.feed_forward = attention.FeedForward(
            hidden_channels, dropout=dropout, name="feed_forward"
        )

    def call(
        self,
        queries: tf.Tensor,
        positions: tf.Tensor,
        keys: tf.Tensor,
        values: tf.Tensor,
        bias: Optional[tf.Tensor] = None,
        training: Optional[bool] = None,
    ) -> tf.Tensor:
        """Decodes.

        Args:
          queries: [B, Q, C].
          positions: [Q, C], of the queries.
          keys: [B, N, C], with positions.
          values: [B, N, C], without.
          bias: float32 [B, 1, Q, N], of the attention to the features.
          training: of Keras.

        Returns:
          [B, Q, C].
        """

        def attend_to_features(x: tf.Tensor) -> tf.Tensor:
            found = self.cross_attention(x + positions, keys, values, bias, training=training)
            return self.cross_attention_norm(x + self.dropout(found, training=training))

        def attend_to_queries(x: tf.Tensor) -> tf.Tensor:
            query = x + positions
            found = self.self_attention(query, query, x, training=training)
            return self.self_attention_norm(x + self.dropout(found, training=training))

        if self._cross_attention_first:
            x = attend_to_queries(attend_to_features(queries))
        else:
            x = attend_to_features(attend_to_queries(queries))
        return self.feed_forward(x, training=training)


def _bias(mask_embeddings: tf.Tensor, mask_features: tf.Tensor) -> tf.Tensor:
    """Blocks cells outside of a query's mask, unless that is empty: float32 [B, 1, Q, N]."""
    logits = tf.matmul(tf.stop_gradient(mask_embeddings), mask_features, transpose_b=True)
    inside = tf.cast(logits >= 0.0, tf.float32)  # [B, Q, N]
    is_empty = 1.0 - tf.reduce_max(inside, axis=-1, keepdims=True)
    return ((1.0 - inside) * (1.0 - is_empty) * attention.BLOCKED)[:, tf.newaxis]


def _linear() -> tf.keras.initializers.Initializer:
    """Uniform, variance 1 / (3 fan in)."""
    return tf.keras.initializers.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")
