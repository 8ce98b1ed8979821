"""Padding costs a CPU time."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops import trim as reference


@forms.register(reference.trim, forms.Form.CPU)
def trim(count: tf.Tensor, *tables: tf.Tensor, axis: int = 1) -> Tuple[tf.Tensor, ...]:
    """See the reference."""
    index = (slice(None),) * axis + (slice(tf.maximum(count, 1)),)
    return tuple(table[index] for table in tables)


@forms.register(reference.drop_empty_channels, forms.Form.CPU)
def drop_empty_channels(masks: tf.Tensor) -> tf.Tensor:
    """See the reference."""
    present = tf.reduce_any(tf.reduce_max(masks, axis=[1, 2]) > 0, axis=0)  # [S]
    is_first = tf.range(tf.size(present)) == 0
    channels = tf.where(tf.logical_or(present, is_first))[:, 0]
    return tf.gather(masks, channels, axis=3)
