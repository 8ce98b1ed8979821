"""The best outputs that the network can have, from targets: for the ceiling."""

from __future__ import annotations

from typing import List

import tensorflow as tf

from panoptic_tf.structures import Tensors

_CONFIDENT = 20.0


def ideal_outputs(targets: Tensors, *, num_classes: int, mask_stride: int) -> Tensors:
    """Targets in the form of predictions, one query for each segment.

    Args:
      targets: labels of `MaskTransformerTargetGenerator`, batched.
      num_classes: K.
      mask_stride: pixels per cell of a mask.

    Returns:
      What `MaskTransformerPostProcessor` takes.
    """
    valid = targets["segment_valid"] > 0.0  # [B, M]
    count = valid.shape[1]
    classes = tf.where(valid, targets["segment_classes"], num_classes)
    middles = _middles(targets["segment_map"], mask_stride)
    shares = tf.add_n([tf.one_hot(x - 1, count) for x in middles]) / len(middles)  # [B, h, w, M]
    return {
        "class_logits": _CONFIDENT * tf.one_hot(classes, num_classes + 1),
        "mask_logits": _CONFIDENT * (tf.transpose(shares, [0, 3, 1, 2]) - 0.5),  # [B, M, h, w]
    }


def _middles(segment_map: tf.Tensor, stride: int) -> List[tf.Tensor]:
    """The four pixels around the middle of each cell: [B, H, W] -> four of [B, h, w]."""
    height, width = segment_map.shape[1:]
    padded = tf.pad(segment_map, [[0, 0], [0, -height % stride], [0, -width % stride]])
    low, high = (stride - 1) // 2, stride // 2
    return [padded[:, y::stride, x::stride] for y in (low, high) for x in (low, high)]
