"""Coordinates as features (CoordConv, arXiv:1807.03247)."""

from __future__ import annotations

from typing import Union

import numpy as np
import tensorflow as tf

from panoptic_tf.layers import resize


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class Coordinates(tf.keras.layers.Layer):
    """Appends each pixel's row and column, both linear from -1 (first) to 1 (last)."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> [B, H, W, C + 2]: features, row, column."""
        size = resize.spatial_size(inputs)
        height, width = tf.unstack(size) if tf.is_tensor(size) else size
        rows = tf.reshape(_line(height), [1, -1, 1, 1])
        columns = tf.reshape(_line(width), [1, 1, -1, 1])
        blank = tf.zeros_like(inputs[..., :1])
        rows, columns = (tf.cast(c, inputs.dtype) + blank for c in (rows, columns))
        return tf.concat([inputs, rows, columns], axis=-1)


def _line(count: Union[tf.Tensor, int]) -> tf.Tensor:
    """Points from -1 to 1, float32 [count]; a single one is -1."""
    if tf.is_tensor(count):
        return tf.linspace(-1.0, 1.0, count)
    # One constant instead of some eighty operations, for each level of a pyramid.
    return tf.constant(np.linspace(-1.0, 1.0, count, dtype=np.float32))
