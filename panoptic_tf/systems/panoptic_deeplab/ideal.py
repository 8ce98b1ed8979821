"""The best outputs that heads of a given stride can have, from targets: for the ceiling."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.structures import Tensors

_CONFIDENT = 20.0


def ideal_outputs(
    labels: Tensors, *, stride: int, num_categories: int, align_corners: bool = False
) -> Tensors:
    """Targets at the heads' stride.

    Args:
      labels: what `PanopticDeepLabTargetGenerator` makes, batched.
      stride: of the heads.
      num_categories: N.
      align_corners: the cells lie around every stride-th pixel, from the first to the last.

    Returns:
      `semantic_logits` [B, H / stride, W / stride, N + 1], proportional to the share of each
      category in the cell, the last of pixels that the semantic loss ignores; `center_heatmap`, its
      mean over the cell; `offsets`, of the pixel nearest to the cell's center.
    """
    category = labels["category_mask"]
    channel = tf.where(category > 0, category - 1, num_categories)
    one_hot = tf.one_hot(channel, num_categories + 1)  # [B, H, W, N + 1]
    center = 0 if align_corners else stride // 2
    return {
        "semantic_logits": _CONFIDENT * _mean(one_hot, stride, align_corners),
        "center_heatmap": _mean(labels["center_heatmap"], stride, align_corners),
        "offsets": labels["offsets"][:, center::stride, center::stride],
    }


def _mean(x: tf.Tensor, stride: int, align_corners: bool) -> tf.Tensor:
    """Of each cell; H and W of [B, H, W, C] are multiples of the stride, if aligned plus one."""
    if align_corners:
        # Around the pixel of the cell; at the border of what is there, which 'SAME' counts.
        return tf.nn.avg_pool2d(x, stride + 1, stride, "SAME")
    return tf.nn.avg_pool2d(x, stride, stride, "VALID")
