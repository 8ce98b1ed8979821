"""Bilinear samples anywhere on a feature map, and their product with a matrix.

What a deformable convolution (arXiv:1703.06211, arXiv:1811.11168) computes, without its parameters.
A sample is a weighted sum of four cells. All samples of a map are one product with a sparse matrix,
which is cheap beside the dense product that follows; both run over a part of the cells at a time,
so that what lies between them stays in the cache and nothing of it is kept for the gradient.
"""

from __future__ import annotations

import math
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union

import tensorflow as tf

from panoptic_tf.layers import operators

Size = Union[int, tf.Tensor]

# Samples that lie in memory at a time. A larger tensor would also come from fresh pages.
_CHUNK_BYTES = 5_000_000
_HIGH_WORD = 1 << 32


class Corner(NamedTuple):
    """One of the four cells around each sample.

    Attributes:
      index: int32, of the cell; of one on the border if it lies outside.
      weight: float32, of the same shape.
    """

    index: tf.Tensor
    weight: tf.Tensor


def find_corners(
    y: tf.Tensor, x: tf.Tensor, height: Size, width: Size, factor: Optional[tf.Tensor] = None
) -> List[Corner]:
    """The four cells around each position, and what each weighs.

    A cell outside the map weighs nothing. Positions that are not finite lie outside. The weights
    have a gradient with respect to the positions; at whole numbers it is the one towards larger
    positions, as in torchvision.

    Args:
      y: float32 [...], in cells, 0 being the center of the first.
      x: float32 [...].
      height: of the map.
      width: of the map.
      factor: float32 [...], of the weights.

    Returns:
      Four of [...], rows before columns.
    """
    top, bottom = _along_axis(y, height)
    left, right = _along_axis(x, width)
    if factor is not None:
        top, bottom = ((cell, share * factor) for cell, share in (top, bottom))
    return [
        Corner(row[0] * width + column[0], row[1] * column[1])
        for row in (top, bottom)
        for column in (left, right)
    ]


def _along_axis(position: tf.Tensor, size: Size) -> List[Tuple[tf.Tensor, tf.Tensor]]:
    """(cell, weight) below and above each position."""
    last = tf.cast(size, tf.float32) - 1.0
    # The gradient at -1 counts: it is where the first tap of a border cell lies at offset 0.
    position = tf.where((position >= -1.0) & (position < last + 1.0), position, -1.0)
    low = tf.floor(position)
    share = position - low
    return [
        (tf.cast(tf.maximum(low, 0.0), tf.int32), tf.where(low >= 0.0, 1.0 - share, 0.0)),
        (tf.cast(tf.minimum(low + 1.0, last), tf.int32), tf.where(low < last, share, 0.0)),
    ]


