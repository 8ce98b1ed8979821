"""The best outputs that the network can have, from targets: for the ceiling."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.inputs import masks
from panoptic_tf.structures import Tensors

_CONFIDENT = 20.0


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
    counts = tf.map_fn(
        lambda numbers: masks.count_channels(numbers, tf.range(count + 1), count),
        targets["segment_map"],
        fn_output_signature=tf.uint8,
    )  # [B, h4, w4, M]
    shares = tf.cast(tf.transpose(counts, [0, 3, 1, 2]), tf.float32) / masks.COUNTED
    return {
        "class_logits": _CONFIDENT * tf.one_hot(classes, num_classes + 1),
        "mask_logits": _CONFIDENT * (shares - 0.5),  # [B, M, h4, w4]
    }
