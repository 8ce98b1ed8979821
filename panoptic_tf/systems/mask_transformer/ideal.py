"""The best outputs that the network can have, from targets: for the ceiling."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.structures import Tensors

_CONFIDENT = 20.0
_STRIDE = 4


def ideal_outputs(targets: Tensors, *, num_classes: int) -> Tensors:
    """Targets in the form of predictions, one query for each segment.

    Args:
      targets: labels of `MaskTransformerTargetGenerator`, batched.
      num_classes: K.

    Returns:
      What `MaskTransformerPostProcessor` takes.
    """
    valid = targets["segment_valid"] > 0.0  # [B, M]
    count = valid.shape[1]
    classes = tf.where(valid, targets["segment_classes"], num_classes)
    # The share of a cell that a segment has, by its four middle pixels.
    numbers = targets["segment_map"]
    missing = [-size % _STRIDE for size in numbers.shape[1:]]
    numbers = tf.pad(numbers, [[0, 0], [0, missing[0]], [0, missing[1]]])
    middle = [numbers[:, y::_STRIDE, x::_STRIDE] for y in (1, 2) for x in (1, 2)]
    shares = tf.add_n([tf.one_hot(part - 1, count, axis=1) for part in middle]) / len(middle)
    return {
        "class_logits": _CONFIDENT * tf.one_hot(classes, num_classes + 1),
        "mask_logits": _CONFIDENT * (shares - 0.5),  # [B, M, h4, w4]
    }
