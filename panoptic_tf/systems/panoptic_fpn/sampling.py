"""Which regions train the box and the mask head, and on what (arXiv:1506.01497, section 3.2).

Matches recorded outputs of detectron2's ROI heads. Draws come from a seed of each image, so that
devices and replicas agree.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.layers import matching
from panoptic_tf.ops import boxes
from panoptic_tf.ops.roi_mask_targets import roi_mask_targets
from panoptic_tf.ops.trim import trim
from panoptic_tf.structures import Tensors


class Samples(NamedTuple):
    """R sampled regions of each image, positives first.

    Attributes:
      boxes: float32 [B, R, 4].
      classes: int32 [B, R], thing index; T on background.
      deltas: float32 [B, R, 4], from a positive region to its instance.
      instances: int64 [B, R], row of the instance.
      weights: float32 [B, R], 1 on regions that count.
      is_positive: float32 [B, R], 1 on regions of instances that count.
    """

    boxes: tf.Tensor
    classes: tf.Tensor
    deltas: tf.Tensor
    instances: tf.Tensor
    weights: tf.Tensor
    is_positive: tf.Tensor


class ROISampler(tf.keras.layers.Layer):
    """Matches proposals and the instances themselves to instances and samples from them."""

    def __init__(
        self,
        *,
        num_things: int,
        box_weights: Sequence[float],
        count: int = 512,
        positive_fraction: float = 0.25,
        iou_threshold: float = 0.5,
        trim_positives: bool = True,
        name: str = "roi_sampler",
    ):
        """See the class.

        Args:
          num_things: T.
          box_weights: (wy, wx, wh, ww) of the box coding.
          count: regions per image, R.
          positive_fraction: share of them that instances may fill.
          iou_threshold: from which a region belongs to its best instance.
          trim_positives: the mask head sees as many regions as the image of the batch with most
            positives has; False keeps its shapes static, count * positive_fraction regions.
          name: of the layer.
        """
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        self._num_things = num_things
        self._box_weights = tuple(box_weights)
        self._count = count
        self._positive_fraction = positive_fraction
        self._iou_threshold = iou_threshold
        self._trim_positives = trim_positives

    def call(
        self,
        proposals: tf.Tensor,
        proposal_valid: tf.Tensor,
        truth: Tensors,
        training: Optional[bool] = None,
    ) -> Tuple[Samples, Samples]:
        """Samples.

        Args:
          proposals: float32 [B, P, 4].
          proposal_valid: bool [B, P].
          truth: the features of `PanopticFPNTargetGenerator`.

        Returns:
          All R regions, and the first of each image, among which all positives are.
        """
        del training
        present = trim_instances(truth)
        candidates = tf.stop_gradient(tf.concat([proposals, truth["gt_boxes"]], axis=1))
        valid = tf.concat([proposal_valid, truth["gt_valid"]], axis=1)  # [B, P + M]
        iou = boxes.pairwise_iou(candidates, present["gt_boxes"])  # [B, P + M, m]
        iou = tf.where(present["gt_valid"][:, tf.newaxis], iou, -1.0)
        matched, labels = matching.match(
            iou, thresholds=[self._iou_threshold], labels=[0, 1], allow_low_quality_matches=False
        )
        indices, is_positive, is_valid = matching.sample(
            tf.where(valid, labels, -1.0),
            count=self._count,
            positive_fraction=self._positive_fraction,
            priority=draw_priorities(truth["sampling_seed"], valid.shape[1]),
        )
        regions = tf.gather(candidates, indices, axis=1, batch_dims=1)  # [B, R, 4]
        instances = tf.gather(matched, indices, axis=1, batch_dims=1)
        classes = tf.gather(truth["gt_classes"], instances, axis=1, batch_dims=1)
        targets = tf.gather(truth["gt_boxes"], instances, axis=1, batch_dims=1)
        deltas = boxes.encode_boxes(targets, regions, weights=self._box_weights)
        counts = truth["is_annotated"][:, tf.newaxis]
        samples = Samples(
            boxes=regions,
            classes=tf.where(is_positive, classes, self._num_things),
            deltas=tf.where(is_positive[..., tf.newaxis], deltas, 0.0),
            instances=instances,
            weights=tf.cast(is_valid, tf.float32) * counts,
            is_positive=tf.cast(is_positive, tf.float32) * counts,
        )
        return samples, self._positives(samples)

    def _positives(self, samples: Samples) -> Samples:
        most = max(1, int(self._count * self._positive_fraction))
        first = [value[:, :most] for value in samples]
        if self._trim_positives:  # Not to none: fused convolutions refuse an empty batch.
            found = tf.reduce_max(tf.reduce_sum(samples.is_positive, axis=1))
            first = trim(tf.cast(found, tf.int32), *first)
        return Samples(*first)


class MaskTargets(tf.keras.layers.Layer):
    """What the mask head shall predict: the instance inside each region, cut to cells."""

    def __init__(self, *, size: int, sampling_ratio: int = 0, name: str = "mask_targets"):
        """See the class.

        Args:
          size: cells per side.
          sampling_ratio: see `ops.roi_mask_targets`.
          name: of the layer.
        """
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        self._options = {"output_size": size, "sampling_ratio": sampling_ratio}

    def call(
        self,
        masks: tf.Tensor,
        regions: tf.Tensor,
        instances: tf.Tensor,
        training: Optional[bool] = None,
    ) -> tf.Tensor:
        """Bit masks [B, H, W, P], boxes [B, K, 4], rows [B, K] -> 0 or 1, [B, K, size, size]."""
        del training
        return roi_mask_targets(masks, regions, instances, **self._options)


def trim_instances(truth: Tensors) -> Tensors:
    """Cuts the padding of the instances to the image of the batch that has most."""
    count = tf.reduce_max(tf.reduce_sum(tf.cast(truth["gt_valid"], tf.int32), axis=1))
    keys = ("gt_boxes", "gt_classes", "gt_valid")
    return {**truth, **dict(zip(keys, trim(count, *(truth[key] for key in keys))))}


def draw_priorities(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Uniform numbers in [0, 1), float32 [B, count], each row from its seed [2]."""
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform([count], seed),
        seeds,
        fn_output_signature=tf.TensorSpec([count], tf.float32),
    )
