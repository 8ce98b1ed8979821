"""Masks at a quarter of the image's size, from id maps or from masks.

A cell of 4x4 pixels counts which of the 2x2 pixels in its middle a mask has, 0 to 4: that is four
times what a bilinear resize by one quarter (half-pixel centers, no antialiasing) reads there, and
it fits in a byte.
"""

from __future__ import annotations

import tensorflow as tf

STRIDE = 4
"""Side of a cell, in pixels."""

COUNTED = 4
"""Pixels of a cell that count."""


def count_channels(ids: tf.Tensor, channel_of_id: tf.Tensor, num_channels: int) -> tf.Tensor:
    """How many of a cell's four middle pixels each channel has.

    Args:
      ids: int32 [H, W], 0 and above; H, W static. A pixel past the frame has the id 0.
      channel_of_id: int32, channel + 1 by id, 0 is none; entry 0 is 0.
      num_channels: N.

    Returns:
      uint8 [h4, w4, N], 0..4; h4 = ceil(H / 4), w4 = ceil(W / 4).
    """
    cells = _in_cells(ids[tf.newaxis])[0]
    rows = [tf.reshape(cells[:, y], [-1, STRIDE]) for y in (1, 2)]  # [P, 4] each
    middle = [row[:, x] for row in rows for x in (1, 2)]  # [P] each
    one_hot = tf.eye(num_channels + 1, dtype=tf.uint8)[:, 1:]
    one_hot = tf.gather(one_hot, channel_of_id)  # [ids, N]
    # Right wherever all four are equal, which is nearly everywhere.
    counts = tf.gather(COUNTED * one_hot, middle[0])  # [P, N]
    mixed = tf.where(tf.reduce_any(tf.stack(middle[1:]) != middle[0], axis=0))  # [Q, 1]
    parts = [tf.gather(one_hot, tf.gather_nd(pixel, mixed)) for pixel in middle]
    counts = tf.tensor_scatter_nd_update(counts, mixed, tf.add_n(parts))
    return tf.reshape(counts, [cells.shape[0], cells.shape[2] // STRIDE, num_channels])


def count_masks(masks: tf.Tensor) -> tf.Tensor:
    """How many of a cell's four middle pixels a mask has.

    Args:
      masks: uint8 {0, 1} [K, H, W]; H, W static. A pixel past the frame is 0.

    Returns:
      uint8 [K, h4, w4], 0..4.
    """
    cells = _in_cells(masks)
    # Whole rows first: reading every fourth pixel is slow.
    rows = cells[:, :, 1] + cells[:, :, 2]
    rows = tf.reshape(rows, [-1, cells.shape[1], cells.shape[3] // STRIDE, STRIDE])
    return rows[..., 1] + rows[..., 2]


def _in_cells(values: tf.Tensor) -> tf.Tensor:
    """[K, H, W] -> [K, h4, 4, 4 * w4], 0 past the frame."""
    height, width = (-(-length // STRIDE) for length in values.shape[1:])
    missing = height * STRIDE - values.shape[1], width * STRIDE - values.shape[2]
    if any(missing):
        values = tf.pad(values, [[0, 0], [0, missing[0]], [0, missing[1]]])
    return tf.reshape(values, [-1, height, STRIDE, width * STRIDE])
