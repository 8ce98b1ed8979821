"""Coordinates as features (CoordConv, arXiv:1807.03247)."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.layers import resize


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class Coordinates(tf.keras.layers.Layer):
    """Appends each pixel's row and column, both linear from -1 (first) to 1 (last)."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> [B, H, W, C + 2]: features, row, column."""
        height, width = tf.unstack(tf.convert_to_tensor(resize.spatial_size(inputs)))
        # A single row or column is -1, as the start of the line.
        rows = tf.reshape(tf.linspace(-1.0, 1.0, height), [1, -1, 1, 1])
        columns = tf.reshape(tf.linspace(-1.0, 1.0, width), [1, 1, -1, 1])
        blank = tf.zeros_like(inputs[..., :1])
        rows, columns = (tf.cast(c, inputs.dtype) + blank for c in (rows, columns))
        return tf.concat([inputs, rows, columns], axis=-1)
