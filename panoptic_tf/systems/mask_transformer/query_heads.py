"""EoMT's queries and heads (arXiv:2503.19108): what a vision transformer lacks to predict masks."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence, Union

import numpy as np
import tensorflow as tf

from panoptic_tf.layers import attention, resize
from panoptic_tf.layers.dense import Dense
from panoptic_tf.layers.depthwise import DepthwiseConv2D

_EPSILON = 1e-6
_MASK_STRIDE = 4
_ANNEALING_POWER = 0.9

JOIN, PREDICT, BLOCK = "join", "predict", "block"
"""The steps of `QueryHeads`."""

Tensors = Mapping[str, tf.Tensor]


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class QueryHeads(tf.keras.layers.Layer):
    """Learnt queries, predictions from normalised tokens, and which patches a query attends to.

    Tokens are Q queries, then those before the patches, then the patches.

    In training, a query attends to the patches inside its mask of the prediction before, with a
    probability that falls from 1 to 0 between two steps, block by block, so that inference needs no
    mask.

    Args:
      num_classes: K; one more channel is "no object".
      channels: C of the tokens.
      num_queries: Q.
      grid: rows and columns of patches.
      patch_size: side of a patch in pixels; masks have stride 4.
      annealing_starts, annealing_ends: training steps of the joint blocks, in their order; empty:
        the probability stays 1.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int,
        num_queries: int,
        grid: Sequence[int],
        patch_size: int,
        annealing_starts: Sequence[int] = (),
        annealing_ends: Sequence[int] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._channels, self._num_queries, self._grid = channels, num_queries, tuple(grid)
        self._annealing = list(zip(annealing_starts, annealing_ends))
        self.class_predictor = Dense(num_classes + 1, dtype=tf.float32, name="class_predictor")
        self.mask_embedding = [Dense(channels, name=f"mask_embedding_{i}") for i in range(3)]
        count = max(1, int(np.log2(patch_size // _MASK_STRIDE)))
        self.upscale = [_Upscale(channels, name=f"upscale_{i}") for i in range(count)]

    def build(self, input_shape: Any) -> None:
        """Creates the queries, and the counter of training steps."""
        self.queries = self.add_weight(
            "queries",
            shape=[self._num_queries, self._channels],
            initializer=tf.keras.initializers.RandomNormal(stddev=1.0),
        )
        self.steps = self.add_weight(
            "steps",
            shape=[],
            initializer="zeros",
            trainable=False,
            dtype=tf.float32,
            experimental_autocast=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def call(
        self,
        inputs: Union[tf.Tensor, Tensors],
        step: str,
        number: int = 0,
        training: Optional[bool] = None,
    ) -> Union[tf.Tensor, Dict[str, tf.Tensor]]:
        """Runs a step.

        Args:
          inputs: of `JOIN` tokens without queries [B, N, C]; of `PREDICT` normalised tokens with
            queries [B, Q + N, C]; of `BLOCK` what `PREDICT` returned.
          step: one of these.
          number: of the joint block that `BLOCK` is for.
          training: of Keras; a training step counts where it has a `JOIN`.

        Returns:
          `JOIN`: tokens with queries. `PREDICT`: `class_logits` float32 [B, Q, K + 1],
          `mask_embeddings` float32 [B, Q, C] and `mask_features` float32 [B, h, w, C]. `BLOCK`: the
          bias of the attention, float32 [B, 1, Q, N'], N' being the patches.
        """
        if step == JOIN:
            if training:
                self.steps.assign_add(1.0)
            queries = tf.cast(self.queries, inputs.dtype)[tf.newaxis]
            return tf.concat([tf.tile(queries, [tf.shape(inputs)[0], 1, 1]), inputs], axis=1)
        return self._predict(inputs) if step == PREDICT else self._bias(inputs, number)

    def _predict(self, tokens: tf.Tensor) -> Dict[str, tf.Tensor]:
        queries = tokens[:, : self._num_queries]
        first = tokens.shape[1] - self._grid[0] * self._grid[1]
        features = tf.reshape(tokens[:, first:], [-1, *self._grid, self._channels])
        for layer in self.upscale:
            features = layer(features)
        embedding = self.mask_embedding[0](queries)
        for layer in self.mask_embedding[1:]:
            embedding = layer(tf.nn.gelu(embedding, approximate=False))
        return {
            "class_logits": self.class_predictor(queries),
            "mask_embeddings": tf.cast(embedding, tf.float32),
            "mask_features": tf.cast(features, tf.float32),
        }

    def _bias(self, prediction: Tensors, number: int) -> tf.Tensor:
        embeddings, features = (
            tf.stop_gradient(prediction[key]) for key in ("mask_embeddings", "mask_features")
        )
        # Resizing is linear: smaller features give the resized masks.
        features = attention.flatten_cells(resize.resize_bilinear(features, self._grid))
        is_inside = tf.matmul(embeddings, features, transpose_b=True) > 0.0
        draws = tf.random.uniform(tf.shape(embeddings[..., :1]))
        is_free = tf.logical_or(is_inside, draws > self._probability(number))
        return tf.where(is_free, 0.0, attention.BLOCKED)[:, tf.newaxis]

    def _probability(self, number: int) -> tf.Tensor:
        """That a query of this joint block has its mask, float32 []."""
        if not self._annealing:
            return tf.ones([])
        start, end = (float(step) for step in self._annealing[number])
        # The counter has this step already.
        progress = tf.clip_by_value((self.steps - 1.0 - start) / (end - start), 0.0, 1.0)
        return (1.0 - progress) ** _ANNEALING_POWER


def spread_bias(bias: tf.Tensor, num_tokens: int) -> tf.Tensor:
    """[B, 1, Q, patches] -> [B, 1, N, N]: everything but queries to patches is free."""
    queries, patches = bias.shape[2:]
    return tf.pad(bias, [[0, 0], [0, 0], [0, num_tokens - queries], [num_tokens - patches, 0]])


class _Upscale(tf.keras.layers.Layer):
    """[B, h, w, C] -> [B, 2h, 2w, C]: a transposed convolution, a depthwise one, a norm."""

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.deconv = tf.keras.layers.Conv2DTranspose(channels, 2, strides=2, name="deconv")
        self.conv = DepthwiseConv2D(3, padding="same", use_bias=False, name="conv")
        self.norm = tf.keras.layers.LayerNormalization(epsilon=_EPSILON, name="norm")

    def call(self, inputs: tf.Tensor, training: Optional[bool] = None) -> tf.Tensor:
        """See the class."""
        x = tf.nn.gelu(self.deconv(inputs), approximate=False)
        return self.norm(self.conv(x, training=training))
