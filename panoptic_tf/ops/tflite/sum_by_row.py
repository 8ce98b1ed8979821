"""Sums by row as products of matrices, which every runtime computes alike."""

from __future__ import annotations

import math
from typing import Callable, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops import blocks, forms
from panoptic_tf.ops import sum_by_row as reference


@forms.register(reference.sum_by_row, forms.Form.TFLITE, forms.Form.ONNX)
def sum_by_row(
    values: Sequence[Optional[tf.Tensor]], row_map: tf.Tensor, num_rows: int
) -> Tuple[tf.Tensor, ...]:
    """A block of pixels at a time.

    With M columns row r is the cell (r // M, r % M) of a table, so that

        sum[i, j] = sum over pixels p of [row_p // M = i] * value_p * [row_p % M = j],

    a product of two matrices. A scatter would be less work, but ONNX and OpenVINO keep one of the
    values of an index that is repeated. And to TFLite a segment sum is of unknown size: with one of
    those its older interpreters run nothing of a model on their fast kernels.
    """
    columns = math.isqrt(num_rows - 1) + 1
    rows = -(-num_rows // columns)
    given = [v for v in values if v is not None]

    def tables(row: tf.Tensor, *given: tf.Tensor) -> tf.Tensor:  # [B, n] each -> [B, V, I, J]
        high = tf.floor((row + 0.5) / columns)
        left, right = _one_hot(high, rows), _one_hot(row - high * columns, columns)
        weights = iter(given)
        summed = [right if v is None else right * next(weights)[:, tf.newaxis] for v in values]
        # [B, I, n] x [B, J, n] -> [B, I, J]
        found = [tf.matmul(left, x, transpose_b=True) for x in summed]
        return tf.stack(found, axis=1)

    sums = _sum_blocks(tables, [row_map, *given], values_per_pixel=rows + columns)
    sums = tf.reshape(sums, [-1, len(values), rows * columns])[..., :num_rows]
    return tuple(tf.unstack(sums, axis=1))


def _one_hot(index: tf.Tensor, depth: int) -> tf.Tensor:
    """1 where index [B, n] is the number of the row, else 0: [B, depth, n].

    Of operators that TFLite has fast kernels for.
    """
    numbers = tf.range(depth, dtype=tf.float32)[:, tf.newaxis]
    return tf.nn.relu(1.0 - tf.math.squared_difference(index[:, tf.newaxis], numbers))


def _sum_blocks(
    function: Callable[..., tf.Tensor], maps: Sequence[tf.Tensor], *, values_per_pixel: int
) -> tf.Tensor:
    """function(*maps) of blocks of the maps' pixels, added up.

    Args:
      function: of what [B, n] of each map holds; pixels of -1 add nothing.
      maps: [B, H, W] each, H and W static.
      values_per_pixel: that the function holds.
    """
    pixels = maps[0].shape[1] * maps[0].shape[2]
    count = -(-pixels * values_per_pixel // blocks.values_at_once())
    flat = [tf.reshape(x, [-1, pixels]) for x in maps]
    if count == 1:
        return function(*flat)
    size = -(-pixels // count)

    def split(x: tf.Tensor) -> tf.Tensor:  # [B, H * W] -> [count, B, size]
        x = tf.pad(x, [[0, 0], [0, count * size - pixels]], constant_values=-1.0)
        return tf.transpose(tf.reshape(x, [-1, count, size]), [1, 0, 2])

    stacked = [split(x) for x in flat]

    def add(i: tf.Tensor, total: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        return i + 1, total + function(*(tf.gather(x, i) for x in stacked))

    # Not a map, whose stack of results is of unknown size to TFLite.
    first = function(*(x[0] for x in stacked))
    return tf.while_loop(
        lambda i, _: i < count, add, [tf.constant(1), first], parallel_iterations=1
    )[1]
