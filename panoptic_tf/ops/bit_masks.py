"""Masks of instances as bits of integers.

100 masks that may overlap cost 16 bytes per pixel instead of 100 or 400.
"""

from __future__ import annotations

import tensorflow as tf

BITS_PER_PLANE = 32
_BYTES_PER_PLANE = 4


def pack_instance_ids(
    instance_mask: tf.Tensor, row_of_id: tf.Tensor, *, num_planes: int
) -> tf.Tensor:
    """Packs masks that do not overlap.

    Args:
      instance_mask: int32 [H, W], ids from 0.
      row_of_id: int32 [largest id + 1], the bit of each id; -1 (for 0 as a rule): none.
      num_planes: P; bits of 32 * P and above are dropped.

    Returns:
      int32 [H, W, P]: bit i % 32 of plane i // 32 says whether the pixel belongs to row i.
    """
    row = row_of_id[:, tf.newaxis]
    bit = tf.bitwise.left_shift(1, tf.math.floormod(row, BITS_PER_PLANE))
    is_plane = tf.math.floordiv(row, BITS_PER_PLANE) == tf.range(num_planes)
    words = tf.where(is_plane, bit, 0)  # [ids, P]
    return tf.gather(words, instance_mask)


def pack_masks(masks: tf.Tensor, *, num_planes: int) -> tf.Tensor:
    """Packs masks that may overlap.

    Args:
      masks: uint8 {0, 1} [K, H, W]; any number K, of which those from 32 * P are dropped.
      num_planes: P.

    Returns:
      int32 [H, W, P], see `pack_instance_ids`.
    """
    static = masks.shape[1:]
    masks = masks[: num_planes * BITS_PER_PLANE]
    shape = tf.shape(masks)
    missing = -shape % tf.constant([8, 1, 8])
    masks = tf.pad(masks, [[0, missing[0]], [0, 0], [0, missing[2]]])
    width = shape[2] + missing[2]
    # Eight pixels at once, as the bytes of an integer: [K / 8, 8, H, W / 8].
    pixels = tf.bitcast(tf.reshape(masks, [-1, 8, shape[1], width // 8, 8]), tf.int64)
    octets = tf.add_n([pixels[:, i] * (1 << i) for i in range(8)])
    octets = tf.reshape(tf.bitcast(octets, tf.uint8), [-1, shape[1], width])[..., : shape[2]]
    octets = tf.pad(octets, [[0, -tf.shape(octets)[0] % _BYTES_PER_PLANE], [0, 0], [0, 0]])
    octets = tf.reshape(tf.cast(octets, tf.int32), [-1, _BYTES_PER_PLANE, shape[1], shape[2]])
    words = tf.add_n([tf.bitwise.left_shift(octets[:, i], 8 * i) for i in range(_BYTES_PER_PLANE)])
    words = tf.pad(words, [[0, num_planes - tf.shape(words)[0]], [0, 0], [0, 0]])
    return tf.ensure_shape(tf.transpose(words, [1, 2, 0]), [*static, num_planes])
