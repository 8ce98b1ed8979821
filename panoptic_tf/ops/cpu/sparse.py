"""Taps of any number per bin, and products with sparse matrices: what is fast on CPUs."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Tuple

import tensorflow as tf

from panoptic_tf.ops import bin_weights

_HIGH_WORD = 1 << 32


class AxisTaps(NamedTuple):
    """T taps along one axis of N intervals with S bins each, ordered by bin.

    Attributes:
      bin: int32 [T], interval * S + bin of the interval.
      cell: int32 [T].
      weight: float32 [T], 1 in sum over a bin whose samples all lie inside.
      row_splits: int32 [N + 1], where the taps of each interval start, and T.
    """

    bin: tf.Tensor
    cell: tf.Tensor
    weight: tf.Tensor
    row_splits: tf.Tensor


def axis_taps(
    start: tf.Tensor, end: tf.Tensor, size: tf.Tensor, *, bins: int, sampling_ratio: int
) -> AxisTaps:
    """Taps of any number per bin, for operators that take a ragged number.

    Args:
      start, end, size, bins, sampling_ratio: see `bin_weights.split`.

    Returns:
      `AxisTaps`.
    """
    sampled = bin_weights.split(start, end, size, bins=bins, sampling_ratio=sampling_ratio)
    first, last = bin_weights.first_and_last(sampled)  # [N, S]
    counts = tf.where(sampled.samples > 0.0, last - first + 1.0, 0.0)
    counts = tf.cast(tf.reshape(counts, [-1]), tf.int32)
    rows = tf.range(tf.size(counts))
    pairs = ragged_ranges(rows, tf.cast(tf.reshape(first, [-1]), tf.int32), counts)
    bin_, cell = tf.unstack(pairs, axis=-1)
    fields = [tf.reshape(tf.broadcast_to(x, tf.shape(first)), [-1]) for x in sampled]
    fields = tf.gather(tf.stack(fields, axis=-1), bin_)  # [T, 4]
    of_tap = bin_weights.Bins(*tf.split(fields, 4, axis=-1))  # [T, 1]
    weight = bin_weights.cell_weights(of_tap, tf.cast(cell, tf.float32), sampling_ratio)
    ends = tf.cumsum(counts)[bins - 1 :: bins]  # [N]
    return AxisTaps(bin_, cell, weight, tf.pad(ends, [[1, 0]]))


def ragged_ranges(labels: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """(label, start), (label, start + 1), ...: each row of the arguments as often as it counts.

    Args:
      labels: int32 [N], not negative.
      starts: int32 [N], not negative.
      counts: int32 [N].

    Returns:
      int32 [sum of counts, 2].
    """
    # One integer holds label and start, low word first, and steps by one in the high word: a
    # single pass over memory, where repeating the labels would mask [N, largest count].
    start = tf.cast(labels, tf.int64) + tf.cast(starts, tf.int64) * _HIGH_WORD
    limit = start + tf.cast(counts, tf.int64) * _HIGH_WORD
    ranges = tf.raw_ops.RaggedRange(starts=start, limits=limit, deltas=_HIGH_WORD)
    return tf.bitcast(ranges.rt_dense_values, tf.int32)


def sparse_product(
    index: tf.Tensor, weight: tf.Tensor, cells: tf.Tensor, *, rows: tf.Tensor
) -> tf.Tensor:
    """Weighted sums of rows of a matrix; the gradient goes to the matrix only.

    Args:
      index: int32 [T, 2], row of the result and row of `cells`, in any order; pairs may repeat.
      weight: float32 [T].
      cells: float32 [N, C].
      rows: scalar, M.

    Returns:
      float32 [M, C].
    """
    shape = tf.cast(tf.stack([rows, tf.shape(cells)[0]]), tf.int64)

    def product(x: tf.Tensor, transpose: bool) -> tf.Tensor:
        return tf.raw_ops.SparseTensorDenseMatMul(
            a_indices=index, a_values=weight, a_shape=shape, b=x, adjoint_a=transpose
        )

    @tf.custom_gradient
    def forward(x: tf.Tensor) -> Tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # The operator's own gradient also computes that of the weights: two gathers of [T, C].
        return product(x, False), lambda upstream: product(upstream, True)

    return forward(cells)


def sum_rows(
    x: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, *, transposed_rows: Any = None
) -> tf.Tensor:
    """Weighted sums of T rows of a matrix for each row of the result, or the transpose of that.

    Args:
      x: float32 [N, C]; of the transpose [M, C].
      index: int32 or int64 [M, T], rows of a matrix with N.
      weight: float32 [M, T].
      transposed_rows: int32 [], N of the transpose; None: not the transpose.

    Returns:
      float32 [M, C]; of the transpose [N, C].
    """
    rows = tf.shape(index)[0]
    # (row, index) in the two words of one integer: a single pass over memory.
    first = tf.range(tf.cast(rows, tf.int64), dtype=tf.int64)[:, tf.newaxis]
    keys = tf.reshape(first + tf.cast(index, tf.int64) * _HIGH_WORD, [-1])
    size = tf.stack([rows, tf.shape(x)[0] if transposed_rows is None else transposed_rows])
    return tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=tf.bitcast(keys, tf.int32),
        a_values=tf.reshape(weight, [-1]),
        a_shape=tf.cast(size, tf.int64),
        b=x,
        adjoint_a=transposed_rows is not None,
    )
