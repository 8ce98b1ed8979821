"""Detections from the outputs of a box head (Fast R-CNN, arXiv:1504.08083; background last)."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import tensorflow as tf

from panoptic_tf.ops import boxes as box_ops
from panoptic_tf.ops import nms


class Detections(NamedTuple):
    """K boxes per image by descending score; zeros where not valid.

    Attributes:
      boxes: float32 [B, K, 4], inside the image.
      scores: float32 [B, K], probabilities.
      classes: int32 [B, K], thing index 0..T-1.
      valid: bool [B, K].
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    classes: tf.Tensor
    valid: tf.Tensor


def generate_detections(
    class_logits: tf.Tensor,
    deltas: tf.Tensor,
    proposals: tf.Tensor,
    proposal_valid: tf.Tensor,
    image_size: tf.Tensor,
    *,
    box_weights: Sequence[float],
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    max_detections: int = 100,
    pre_nms_top_k: int = 4000,
) -> Detections:
    """Every proposal is a candidate for every thing category: threshold, NMS per category, best K.

    Of the R * T candidates above the threshold only the `pre_nms_top_k` of largest score are
    decoded and suppressed. Published systems suppress all of them; the results are the same unless
    more than `pre_nms_top_k` pass the threshold AND fewer than `max_detections` of those selected
    survive. A candidate whose box is not finite is dropped.

    Args:
      class_logits: [B, R, T + 1], background last.
      deltas: [B, R, T, 4], of each category.
      proposals: float32 [B, R, 4].
      proposal_valid: bool [B, R].
      image_size: float32 [B, 2], (height, width) of the image in the network's frame, pixels.
      box_weights: (wy, wx, wh, ww) of the deltas.
      score_threshold: largest score that is dropped.
      nms_threshold: IoU above which a box is dropped.
      max_detections: K.
      pre_nms_top_k: static; see above.

    Returns:
      `Detections`.
    """
    proposals_count, things = deltas.shape[1], deltas.shape[2]
    candidates = proposals_count * things
    scores = tf.nn.softmax(tf.cast(class_logits, tf.float32))[..., :things]
    passes = tf.logical_and(scores > score_threshold, proposal_valid[..., tf.newaxis])
    scores = tf.reshape(tf.where(passes, scores, -1.0), [-1, candidates])
    scores, index = tf.math.top_k(scores, k=min(pre_nms_top_k, candidates))  # [B, N]
    # Floats are exact here, and int32 would be divided on the host.
    proposal = tf.floor((tf.cast(index, tf.float32) + 0.5) / things)
    classes = tf.cast(index, tf.float32) - proposal * things

    flat_deltas = tf.reshape(tf.cast(deltas, tf.float32), [-1, candidates, 4])
    chosen_deltas = tf.gather(flat_deltas, index, axis=1, batch_dims=1)  # [B, N, 4]
    chosen = tf.gather(proposals, tf.cast(proposal, tf.int32), axis=1, batch_dims=1)
    boxes = box_ops.decode_boxes(chosen_deltas, chosen, weights=box_weights)
    is_finite = box_ops.finite_boxes(boxes)
    boxes = box_ops.clip_boxes(tf.where(is_finite[..., tf.newaxis], boxes, 0.0), image_size)

    kept, valid = nms.batched_nms(
        boxes,
        tf.where(is_finite, scores, -1.0),
        classes,
        iou_threshold=nms_threshold,
        score_threshold=max(score_threshold, 0.0),
        max_outputs=max_detections,
    )
    boxes, scores, classes = (
        tf.gather(x, kept, axis=1, batch_dims=1) for x in (boxes, scores, classes)
    )
    return Detections(
        boxes=tf.where(valid[..., tf.newaxis], boxes, 0.0),
        scores=tf.where(valid, scores, 0.0),
        classes=tf.cast(tf.where(valid, classes, 0.0), tf.int32),
        valid=valid,
    )
