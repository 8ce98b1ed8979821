"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, equation 3)."""

from __future__ import annotations

import math
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.layers.dense import Dense
from panoptic_tf.ops import deformable_conv2d
from panoptic_tf.ops.sampled_sum import sampled_sum

Size = Tuple[int, int]


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class DeformableAttention(tf.keras.layers.Layer):
    """Each cell of several maps attends to a few positions of each of them.

    y(q) = W_o sum over heads, levels l and points p of A(q) x_l(center of q + offset(q)), where x_l
    is bilinear between the cells of W_v x on level l and zero outside, and A a softmax over levels
    and points. Offsets are in cells of the level that is read.

    Variables: `offset`, kernel [C, heads * levels * points * 2] in the order (x, y), as published
    weights have it; `weight`; `value`; `output`.

    Args:
      channels: C.
      num_heads: of C / num_heads channels each.
      num_levels: how many maps there are.
      num_points: on each level.
      dtype: of Keras, of the values; positions and weights are float32.
      **kwargs: of the Keras layer.

    Raises:
      ValueError: the heads do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        num_levels: int,
        num_points: int,
        dtype: Any = None,
        **kwargs: Any,
    ):
        super().__init__(dtype=dtype, **kwargs)
        if channels % num_heads:
            raise ValueError(
                f"{self.name}: {num_heads} heads must divide {channels} channels evenly."
            )
        self._num_heads, self._num_points = num_heads, num_points
        samples = num_heads * num_levels * num_points
        self.offset = Dense(
            2 * samples,
            kernel_initializer="zeros",
            bias_initializer=_initial_offsets(num_heads, num_levels, num_points),
            dtype=tf.float32,
            name="offset",
        )
        self.weight = Dense(samples, kernel_initializer="zeros", dtype=tf.float32, name="weight")
        self.value = Dense(channels, dtype=dtype, name="value")
        self.output_projection = Dense(channels, dtype=dtype, name="output")

    def call(
        self,
        inputs: tf.Tensor,
        positions: tf.Tensor,
        sizes: Sequence[Size],
        training: Optional[bool] = None,
    ) -> tf.Tensor:
        """Attends.

        Args:
          inputs: [B, N, C], the cells of all levels in turn, row by row.
          positions: [1, N, C], added to the inputs to find offsets and weights.
          sizes: static (height, width) of the levels.
          training: of Keras.

        Returns:
          [B, N, C].
        """
        del training
        query = inputs + positions
        values = self.value(inputs)
        # [B, N, C] -> [B * N * heads, d], which moves nothing.
        cells = tf.reshape(values, [-1, values.shape[-1] // self._num_heads])
        index, weight = self._samples(self.offset(query), self._weights(query), sizes)
        outputs = sampled_sum(tf.cast(cells, tf.float32), index, weight)
        outputs = tf.reshape(outputs, [-1, inputs.shape[1], values.shape[-1]])
        return self.output_projection(tf.cast(outputs, inputs.dtype))

    def _weights(self, query: tf.Tensor) -> tf.Tensor:
        """float32 [B, N, S], a sum of 1 over levels and points."""
        logits = self.weight(query)
        count, samples = logits.shape[1:]
        per_head = samples // self._num_heads
        weights = tf.nn.softmax(tf.reshape(logits, [-1, per_head]))
        return tf.reshape(weights, [-1, count, samples])

    def _samples(
        self, offsets: tf.Tensor, weights: tf.Tensor, sizes: Sequence[Size]
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """What `sampled_sum` takes: [B * N * heads, levels * points * 4] each.

        Args:
          offsets: float32 [B, N, 2 * S] of S = heads * levels * points samples.
          weights: float32 [B, N, S].
          sizes: of the levels.
        """
        batch, count, samples = tf.shape(weights)[0], *weights.shape[1:]
        x, y = tf.unstack(tf.reshape(offsets, [-1, count, samples, 2]), axis=-1)  # [B, N, S]
        x, y = (p + self._by_sample(_centers(sizes, axis)) for p, axis in ((x, 1), (y, 0)))
        height, width = (self._by_sample(np.float32(sides)) for sides in zip(*sizes))
        corners = deformable_conv2d.find_corners(y, x, height, width, weights)
        dtype = corners[0].index.dtype
        # The row of a cell is ((image * N + first of the level + cell) * heads + head).
        first = np.cumsum([0] + [h * w for h, w in sizes[:-1]])
        head = np.repeat(np.arange(self._num_heads), samples // self._num_heads)
        base = tf.cast(self._by_sample(first), dtype) * self._num_heads + tf.constant(head, dtype)
        image = tf.cast(tf.range(batch), dtype)[:, tf.newaxis, tf.newaxis]
        base += image * (count * self._num_heads)  # [B, 1, S]
        shape = [-1, samples // self._num_heads]
        index = [tf.reshape(corner.index * self._num_heads + base, shape) for corner in corners]
        weight = [tf.reshape(corner.weight, shape) for corner in corners]
        return tf.concat(index, axis=1), tf.concat(weight, axis=1)

    def _by_sample(self, of_levels: np.ndarray) -> tf.Tensor:
        """[..., levels] -> [..., S]."""
        of_points = tf.repeat(tf.constant(of_levels), self._num_points, axis=-1)
        ones = [1] * (of_points.shape.rank - 1)
        return tf.tile(of_points, [*ones, self._num_heads])


def _centers(sizes: Sequence[Size], axis: int) -> np.ndarray:
    """The middle of each cell on every level, in cells of that: float32 [N, levels]."""
    shares: List[np.ndarray] = []
    for size in sizes:
        middle = (np.arange(size[axis]) + 0.5) / size[axis]
        shape = [-1, 1] if axis == 0 else [1, -1]
        shares.append(np.broadcast_to(middle.reshape(shape), size).ravel())
    sides = np.array([size[axis] for size in sizes])
    return (np.concatenate(shares)[:, np.newaxis] * sides - 0.5).astype(np.float32)


def _initial_offsets(num_heads: int, num_levels: int, num_points: int) -> Any:
    """Head h looks into direction 2 pi h / heads, point p at a distance of p + 1 cells."""
    angles = np.arange(num_heads) * 2 * math.pi / num_heads
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # [heads, (x, y)]
    directions /= np.abs(directions).max(axis=-1, keepdims=True)
    distances = np.arange(1, num_points + 1)[:, np.newaxis]
    offsets = directions[:, np.newaxis, np.newaxis] * distances  # [heads, 1, points, 2]
    offsets = np.tile(offsets, [1, num_levels, 1, 1])
    return tf.keras.initializers.Constant(offsets.ravel().astype(np.float32))
