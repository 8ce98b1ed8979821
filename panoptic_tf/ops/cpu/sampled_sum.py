"""Weighted sums of rows as one product with a sparse matrix."""

from __future__ import annotations

from typing import Any, Tuple

import tensorflow as tf

from panoptic_tf.ops import chunks, forms
from panoptic_tf.ops import sampled_sum as reference
from panoptic_tf.ops.cpu import sparse


@forms.register(reference.sampled_sum, forms.Form.CPU)
def sampled_sum(cells: tf.Tensor, index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """See the reference."""

    @tf.custom_gradient
    def forward(cells: tf.Tensor, weight: tf.Tensor) -> Tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
            count = tf.shape(cells)[0]
            of_cells = sparse.sum_rows(upstream, index, weight, transposed_rows=count)
            sample_bytes = 4 * index.shape[1] * cells.shape[1]
            at_once = max(chunks.CACHE_BYTES // sample_bytes, 1)
            of_weight = chunks.map_chunks(
                lambda index, upstream: reference.products(cells, index, upstream),
                [index, upstream],
                at_once=at_once,
                dtype=tf.float32,
            )
            return of_cells, of_weight

        return sparse.sum_rows(cells, index, weight), gradient

    return forward(cells, weight)
