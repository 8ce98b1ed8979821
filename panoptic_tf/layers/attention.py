"""Attention and what surrounds it in a transformer (arXiv:1706.03762).

Post-norm throughout: y = LayerNorm(x + f(x)), with an epsilon of 1e-5.
"""

from __future__ import annotations

from typing import Any, Optional

import tensorflow as tf

from panoptic_tf.layers.dense import Dense

_EPSILON = 1e-5
BLOCKED = -1e9
"""The bias of what a query must not attend to."""


def layer_norm(name: str = "norm", dtype: Any = None) -> tf.keras.layers.LayerNormalization:
    """Normalises the channels."""
    return tf.keras.layers.LayerNormalization(epsilon=_EPSILON, name=name, dtype=dtype)


def flatten_cells(x: tf.Tensor) -> tf.Tensor:
    """[B, h, w, C] -> [B, h * w, C], row by row."""
    return tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]])


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class Attention(tf.keras.layers.Layer):
    """Multi-head attention: softmax(q k^T / sqrt(d)) v of each head, projected.

    Variables: `query`, `key`, `value` and `output`, a kernel [C, C] and a bias each.

    Args:
      channels: C.
      num_heads: of C / num_heads = d channels each.
      dropout: share of the attention weights dropped in training.
      **kwargs: of the Keras layer.

    Raises:
      ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, num_heads: int, *, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        if channels % num_heads:
            raise ValueError(
                f"{self.name}: {num_heads} heads must divide {channels} channels evenly."
            )
        self._num_heads = num_heads
        self._size = channels // num_heads
        self.query, self.key, self.value = (
            Dense(channels, kernel_initializer=_input_initializer(), name=name)
            for name in ("query", "key", "value")
        )
        self.output_projection = Dense(channels, name="output")
        self.dropout = tf.keras.layers.Dropout(dropout)

    def call(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        bias: Optional[tf.Tensor] = None,
        training: Optional[bool] = None,
    ) -> tf.Tensor:
        """Attends.

        Args:
          query: [B, Q, C].
          key: [B, N, C].
          value: [B, N, C].
          bias: float32, broadcast to [B, heads, Q, N], added before the softmax; a large negative
            number, not infinity, blocks.
          training: of Keras.

        Returns:
          [B, Q, C].
        """
        query = self._heads(self.query(query) * self._size**-0.5)
        key, value = self._heads(self.key(key)), self._heads(self.value(value))
        logits = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)  # [B, heads, Q, N]
        if bias is not None:
            logits += bias
        weights = tf.cast(tf.nn.softmax(logits), value.dtype)
        outputs = tf.matmul(self.dropout(weights, training=training), value)  # [B, heads, Q, d]
        outputs = tf.transpose(outputs, [0, 2, 1, 3])
        outputs = tf.reshape(outputs, [-1, outputs.shape[1], self._num_heads * self._size])
        return self.output_projection(outputs)

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        """[B, N, C] -> [B, heads, N, d]."""
        x = tf.reshape(x, [-1, x.shape[1], self._num_heads, self._size])
        return tf.transpose(x, [0, 2, 1, 3])


def _input_initializer() -> tf.keras.initializers.Initializer:
    """Xavier's uniform distribution of the three input projections as one matrix of 3C outputs."""
    return tf.keras.initializers.VarianceScaling(0.5, "fan_avg", "uniform")


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class FeedForward(tf.keras.layers.Layer):
    """LayerNorm(x + W2 relu(W1 x)); variables `hidden`, `output` and `norm`.

    Args:
      hidden_channels: between the two.
      dropout: share of what both return that is dropped in training.
      dtype: of Keras, of all layers within.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self, hidden_channels: int, *, dropout: float = 0.0, dtype: Any = None, **kwargs: Any
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.hidden = Dense(hidden_channels, activation="relu", dtype=dtype, name="hidden")
        self.dropout = tf.keras.layers.Dropout(dropout, dtype=dtype)
        self.norm = layer_norm(dtype=dtype)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the layer that returns to the inputs' channels."""
        self.output_projection = Dense(
            int(input_shape[-1]), dtype=self.hidden.dtype_policy, name="output"
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """[B, N, C] -> [B, N, C]."""
        x = self.dropout(self.hidden(inputs), training=training)
        x = self.dropout(self.output_projection(x), training=training)
        return self.norm(inputs + x)
