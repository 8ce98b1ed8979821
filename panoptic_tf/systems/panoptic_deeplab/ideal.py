"""The best outputs that heads of a given stride can have, from targets: for the ceiling."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.structures import Tensors

_CONFIDENT = 20.0


def ideal_outputs(labels: Tensors, *, stride: int, num_categories: int) -> Tensors:
    """Targets at the heads' stride.

    Args:
      labels: what `PanopticDeepLabTargetGenerator` makes, batched.
      stride: of the heads.
      num_categories: N.

    Returns:
      `semantic_logits` [B, H / stride, W / stride, N + 1], proportional to the share of each
      category in the cell, the last of pixels that the semantic loss ignores; `center_heatmap`, its
      mean over the cell; `offsets`, of the pixel nearest to the cell's center.
    """
    category = labels["category_mask"]
    channel = tf.where(category > 0, category - 1, num_categories)
    one_hot = tf.one_hot(channel, num_categories + 1)  # [B, H, W, N + 1]
    window = [stride, stride]
    return {
        "semantic_logits": _CONFIDENT * tf.nn.avg_pool2d(one_hot, window, stride, "VALID"),
        "center_heatmap": tf.nn.avg_pool2d(labels["center_heatmap"], window, stride, "VALID"),
        "offsets": labels["offsets"][:, stride // 2 :: stride, stride // 2 :: stride],
    }
