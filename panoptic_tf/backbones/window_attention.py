"""Attention within windows of a map, as Swin Transformers have it (arXiv:2103.14030, section 3.2).

A map is cut into windows of w x w cells, each of which attends to those of its own window. Shifted
windows wrap around the map, whose opposite ends must not see each other: a mask keeps them apart.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

# What a logit loses that is not to be attended to: exp(-100) is nothing, and float16 holds it.
_BLOCKED = -100.0


def initializer() -> tf.keras.initializers.Initializer:
    """What kernels and biases for positions start from."""
    return tf.keras.initializers.TruncatedNormal(stddev=0.02)


class WindowAttention(tf.keras.layers.Layer):
    """Attention among the cells of a window, of several heads, with a bias for relative positions.

    softmax(q k^T / sqrt(d) + bias) v (equation 4). The bias of cells (y, x) and (y', x') is row
    y - y' + w - 1 and column x - x' + w - 1 of a learned table.

    Variables: `qkv/kernel` [C, 3C], `qkv/bias`, `relative_position_bias_table` [2w - 1, 2w - 1,
    heads], `output/kernel` [C, C], `output/bias`; the columns of `qkv` are query, key and value,
    each by head.

    Args:
      channels: C.
      num_heads: divides C.
      window_size: w.
      **kwargs: of the Keras layer.
    """

    def __init__(self, channels: int, *, num_heads: int, window_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self._num_heads = num_heads
        self._head_size = channels // num_heads
        self._window_size = window_size
        self.qkv = tf.keras.layers.Dense(3 * channels, kernel_initializer=initializer(), name="qkv")
        self.output_dense = tf.keras.layers.Dense(
            channels, kernel_initializer=initializer(), name="output"
        )

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the table of biases."""
        side = 2 * self._window_size - 1
        self.bias_table = self.add_weight(
            name="relative_position_bias_table",
            shape=(side, side, self._num_heads),
            initializer=initializer(),
            dtype=tf.float32,
            experimental_autocast=False,
        )
        super().build(input_shape)

    def call(
        self, inputs: tf.Tensor, shift: int = 0, shift_mask: Optional[tf.Tensor] = None
    ) -> tf.Tensor:
        """Attends.

        Args:
          inputs: [B, H, W, C].
          shift: the windows start this many cells further down and right, and wrap around.
          shift_mask: of `shift_mask`, added to the logits; None adds nothing.

        Returns:
          [B, H, W, C].
        """
        height, width, channels = inputs.shape[1:]
        cells = self._window_size**2
        windows = to_windows(inputs, self._window_size, shift)  # [B * windows * w * w, C]
        qkv = tf.reshape(self.qkv(windows), [-1, cells, 3 * self._num_heads, self._head_size])
        qkv = tf.transpose(qkv, [0, 2, 1, 3])  # [B * windows, 3 * heads, w * w, d]
        query, key, value = tf.split(qkv, 3, axis=1)
        logits = tf.matmul(query * self._head_size**-0.5, key, transpose_b=True)
        weights = tf.cast(self._weigh(tf.cast(logits, tf.float32), shift_mask), value.dtype)
        # [B * windows, heads, w * w, d] -> [B * windows, w * w, heads, d]
        outputs = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        outputs = from_windows(outputs, (height, width, channels), self._window_size, shift)
        outputs = self.output_dense(tf.reshape(outputs, [-1, channels]))
        return tf.reshape(outputs, [-1, height, width, channels])

    def _weigh(self, logits: tf.Tensor, shift_mask: Optional[tf.Tensor]) -> tf.Tensor:
        """Softmax with biases: float32 [B * windows, heads, w * w, w * w] -> the same."""
        heads, cells = logits.shape[1:3]
        if shift_mask is not None:  # [B, windows, heads, w^4] + [windows, 1, w^4]
            logits = tf.reshape(logits, [-1, shift_mask.shape[0], heads, cells**2]) + shift_mask
        table = tf.reshape(self.bias_table, [-1, heads])
        index = tf.constant(relative_positions(self._window_size).reshape(-1))
        bias = tf.transpose(tf.gather(table, index))  # [heads, w^4]
        logits = tf.reshape(logits, [-1, heads * cells, cells])
        logits += tf.reshape(bias, [heads * cells, cells])
        return tf.reshape(tf.nn.softmax(logits), [-1, heads, cells, cells])


def relative_positions(window_size: int) -> np.ndarray:
    """Where the bias of two cells of a w x w window lies in the table, its rows one after another.

    Returns:
      int64 [w * w, w * w], 0 to (2w - 1)^2 - 1. Not int32, which GPUs are sent from the host.
    """
    y, x = np.divmod(np.arange(window_size**2, dtype=np.int64), window_size)
    dy, dx = y[:, np.newaxis] - y, x[:, np.newaxis] - x
    return (dy + window_size - 1) * (2 * window_size - 1) + dx + window_size - 1


def shift_mask(windows: Tuple[int, int], window_size: int, shift: int) -> tf.Tensor:
    """What keeps cells apart that only wrapping around has brought into one window.

    These are in the last row and the last column of windows: their first w - shift cells along the
    axis and the others are from opposite ends of the map.

    Args:
      windows: rows and columns of them.
      window_size: w.
      shift: of the windows, 1 to w - 1.

    Returns:
      float32 [rows * columns, 1, w^4]: 0, or -100 for pairs of cells that are apart. Computed from
      two constants that are small, as a graph that leaves is, too.
    """
    y, x = np.divmod(np.arange(window_size**2), window_size)
    wrapped = [axis >= window_size - shift for axis in (y, x)]
    apart = [_BLOCKED * (w[:, np.newaxis] != w).reshape(-1) for w in wrapped]  # [w^4] each
    last = [np.arange(count) == count - 1 for count in windows]
    rows = (last[0][:, np.newaxis] * apart[0])[:, np.newaxis]  # [rows, 1, w^4]
    columns = (last[1][:, np.newaxis] * apart[1])[np.newaxis]  # [1, columns, w^4]
    mask = tf.minimum(tf.constant(rows, tf.float32), tf.constant(columns, tf.float32))
    return tf.reshape(mask, [-1, 1, window_size**4])


def to_windows(x: tf.Tensor, size: int, shift: int) -> tf.Tensor:
    """[B, H, W, C] -> [B * windows * size * size, C]; pads with zeros, then shifts."""
    height, width, channels = x.shape[1:]
    bottom, right = -height % size, -width % size
    if bottom or right:
        x = tf.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]])
    if shift:
        x = tf.roll(x, [-shift, -shift], axis=[1, 2])
    # [B * rows, size, columns, size * C] -> [B * rows, columns, size, size * C]
    x = tf.reshape(x, [-1, size, (width + right) // size, size * channels])
    return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, channels])


def from_windows(x: tf.Tensor, shape: Sequence[int], size: int, shift: int) -> tf.Tensor:
    """The inverse of `to_windows`, to [B, *shape]."""
    height, width, channels = shape
    padded_height, padded_width = height + -height % size, width + -width % size
    # [B * rows, columns, size, size * C] -> [B * rows, size, columns, size * C]
    x = tf.reshape(x, [-1, padded_width // size, size, size * channels])
    x = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, padded_height, padded_width, channels])
    if shift:
        x = tf.roll(x, [shift, shift], axis=[1, 2])
    return x[:, :height, :width]
