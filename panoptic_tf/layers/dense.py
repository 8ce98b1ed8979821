"""A dense layer over the last axis."""

from __future__ import annotations

import tensorflow as tf


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class Dense(tf.keras.layers.Dense):
    """Keras' layer as one matrix product, with the same variables.

    Of inputs with more than two axes Keras makes a `tensordot`, about twenty operators in a graph
    of any batch size.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, ..., C] -> [B, ..., units]; the axes between are static."""
        if inputs.shape.rank == 2:
            return super().call(inputs)
        rows = super().call(tf.reshape(inputs, [-1, inputs.shape[-1]]))
        return tf.reshape(rows, [-1, *inputs.shape[1:-1], self.units])
