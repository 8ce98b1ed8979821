"""The best outputs that the heads can have, from targets: for the ceiling."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.ops.roi_mask_targets import roi_mask_targets
from panoptic_tf.structures import Tensors

_CONFIDENT = 20.0
_STRIDE = 4


def ideal_outputs(targets: Tensors, *, num_channels: int, mask_size: int) -> Tensors:
    """Targets in the form of the heads' outputs.

    Args:
      targets: features and labels of `PanopticFPNTargetGenerator`, batched.
      num_channels: C of the semantic branch.
      mask_size: m, cells per side of a mask.

    Returns:
      What `PanopticFPNPostProcessor` takes. The semantic logits [B, H / 4, W / 4, C + 1] are
      proportional to the share of each channel in the cell, the last of pixels that the semantic
      loss ignores.
    """
    outputs = {}
    if "semantic_mask" in targets:
        mask = targets["semantic_mask"]
        one_hot = tf.one_hot(tf.where(mask > 0, mask - 1, num_channels), num_channels + 1)
        pooled = tf.nn.avg_pool2d(one_hot, [_STRIDE, _STRIDE], _STRIDE, "SAME")
        outputs["semantic_logits"] = _CONFIDENT * pooled
    if "gt_boxes" in targets:
        boxes, valid = targets["gt_boxes"], targets["gt_valid"]
        rows = tf.tile(tf.range(tf.shape(boxes)[1])[tf.newaxis], [tf.shape(boxes)[0], 1])
        masks = roi_mask_targets(targets["gt_masks"], boxes, rows, output_size=mask_size)
        outputs.update(
            boxes=boxes,
            classes=targets["gt_classes"],
            valid=valid,
            scores=tf.cast(valid, tf.float32),
            masks=tf.reshape(masks, [-1, *boxes.shape[1:2], mask_size, mask_size]),
        )
    return outputs
