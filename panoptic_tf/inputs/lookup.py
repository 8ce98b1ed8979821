"""Tables looked up by pixel, with what is computed of the entries, in one pass over the ids.

TensorFlow's operators take a pass each and copy entry by entry; XLA makes one loop of a function.
It compiles a function once for each set of shapes, so tables are padded to few lengths.
"""

from __future__ import annotations

from typing import Any, Callable

import tensorflow as tf

_LENGTHS = 256


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled by XLA, for the CPU inside tf.data."""
    return tf.function(function, jit_compile=True, autograph=False)


def pad_table(table: tf.Tensor) -> tf.Tensor:
    """A table [N, ...] padded with zeros to a multiple of 256 rows."""
    missing = -tf.shape(table)[0] % _LENGTHS
    return tf.pad(table, [[0, missing]] + [[0, 0]] * (table.shape.rank - 1))
