"""Deformable convolution whose samples are products with sparse matrices.

Such a product is cheap beside the dense one that follows. Both run over a part of the cells at a
time, so that what lies between them stays in the cache and nothing of it is kept for the gradient.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops import chunks, forms
from panoptic_tf.ops import deformable_conv2d as reference
from panoptic_tf.ops.cpu import sparse


@forms.register(reference.index_dtype, forms.Form.CPU)
def index_dtype() -> tf.DType:
    """See the reference."""
    return tf.int32


@forms.register(reference.sampled_product, forms.Form.CPU)
def sampled_product(
    cells: tf.Tensor,
    corners: Sequence[reference.Corner],
    kernel: tf.Tensor,
    *,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """See the reference."""
    count = chunks.count_for_cache(corners[0].index, cells)
    index, weight = reference.stack_corners(corners, axis=2)  # [B * n, S, 4]

    def product(cells: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        def multiply(index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            return reference.columns(_multiply(cells, index, weight), kernel) @ kernel

        split = zip(chunks.split(index, count), chunks.split(weight, count))
        return tf.concat(chunks.in_turn(multiply, split, after=cells), axis=0)

    @tf.custom_gradient
    def with_gradient(cells: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, ...]:
            sums: List[tf.Tensor] = []

            def add(index: tf.Tensor, weight: tf.Tensor, upstream: tf.Tensor) -> List[tf.Tensor]:
                of_weight, *found = _gradients(cells, index, weight, kernel, upstream)
                sums[:] = [a + b for a, b in zip(sums, found)] if sums else found
                return [of_weight, *sums]

            split = zip(*(chunks.split(x, count) for x in (index, weight, upstream)))
            of_weight = [part for part, *_ in chunks.in_turn(add, split, after=upstream)]
            of_cells, of_kernel = sums
            return of_cells, tf.concat(of_weight, axis=0), tf.cast(of_kernel, kernel.dtype)

        return product(cells, weight, kernel), gradient

    function = with_gradient if training is True else product
    return function(cells, weight, kernel)


def _gradients(
    cells: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients with respect to weight, cells and kernel of a part of the output cells."""
    columns = reference.columns(_multiply(cells, index, weight), kernel)
    of_kernel = tf.matmul(columns, upstream, transpose_a=True)
    of_columns = tf.matmul(upstream, kernel, transpose_b=True)
    of_samples = tf.reshape(tf.cast(of_columns, tf.float32), [-1, cells.shape[-1]])  # [n * S, C]
    corners = tf.unstack(tf.reshape(index, [-1, 4]), axis=-1)
    # A corner at a time, which leaves each product as large as the samples.
    dots = [tf.reduce_sum(tf.gather(cells, i) * of_samples, axis=-1) for i in corners]
    of_weight = tf.reshape(tf.stack(dots, axis=-1), tf.shape(weight))
    of_cells = _multiply(of_samples, index, weight, cells=tf.shape(cells)[0])
    return of_weight, of_cells, tf.cast(of_kernel, tf.float32)


def _multiply(x: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, *, cells: Any = None) -> tf.Tensor:
    """[N, C] -> [n * S, C], or with the number of cells the transpose of that."""
    index, weight = tf.reshape(index, [-1, 4]), tf.reshape(weight, [-1, 4])
    return sparse.sum_rows(x, index, weight, transposed_rows=cells)
