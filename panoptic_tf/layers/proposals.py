"""Proposals from the outputs of a region proposal network on a pyramid (arXiv:1612.03144, 4.1)."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.ops import boxes as box_ops
from panoptic_tf.ops import nms


class Proposals(NamedTuple):
    """K boxes per image by descending score; zeros where not valid.

    Attributes:
      boxes: float32 [B, K, 4], inside the image.
      scores: float32 [B, K], objectness logits.
      valid: bool [B, K].
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    valid: tf.Tensor


@tf.keras.utils.register_keras_serializable(package="panoptic_tf")
class ProposalGenerator(tf.keras.layers.Layer):
    """Selects, decodes and suppresses anchors; no gradient flows through it.

    Per level: the `pre_nms_top_k` of largest logit, decoded (weights 1), clipped to the image; the
    empty and the not finite dropped; NMS. Then the best `post_nms_top_k` of all levels, of equal
    logits the finer level first. A logit that is not finite is never selected.

    Args:
      pre_nms_top_k: per level.
      post_nms_top_k: K is that, or the sum of what the levels can give if that is less.
      nms_threshold: IoU above which a box is dropped.
      skip_padding: leave out anchors centered beyond the image, where the frame is padding.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        *,
        pre_nms_top_k: int,
        post_nms_top_k: int,
        nms_threshold: float = 0.7,
        skip_padding: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**{"trainable": False, **kwargs, "dtype": "float32"})
        self._pre_nms_top_k = pre_nms_top_k
        self._post_nms_top_k = post_nms_top_k
        self._nms_threshold = nms_threshold
        self._skip_padding = skip_padding

    def call(
        self,
        logits: Mapping[str, tf.Tensor],
        deltas: Mapping[str, tf.Tensor],
        anchors: Mapping[str, np.ndarray],
        image_size: tf.Tensor,
        training: Optional[bool] = None,
    ) -> Proposals:
        """Proposals of a batch.

        Args:
          logits: {level: [B, A]}, objectness of the level's A anchors.
          deltas: {level: [B, A, 4]}.
          anchors: {level: float32 [A, 4]}.
          image_size: float32 [B, 2], (height, width) of the image in the network's frame, pixels.
          training: not used.

        Returns:
          `Proposals`.
        """
        levels = sorted(logits, key=int)
        candidates = [
            self._of_level(logits[k], deltas[k], anchors[k], tf.cast(image_size, tf.float32))
            for k in levels
        ]
        boxes, keys = (tf.concat(x, axis=1) for x in zip(*candidates))
        count = min(self._post_nms_top_k, keys.shape[1])
        keys, index = tf.math.top_k(keys, k=count)
        valid = keys > float("-inf")  # [B, K]
        boxes = tf.gather(boxes, index, axis=1, batch_dims=1)
        boxes = tf.where(valid[..., tf.newaxis], boxes, 0.0)
        scores = tf.where(valid, keys, 0.0)
        return Proposals(tf.stop_gradient(boxes), tf.stop_gradient(scores), valid)

    def _of_level(
        self, logits: tf.Tensor, deltas: tf.Tensor, anchors: np.ndarray, image_size: tf.Tensor
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """Boxes [B, k, 4] and logits [B, k] that a level keeps; -inf where there is none."""
        logits, deltas = (tf.stop_gradient(tf.cast(x, tf.float32)) for x in (logits, deltas))
        logits = tf.where(tf.abs(logits) < tf.float32.max, logits, float("-inf"))
        if self._skip_padding:
            inside = box_ops.centered_inside(tf.constant(anchors), image_size)  # [B, A]
            logits = tf.where(inside, logits, float("-inf"))
        keys, index = tf.math.top_k(logits, k=min(self._pre_nms_top_k, logits.shape[1]))
        deltas = tf.gather(deltas, index, axis=1, batch_dims=1)  # [B, k, 4]
        boxes = box_ops.decode_boxes(deltas, tf.gather(anchors, index), weights=(1, 1, 1, 1))
        is_finite = box_ops.finite_boxes(boxes)
        boxes = box_ops.clip_boxes(tf.where(is_finite[..., tf.newaxis], boxes, 0.0), image_size)
        valid = tf.logical_and(keys > float("-inf"), box_ops.valid_boxes(boxes))
        kept, valid = nms.nms_of_sorted(
            boxes,
            valid,
            iou_threshold=self._nms_threshold,
            max_outputs=min(self._post_nms_top_k, keys.shape[1]),
        )
        boxes = tf.gather(boxes, kept, axis=1, batch_dims=1)
        keys = tf.gather(keys, kept, axis=1, batch_dims=1)
        return boxes, tf.where(valid, keys, float("-inf"))
