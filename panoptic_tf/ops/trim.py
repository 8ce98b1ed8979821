"""Leaving out what is padding or empty, where sizes need not be known when a graph is built.

The references leave everything in: XLA compiles static sizes only.
"""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

from panoptic_tf.ops import forms


@forms.op
def trim(count: tf.Tensor, *tables: tf.Tensor, axis: int = 1) -> Tuple[tf.Tensor, ...]:
    """Cuts rows that are padding in every image.

    Args:
      count: int32 [], rows that are not; at least one is left.
      *tables: of one size N along the axis.
      axis: not negative.

    Returns:
      The tables, of N rows or of max(count, 1).
    """
    del count, axis
    return tables


@forms.op
def drop_empty_channels(masks: tf.Tensor) -> tf.Tensor:
    """Leaves out channels that are 0 in the whole batch, but for the first.

    Args:
      masks: uint8 [B, h, w, S].

    Returns:
      uint8 [B, h, w, S] or less.
    """
    return masks
