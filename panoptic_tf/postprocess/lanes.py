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
_BITS_OF_PLANE = 32


class Lanes:
    """How the masks of some instances are stored; decided when a graph is traced.

    A canvas has the masks of a group of `bits` instances, each in one bit of all lanes.

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
        self._ones = sum(1 << 8 * self._lane.size * i for i in range(self.pixels))
        # Of float32, 16 of 24: planes of 32 bits consist of whole groups.
        self.bits = 16 if self._is_portable else 8 * self._lane.size

    def pack(self, mask: tf.Tensor) -> tf.Tensor:
        """Bool [n, W] to lanes of 0 and 1, [n, W / pixels]."""
        if self._is_portable:
            return tf.cast(mask, tf.float32)
        width = mask.shape[-1] // self.pixels
        return tf.bitcast(tf.reshape(tf.cast(mask, self._lane), [-1, width, self.pixels]), tf.int64)

    def unpack(self, lanes: tf.Tensor) -> tf.Tensor:
        """Lanes [..., W / pixels] to their values, int32 [..., W]."""
        if self._is_portable:
            return tf.cast(lanes, tf.int32)
        shape = tf.concat([tf.shape(lanes)[:-1], [lanes.shape[-1] * self.pixels]], axis=0)
        values = tf.reshape(tf.cast(tf.bitcast(lanes, self._lane), tf.int32), shape)
        return tf.ensure_shape(values, [*lanes.shape[:-1], lanes.shape[-1] * self.pixels])

    def filled(self, value: tf.Tensor, rows: int, width: int) -> tf.Tensor:
        """Lanes [rows, width / pixels] of one value, int32 []."""
        if not self._is_portable:
            value = tf.cast(value, tf.int64) * self._ones
        return tf.fill([rows, width // self.pixels], tf.cast(value, self.dtype))

    def bit(self, k: tf.Tensor) -> tf.Tensor:
        """The bit of instance k in the lanes of its group."""
        powers = tf.constant([1 << i for i in range(self.bits)], self.dtype)
        return tf.gather(powers, k % self.bits)

    def groups(self, count: int) -> int:
        """How many groups of `bits` instances fill the planes that `count` instances need."""
        return -(-count // _BITS_OF_PLANE) * (_BITS_OF_PLANE // self.bits)

    def join_bits(self, groups: tf.Tensor) -> tf.Tensor:
        """Lanes [B, groups, R, W / pixels] to planes of 32 bits, int32 [B, P, R, W]."""
        of_plane = _BITS_OF_PLANE // self.bits
        planes = groups.shape[1] // of_plane
        shape = [-1, of_plane, *groups.shape[2:]]
        groups = tf.unstack(self.unpack(tf.reshape(groups, shape)), axis=1)  # [B * P, R, W] each
        joined = tf.add_n([x * _as_int32(1 << self.bits * i) for i, x in enumerate(groups)])
        return tf.reshape(joined, [-1, planes, *joined.shape[1:]])

    def both(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """1 where two masks are 1."""
        if self._is_portable:
            return first * second
        return tf.bitwise.bitwise_and(first, second)

    def column_sums(self, masks: tf.Tensor) -> tf.Tensor:
        """Pixels by column of lanes [n, rows, W / pixels], at most 255 rows: float32 [n, W]."""
        sums = tf.reduce_sum(masks, axis=1)
        return sums if self._is_portable else tf.cast(self.unpack(sums), tf.float32)


def _as_int32(value: int) -> int:
    return value - (value >> 31 << 32)
