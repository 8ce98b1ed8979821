"""Large intermediate values, a part of the rows at a time: in a loop, or side by side."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable, List, Sequence, Tuple, Union

import tensorflow as tf

Size = Union[int, tf.Tensor]

# Samples of a deformable convolution that lie in a cache at a time. A larger tensor would also come
# from fresh pages.
CACHE_BYTES = 5_000_000
_PARTS_AT_ONCE = 8


def in_turn(
    function: Callable[..., Any], parts: Iterable[Sequence[tf.Tensor]], *, after: tf.Tensor
) -> List[Any]:
    """function(*part) of each part, side by side in the graph.

    TensorFlow would compute the first step of all parts, then the next one, and hold all of them.

    Args:
      function: to tensors.
      parts: its arguments.
      after: a tensor before which nothing is computed.
    """
    results: List[Any] = []
    for k, part in enumerate(parts):
        before = results[k - _PARTS_AT_ONCE] if k >= _PARTS_AT_ONCE else after
        with tf.control_dependencies(tf.nest.flatten(before)):
            results.append(function(*part))
    return results


def map_chunks(
    function: Callable[..., tf.Tensor],
    arrays: Sequence[tf.Tensor],
    *,
    at_once: Size,
    dtype: tf.DType,
) -> tf.Tensor:
    """function(*arrays), of a part of the rows at a time, in a loop.

    Args:
      function: from rows of the arrays, and of zeros, to rows of the result.
      arrays: [M, ...] each, static but for M.
      at_once: rows of a part, int32 [] or an integer.
      dtype: of the result.

    Returns:
      [M, ...].
    """
    part, count, total = sizes(arrays[0], at_once)
    found = tf.map_fn(
        lambda chunk: function(*chunk),
        tuple(stack(array, part, count) for array in arrays),
        fn_output_signature=dtype,
        parallel_iterations=1,
    )
    return tf.reshape(found, [-1, *found.shape[2:]])[:total]


def sizes(x: tf.Tensor, at_once: Size) -> Tuple[Size, Size, Size]:
    """Rows of a part, parts (at least one) and rows of [M, ...]; integers where all is static."""
    total = x.shape[0]
    if total is not None and isinstance(at_once, int):
        part = max(min(at_once, total), 1)
        return part, max(-(-total // part), 1), total
    total = tf.shape(x)[0]
    part = tf.clip_by_value(at_once, 1, tf.maximum(total, 1))
    return part, tf.maximum(-(-total // part), 1), total


def stack(x: tf.Tensor, part: Size, count: Size) -> tf.Tensor:
    """[M, ...] to [count, part, ...], filled up with zeros."""
    total = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    # Not a pad, which of int64 is no operator of GPUs.
    filled = tf.concat([x, tf.zeros([count * part - total, *x.shape[1:]], x.dtype)], axis=0)
    return tf.reshape(filled, [count, part, *x.shape[1:]])


def count_for_cache(index: tf.Tensor, cells: tf.Tensor) -> int:
    """Into how many parts the samples [B, n, S] of cells [N, C] are split.

    What is not known when the graph is built counts as 1.
    """
    sample_bytes = cells.shape[-1] * index.shape[2] * cells.dtype.size
    known = math.prod(size for size in index.shape[:2] if size is not None)
    return max(-(-known * sample_bytes // CACHE_BYTES), 1)


def split(x: tf.Tensor, count: int) -> List[tf.Tensor]:
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