def sampled_product(
    cells: tf.Tensor,
    corners: Sequence[Corner],
    kernel: tf.Tensor,
    *,
    training: Optional[bool] = None,
) -> tf.Tensor:
    """Samples of a map, those of an output cell side by side, times a matrix.

    Args:
      cells: float32 [N, C].
      corners: four of [B, n, S] of the cells; see `find_corners`.
      kernel: [S * C, D], of the dtype that is multiplied in.
      training: whether gradients will be asked for, which are fast then.

    Returns:
      [B * n, D] of the kernel's dtype.
    """
    shape = corners[0].index.shape
    sample_bytes = cells.shape[-1] * shape[2] * cells.dtype.size
    known = math.prod(size for size in shape[:2] if size is not None)
    count = max(-(-known * sample_bytes // _CHUNK_BYTES), 1)
    corners = [Corner(*(tf.reshape(x, [-1, shape[2]]) for x in corner)) for corner in corners]
    if operators.only_builtin_operators():
        return _product_by_corner(cells, corners, kernel, count)
    index, weight = (tf.stack(x, axis=-1) for x in zip(*corners))  # [B * n, S, 4]
    is_portable = operators.only_portable_operators() or operators.has_accelerator()
    sample = _gather if is_portable else _multiply

    def product(cells: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        chunks = zip(_split(index, count), _split(weight, count))
        parts = [_columns(sample(cells, i, w), kernel) @ kernel for i, w in chunks]
        return tf.concat(parts, axis=0)

    @tf.custom_gradient
    def with_gradient(cells: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> Tuple[tf.Tensor, ...]:
            chunks = zip(*(_split(x, count) for x in (index, weight, upstream)))
            parts = [_gradients(cells, i, w, kernel, u) for i, w, u in chunks]
            of_cells, of_weight, of_kernel = zip(*parts)
            of_kernel = tf.cast(tf.add_n(of_kernel), kernel.dtype)
            return tf.add_n(of_cells), tf.concat(of_weight, axis=0), of_kernel

        return product(cells, weight, kernel), gradient

    function = with_gradient if training is True and not is_portable else product
    return function(cells, weight, kernel)


def _product_by_corner(
    cells: tf.Tensor, corners: Sequence[Corner], kernel: tf.Tensor, count: int
) -> tf.Tensor:
    """The product for TFLite; corners are [B * n, S].

    TFLite takes longer to put the four corners side by side, and to multiply a small matrix for
    each sample, than for all of this.
    """
    chunks = zip(*(map(Corner, _split(c.index, count), _split(c.weight, count)) for c in corners))
    parts = []
    for chunk in chunks:
        terms = [
            tf.gather(cells, tf.reshape(corner.index, [-1])) * tf.reshape(corner.weight, [-1, 1])
            for corner in chunk
        ]  # [n * S, C]
        samples = (terms[0] + terms[1]) + (terms[2] + terms[3])
        parts.append(_columns(samples, kernel) @ kernel)
    return tf.concat(parts, axis=0)


def _split(x: tf.Tensor, count: int) -> List[tf.Tensor]:
    """At most `count` parts of the first axis, the later ones shorter."""
    total = x.shape[0]
    if count == 1:
        return [x]
    if total is None:
        size = (tf.shape(x)[0] + count - 1) // count
        return [x[i * size : (i + 1) * size] for i in range(count)]
    # Not slices, which TFLite copies a value at a time.
    size = -(-total // count)
    return tf.split(x, [min(size, total - i) for i in range(0, total, size)])


def _columns(samples: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """[n * S, C] -> [n, S * C], of the kernel's dtype."""
    return tf.cast(tf.reshape(samples, [-1, kernel.shape[0]]), kernel.dtype)


def _gradients(
    cells: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients with respect to cells, weight and kernel of a part of the output cells."""
    columns = _columns(_multiply(cells, index, weight), kernel)
    of_kernel = tf.matmul(columns, upstream, transpose_a=True)
    of_columns = tf.matmul(upstream, kernel, transpose_b=True)
    of_samples = tf.reshape(tf.cast(of_columns, tf.float32), [-1, cells.shape[-1]])  # [n * S, C]
    corners = tf.unstack(tf.reshape(index, [-1, 4]), axis=-1)
    # A corner at a time, which leaves each product as large as the samples.
    dots = [tf.reduce_sum(tf.gather(cells, i) * of_samples, axis=-1) for i in corners]
    of_weight = tf.reshape(tf.stack(dots, axis=-1), tf.shape(weight))
    of_cells = _multiply(of_samples, index, weight, cells=tf.shape(cells)[0])
    return of_cells, of_weight, tf.cast(of_kernel, tf.float32)


def _gather(cells: tf.Tensor, index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """[N, C] -> [n * S, C], of operators that XLA and accelerators have."""
    index, weight = tf.reshape(index, [-1, 4]), tf.reshape(weight, [-1, 1, 4])
    return tf.squeeze(tf.matmul(weight, tf.gather(cells, index)), axis=1)


def _multiply(x: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, *, cells: Any = None) -> tf.Tensor:
    """[N, C] -> [n * S, C], or with the number of cells the transpose of that."""
    index, weight = tf.reshape(index, [-1, 4]), tf.reshape(weight, [-1])
    samples = tf.shape(index)[0]
    # (sample, cell) in the two words of one integer: a single pass over memory.
    rows = tf.range(tf.cast(samples, tf.int64), dtype=tf.int64)[:, tf.newaxis]
    keys = tf.reshape(rows + tf.cast(index, tf.int64) * _HIGH_WORD, [-1])
    size = tf.stack([samples, tf.shape(x)[0] if cells is None else cells])
    return tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=tf.bitcast(keys, tf.int32),
        a_values=weight,
        a_shape=tf.cast(size, tf.int64),
        b=x,
        adjoint_a=cells is not None,
    )
