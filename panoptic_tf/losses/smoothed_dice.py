"""Dice loss smoothed by 1, as DETR and the mask transformers after it have it."""

from __future__ import annotations

import tensorflow as tf


def smoothed_dice(overlap: tf.Tensor, areas: tf.Tensor) -> tf.Tensor:
    """L = 1 - (2 <p, t> + 1) / (sum p + sum t + 1): MaskFormer (arXiv:2107.06278), its code.

    Args:
      overlap: float32 of any shape, <p, t> of each mask.
      areas: float32 of that shape, sum p + sum t.
    """
    return 1.0 - (2.0 * overlap + 1.0) / (areas + 1.0)
