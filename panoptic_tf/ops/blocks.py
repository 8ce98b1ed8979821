"""Large intermediate values, a few rows of an image at a time."""

from __future__ import annotations

from typing import Callable, Sequence

import tensorflow as tf

from panoptic_tf.ops import forms


@forms.op
def values_at_once() -> int:
    """How many values of an image may exist at a time: enough to keep an accelerator busy."""
    return 2**23


def map_rows(
    function: Callable[..., tf.Tensor], arrays: Sequence[tf.Tensor], *, values_per_row: int
) -> tf.Tensor:
    """function(*arrays), of a block of rows at a time.

    Args:
      function: float32 [B, rows, W] of what it is given.
      arrays: [B, H, ...] each, H static.
      values_per_row: how many values the function holds for a row of an image.

    Returns:
      float32 [B, H, W].
    """
    height = arrays[0].shape[1]
    most = max(values_at_once() // values_per_row, 1)
    blocks = -(-height // most)
    if blocks == 1:
        return function(*arrays)
    rows = -(-height // blocks)

    def split(array: tf.Tensor) -> tf.Tensor:  # [B, H, ...] -> [blocks, B, rows, ...]
        rest = array.shape[2:].as_list()
        padding = [[0, 0], [0, blocks * rows - height]] + [[0, 0]] * len(rest)
        array = tf.reshape(tf.pad(array, padding), [-1, blocks, rows, *rest])
        return tf.transpose(array, [1, 0, *range(2, len(array.shape))])

    found = tf.map_fn(
        lambda block: function(*block),
        tuple(split(array) for array in arrays),
        fn_output_signature=tf.float32,
        parallel_iterations=1,
    )
    found = tf.transpose(found, [1, 0, 2, 3])  # [B, blocks, rows, W]
    return tf.reshape(found, [-1, blocks * rows, found.shape[3]])[:, :height]
