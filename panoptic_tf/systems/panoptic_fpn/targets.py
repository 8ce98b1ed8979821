"""Training targets of Panoptic FPN: instances, sampled anchors, the map of the semantic branch.

Matches recorded outputs of detectron2's RPN label assignment. The anchors are sampled here, in the
input pipeline, because their labels depend on nothing that the network computes.
"""

from __future__ import annotations

from typing import Mapping, Sequence, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.inputs import geometry, instances, samples
from panoptic_tf.layers import matching
from panoptic_tf.ops import bit_masks, boxes
from panoptic_tf.structures import PanopticSample, Tensors


class PanopticFPNTargetGenerator:
    """Turns a sample into features and labels of Panoptic FPN, M instances at most.

    Instances are those of the record where the sample has them, else those of the id map. Crowds
    are none, and of more than M the largest stay. Anchors centered in the padding of the frame are
    neither instance nor background; detectron2, which pads less, has them as background.

    Features, where there are thing categories:
      gt_boxes: float32 [M, 4], pixels.
      gt_classes: int32 [M], thing index.
      gt_valid: bool [M], valid rows first.
      gt_masks: int32 [H, W, P], bit masks of the instances; see `bit_masks`.
      is_annotated: float32 [], 0 where no pixel is annotated: nothing is known to be background.
      sampling_seed: int32 [2].

    Labels:
      anchor_indices: int64 [R], sampled anchors, all levels one after another.
      anchor_classes: float32 [R], 1 on anchors of instances.
      anchor_weights: float32 [R], 1 on anchors that count.
      anchor_deltas: float32 [R, 4], from the anchor to its instance.
      semantic_mask: int32 [H, W], channel + 1 of the semantic branch, 0 is ignored.
    """

    def __init__(
        self,
        *,
        thing_ids: Sequence[int],
        channel_of_category: Sequence[int],
        anchors: Mapping[str, np.ndarray],
        max_instances: int = 100,
        rpn_count: int = 256,
        rpn_positive_fraction: float = 0.5,
        rpn_negative_iou: float = 0.3,
        rpn_positive_iou: float = 0.7,
    ):
        """See the class.

        Args:
          thing_ids: contiguous ids of the thing categories; empty: semantic labels only.
          channel_of_category: channel + 1 of the semantic branch by category id, entry 0 is 0;
            empty: no semantic labels.
          anchors: float32 [A, 4] by level.
          max_instances: M.
          rpn_count: anchors sampled from each image, R.
          rpn_positive_fraction: share of them that instances may fill.
          rpn_negative_iou, rpn_positive_iou: an anchor below the first with every instance is
            background, one from the second on belongs to its best instance, as does the best anchor
            of an instance; those between do not count.
        """
        self._thing_ids = tuple(thing_ids)
        self._channels = tuple(channel_of_category)
        self._anchors = np.concatenate(list(anchors.values())) if thing_ids else None
        self._max_instances = max_instances
        self._count = rpn_count
        self._positive_fraction = rpn_positive_fraction
        self._thresholds = [rpn_negative_iou, rpn_positive_iou]

    def __call__(self, sample: PanopticSample) -> Tuple[Tensors, Tensors]:
        """Returns features and labels of the class docstring."""
        features, labels = {}, {}
        if self._channels:
            channels = tf.constant(self._channels, tf.int32)
            labels["semantic_mask"] = tf.gather(channels, sample.category_mask)
        if self._thing_ids:
            features = self._instances(sample)
            size = tf.cast(geometry.valid_size(sample.image_info), tf.float32)
            labels.update(self._sample_anchors(features, size))
        return features, labels

    def _instances(self, sample: PanopticSample) -> Tensors:
        chosen = instances.choose_instances(
            sample, thing_ids=self._thing_ids, max_instances=self._max_instances
        )
        annotated = tf.reduce_any(sample.category_mask > 0)
        return {
            "gt_boxes": chosen.boxes,
            "gt_classes": chosen.classes,
            "gt_valid": chosen.valid,
            "gt_masks": self._pack(sample, chosen.rows),
            "is_annotated": tf.cast(annotated, tf.float32),
            "sampling_seed": samples.seed_feature(sample),
        }

    def _pack(self, sample: PanopticSample, chosen: tf.Tensor) -> tf.Tensor:
        planes = num_planes(self._max_instances)
        if sample.instances is not None:
            masks = tf.gather(sample.instances.masks, chosen)
            return bit_masks.pack_masks(masks, num_planes=planes)
        rows = instances.row_of_id(sample.instance_mask, chosen)
        return bit_masks.pack_instance_ids(sample.instance_mask, rows, num_planes=planes)

    def _sample_anchors(self, features: Tensors, image_size: tf.Tensor) -> Tensors:
        anchors = tf.constant(self._anchors)
        count = tf.reduce_sum(tf.cast(features["gt_valid"], tf.int32))
        truth = features["gt_boxes"][:count]
        iou = boxes.pairwise_iou(truth, anchors)  # [K, A]: the long axis last is much faster
        labels = self._label_anchors(iou)
        inside = boxes.centered_inside(anchors, image_size)
        indices, is_positive, is_valid = matching.sample(
            tf.where(inside, labels, -1.0),
            count=self._count,
            positive_fraction=self._positive_fraction,
            priority=tf.random.stateless_uniform(
                [len(self._anchors)], features["sampling_seed"] + 1
            ),
        )
        # Without instances there is one box to encode against, and its weight is 0.
        truth = tf.pad(truth, [[0, 1], [0, 0]])
        matched = tf.argmax(tf.pad(tf.gather(iou, indices, axis=1), [[0, 1], [0, 0]]), axis=0)
        targets = tf.gather(truth, matched)
        deltas = boxes.encode_boxes(targets, tf.gather(anchors, indices), weights=(1, 1, 1, 1))
        return {
            "anchor_indices": indices,
            "anchor_classes": tf.cast(is_positive, tf.float32),
            "anchor_weights": tf.cast(is_valid, tf.float32) * features["is_annotated"],
            "anchor_deltas": tf.where(is_positive[:, tf.newaxis], deltas, 0.0),
        }

    def _label_anchors(self, iou: tf.Tensor) -> tf.Tensor:
        """What `matching.match` says with low-quality matches, of IoU [K, A]: float32 [A]."""
        negative, positive = self._thresholds
        best = tf.reduce_max(iou, axis=0)  # the least number where K is 0
        best_of_truth = tf.reduce_max(iou, axis=1, keepdims=True)  # [K, 1]
        is_best = tf.logical_and(tf.equal(iou, best_of_truth), best_of_truth > 0)
        is_positive = tf.logical_or(best >= positive, tf.reduce_any(is_best, axis=0))
        return tf.where(is_positive, 1.0, tf.where(best >= negative, -1.0, 0.0))


def num_planes(max_instances: int) -> int:
    """Planes of `gt_masks`."""
    return -(-max_instances // bit_masks.BITS_PER_PLANE)
