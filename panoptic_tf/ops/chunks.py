"""Parts of the rows of a product, of a size that is fit for a cache."""

from __future__ import annotations

import math
from typing import List

import tensorflow as tf

# Samples that lie in memory at a time. A larger tensor would also come from fresh pages.
CHUNK_BYTES = 5_000_000


def count_for(index: tf.Tensor, cells: tf.Tensor) -> int:
    """Into how many parts the samples [B, n, S] of cells [N, C] are split.

    What is not known when the graph is built counts as 1.
    """
    sample_bytes = cells.shape[-1] * index.shape[2] * cells.dtype.size
    known = math.prod(size for size in index.shape[:2] if size is not None)
    return max(-(-known * sample_bytes // CHUNK_BYTES), 1)


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
