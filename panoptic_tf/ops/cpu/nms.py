"""Suppression by an operator that takes a whole batch, several times faster on a CPU."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops import nms as reference


@forms.register(reference.suppress_by_rank, forms.Form.CPU)
def suppress_by_rank(
    boxes: tf.Tensor, ranks: tf.Tensor, iou_threshold: float, max_outputs: int
) -> Tuple[tf.Tensor, tf.Tensor]:
    """See the reference."""
    kept = tf.image.combined_non_max_suppression(
        boxes[:, :, tf.newaxis],
        ranks[..., tf.newaxis],
        max_output_size_per_class=max_outputs,
        max_total_size=max_outputs,
        iou_threshold=iou_threshold,
        score_threshold=0.5,
        clip_boxes=False,
    )
    # It returns scores, which are ranks, but no indices.
    indices = boxes.shape[1] - tf.cast(kept.nmsed_scores, tf.int64)
    return tf.ensure_shape(indices, [None, max_outputs]), kept.valid_detections
