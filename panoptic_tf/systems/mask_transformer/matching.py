"""Which query is which segment's: matching at the smallest total cost (DETR, arXiv:2005.12872).

Every prediction of every image is matched for itself.
"""

from __future__ import annotations

from typing import Callable

import tensorflow as tf

from panoptic_tf.losses.focal import sigmoid_focal_loss
from panoptic_tf.losses.smoothed_dice import smoothed_dice
from panoptic_tf.ops.linear_assignment import linear_assignment

PairCosts = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def match(
    class_costs: tf.Tensor,
    embeddings: tf.Tensor,
    features: tf.Tensor,
    masks: tf.Tensor,
    valid: tf.Tensor,
    pair_costs: PairCosts,
) -> tf.Tensor:
    """Assigns a query to each segment; nothing gets a gradient.

    Args:
      class_costs: float32 [B, L, M, Q], of L predictions, M segments and Q queries.
      embeddings: float32 [B, L, Q, C].
      features: float32 [B, N, C], N cells or points of the features that masks are made of.
      masks: float32 [B, M, N], 0..1, what segments cover of them.
      valid: bool [B, M].
      pair_costs: from logits [B, Q, N] and masks [B, M, N] to costs [B, M, Q].

    Returns:
      int64 [B, L, M], the query of each segment; -1 where it is not valid.
    """
    class_costs, embeddings, features = (
        tf.stop_gradient(x) for x in (class_costs, embeddings, features)
    )

    def costs_of(inputs: tf.Tensor) -> tf.Tensor:
        of_classes, embeddings = inputs
        logits = tf.matmul(embeddings, features, transpose_b=True)  # [B, Q, N]
        return of_classes + pair_costs(logits, masks)

    # A prediction at a time: logits of all of them are the largest tensor there is.
    costs = tf.map_fn(
        costs_of,
        (tf.transpose(class_costs, [1, 0, 2, 3]), tf.transpose(embeddings, [1, 0, 2, 3])),
        fn_output_signature=tf.float32,
        parallel_iterations=1,
    )  # [L, B, M, Q]
    columns = linear_assignment(costs, tf.broadcast_to(valid, tf.shape(costs)[:3]))
    return tf.transpose(columns, [1, 0, 2])


def class_costs(class_logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """-p of the class of each segment: float32 [B, L, Q, K + 1], int [B, M] -> [B, L, M, Q]."""
    probabilities = tf.nn.softmax(class_logits)
    own = tf.gather(tf.transpose(probabilities, [0, 3, 1, 2]), classes, axis=1, batch_dims=1)
    return -tf.transpose(own, [0, 2, 1, 3])  # [B, M, L, Q] -> [B, L, M, Q]


def entropy_costs(logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """Mean binary cross-entropy of every pair; see `match`.

    CE(x, t) = softplus(x) - x t, so that the pairs are one product of matrices.
    """
    of_background = tf.reduce_sum(tf.nn.softplus(logits), axis=-1)  # [B, Q]
    difference = of_background[:, tf.newaxis] - tf.matmul(masks, logits, transpose_b=True)
    return difference / tf.cast(tf.shape(logits)[-1], tf.float32)


def focal_costs(logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """Mean focal loss of every pair; see `match` and `losses.focal`. Masks are 0 or 1.

    With f(t) the loss against t: sum of f(0) + t (f(1) - f(0)).
    """
    of_background = sigmoid_focal_loss(logits, tf.zeros_like(logits))
    difference = sigmoid_focal_loss(logits, tf.ones_like(logits)) - of_background
    pairs = tf.matmul(masks, difference, transpose_b=True)
    total = tf.reduce_sum(of_background, axis=-1)[:, tf.newaxis] + pairs
    return total / tf.cast(tf.shape(logits)[-1], tf.float32)


def dice_costs(logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """`smoothed_dice` of every pair; see `match`."""
    p = tf.sigmoid(logits)
    overlap = tf.matmul(masks, p, transpose_b=True)  # [B, M, Q]
    areas = (
        tf.reduce_sum(masks, axis=-1)[..., tf.newaxis] + tf.reduce_sum(p, axis=-1)[:, tf.newaxis]
    )
    return smoothed_dice(overlap, areas)
