"""Weighted sums of a few rows of a matrix: y_m = sum_t w_mt x_i(m,t).

What samples a map bilinearly at positions that a network computes, and sums the samples. Nothing of
the size of the samples is kept for the gradient.
"""

from __future__ import annotations

from typing import Any, Tuple

import tensorflow as tf

from panoptic_tf.ops import chunks, forms

_CHUNK_BYTES = 2**28


@forms.op
def sampled_sum(cells: tf.Tensor, index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Sums T rows of a matrix for each row of the result, each times a weight.

    The reference loops over parts of the result. Gradients go to `cells` and `weight`.

    Args:
      cells: float32 [N, C].
      index: int32 or int64 [M, T], rows of `cells`.
      weight: float32 [M, T].

    Returns:
      float32 [M, C].
    """
    at_once = max(_CHUNK_BYTES // (4 * index.shape[1] * cells.shape[1]), 1)

    @tf.custom_gradient
    def forward(cells: tf.Tensor, weight: tf.Tensor) -> Tuple[tf.Tensor, Any]:
        def add(index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            return _sum(tf.gather(cells, index), weight)

        found = chunks.map_chunks(add, [index, weight], at_once=at_once, dtype=cells.dtype)
        return found, lambda upstream: _gradients(cells, index, weight, upstream, at_once)

    return forward(cells, weight)


def _sum(rows: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """[m, T, C], [m, T] -> [m, C]."""
    return tf.matmul(weight[:, tf.newaxis], rows)[:, 0]


def _gradients(
    cells: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, upstream: tf.Tensor, at_once: int
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Of a part of the rows at a time."""
    part, count, total = chunks.sizes(index, at_once)
    stacked = [chunks.stack(x, part, count) for x in (index, weight, upstream)]

    def add(k: tf.Tensor, of_cells: tf.Tensor, of_weight: tf.TensorArray) -> Tuple[Any, ...]:
        index, weight, upstream = (x[k] for x in stacked)
        shares = weight[..., tf.newaxis] * upstream[:, tf.newaxis]  # [m, T, C]
        of_cells = tf.tensor_scatter_nd_add(of_cells, index[..., tf.newaxis], shares)
        return k + 1, of_cells, of_weight.write(k, products(cells, index, upstream))

    start = (
        tf.constant(0),
        tf.zeros_like(cells),
        tf.TensorArray(tf.float32, count, element_shape=[None, index.shape[1]]),
    )
    _, of_cells, of_weight = tf.while_loop(
        lambda k, *_: k < count, add, start, parallel_iterations=1
    )
    return of_cells, tf.reshape(of_weight.stack(), [-1, index.shape[1]])[:total]


def products(cells: tf.Tensor, index: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
    """Products of the indexed rows with a vector for each row of indices.

    Args:
      cells: float32 [N, C].
      index: int32 or int64 [M, T].
      vectors: float32 [M, C].

    Returns:
      float32 [M, T].
    """
    return tf.linalg.matvec(tf.gather(cells, index), vectors)
