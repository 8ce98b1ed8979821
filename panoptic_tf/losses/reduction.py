"""The one reducer: losses come as sums and normalisers per image and leave as one number."""

from __future__ import annotations

import tensorflow as tf


def reduce_loss(weighted_sum: tf.Tensor, normalizer: tf.Tensor) -> tf.Tensor:
    """Divides by the normalisers of the whole global batch.

    Args:
      weighted_sum: float32 [B], this replica's images.
      normalizer: float32 [B].

    Returns:
      float32 []: sum / normaliser summed over batch AND replicas, 0 where that is 0. Summed over
      replicas it is the loss of the global batch, so gradients are to be summed as well.
    """
    total = tf.reduce_sum(normalizer)
    replica_context = tf.distribute.get_replica_context()
    if replica_context is not None:
        total = replica_context.all_reduce(tf.distribute.ReduceOp.SUM, total)
    return tf.math.divide_no_nan(tf.reduce_sum(weighted_sum), total)
