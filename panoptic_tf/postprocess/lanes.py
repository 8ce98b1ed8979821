"""Rows of masks as machine words: arithmetic on eight pixels at a time.

A mask has 0 or 1 in a lane of 8 or 16 bits for each pixel, and an int64 has the lanes of its bits.
Sums and products of lanes are those of words, as long as no lane overflows. TFLite has no such
words; there a lane is a float32, and the same functions compute the same.
"""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.layers.operators import only_builtin_operators

WIDTH_MULTIPLE = 8
"""Masks are a multiple of this many pixels wide."""

_BYTES_OF_WORD = 8


class Lanes:
    """How masks are stored; decided when a graph is traced.

    Attributes:
      dtype: of lanes; their last dimension is W / `pixels`.
      pixels: lanes of one element.
      bits: of a lane, that can be set.
    """

    def __init__(self, largest: int):
        """See the class.

        Args:
          largest: what a lane must hold, below 2^16.
        """
        self._is_portable = only_builtin_operators()
        self._lane = tf.uint8 if largest < 2**8 else tf.uint16
        self.dtype = tf.float32 if self._is_portable else tf.int64
        self.pixels = 1 if self._is_portable else _BYTES_OF_WORD // self._lane.size
        # Of float32, 16 of 24: planes of 32 bits consist of whole groups.
        self.bits = 16 if self._is_portable else 8 * self._lane.size

    def pack(self, mask: tf.Tensor) -> tf.Tensor:
        """Bool [n, W] to lanes of 0 and 1, [n, W / pixels]."""
        if self._is_portable:
            return tf.cast(mask, tf.float32)
        width = mask.shape[-1] // self.pixels
        return tf.bitcast(tf.reshape(tf.cast(mask, self._lane), [-1, width, self.pixels]), tf.int64)

    def unpack(self, lanes: tf.Tensor) -> tf.Tensor:
        """Lanes [n, W / pixels] to their values, int32 [n, W]."""
        if self._is_portable:
            return tf.cast(lanes, tf.int32)
        width = lanes.shape[-1] * self.pixels
        return tf.reshape(tf.cast(tf.bitcast(lanes, self._lane), tf.int32), [-1, width])

    def zeros(self, rows: int, width: int) -> tf.Tensor:
        """Lanes [rows, width / pixels] of 0."""
        return tf.zeros([rows, width // self.pixels], self.dtype)

    def ones(self, rows: int, width: int) -> tf.Tensor:
        """Lanes [rows, width / pixels] of 1."""
        return self.pack(tf.ones([rows, width], tf.bool))

    def both(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """1 where two masks are 1."""
        if self._is_portable:
            return first * second
        return tf.bitwise.bitwise_and(first, second)

    def column_sums(self, masks: tf.Tensor) -> tf.Tensor:
        """Pixels by column of lanes [n, rows, W / pixels], at most 255 rows: float32 [n, W]."""
        sums = tf.reduce_sum(masks, axis=1)
        return sums if self._is_portable else tf.cast(self.unpack(sums), tf.float32)
