"""The instance branch of Panoptic FPN: RPN, box head and mask head, with what lies between them.

It is Mask R-CNN on an FPN (arXiv:1703.06870, 1612.03144).
"""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.layers.anchors import generate_anchors
from panoptic_tf.layers.proposals import ProposalGenerator
from panoptic_tf.layers.roi_align import MultiLevelROIAlign
from panoptic_tf.structures import Tensors
from panoptic_tf.systems.panoptic_fpn import config as fpn_config
from panoptic_tf.systems.panoptic_fpn.detector import Detector
from panoptic_tf.systems.panoptic_fpn.heads import BoxHead, MaskHead, RPNHead
from panoptic_tf.systems.panoptic_fpn.sampling import MaskTargets, ROISampler


class InstanceBranch:
    """RPN, box head and mask head, in the form that trains and in the form that detects."""

    def __init__(self, config: fpn_config.Model, num_things: int):
        roi, rpn, post = config.roi, config.rpn, config.postprocessor
        self._anchors = {
            True: build_anchors(config, config.train_size),
            False: build_anchors(config, config.input_size),
        }
        self._rpn = RPNHead(len(rpn.aspect_ratios), filters=_width(config), name="rpn")
        self._box = BoxHead(num_things, fc_dims=roi.box_fc_dims, name="box")
        self._mask = MaskHead(num_things, filters=roi.mask_filters, name="mask")
        self._propose = {
            True: ProposalGenerator(
                pre_nms_top_k=rpn.pre_nms_top_k_train,
                post_nms_top_k=rpn.post_nms_top_k_train,
                nms_threshold=rpn.nms_threshold,
                skip_padding=True,
                name="training_proposals",
            ),
            False: ProposalGenerator(
                pre_nms_top_k=rpn.pre_nms_top_k,
                post_nms_top_k=rpn.post_nms_top_k,
                nms_threshold=rpn.nms_threshold,
                skip_padding=True,
                name="proposals",
            ),
        }
        align = {"sampling_ratio": roi.sampling_ratio}
        self._pool_boxes = MultiLevelROIAlign(
            output_size=roi.box_pool_size, name="box_roi_align", **align
        )
        self._pool_masks = MultiLevelROIAlign(
            output_size=roi.mask_pool_size, name="mask_roi_align", **align
        )
        self._sampler = ROISampler(
            num_things=num_things, box_weights=roi.box_weights, **roi.sampler.as_dict()
        )
        self._mask_targets = MaskTargets(size=2 * roi.mask_pool_size, **align)
        self._detector = Detector(
            box_weights=roi.box_weights,
            score_threshold=post.detection_threshold,
            nms_threshold=post.nms_threshold,
            max_detections=post.max_detections,
        )

    def train(self, features: Mapping[str, tf.Tensor], inputs: Tensors) -> Tensors:
        """Features by level and the network's inputs -> what the instance losses take."""
        logits, deltas = self._rpn(features)
        proposals, _, valid = self._propose[True](
            logits, deltas, self._anchors[True], image_size(inputs["image_info"])
        )
        truth = {key: value for key, value in inputs.items() if key not in ("image", "image_info")}
        samples, positives = self._sampler(proposals, valid, truth)
        class_logits, box_deltas = self._box(self._pool_boxes(features, samples.boxes))
        mask_classes = tf.minimum(positives.classes, class_logits.shape[-1] - 2)
        pooled = self._pool_masks(features, positives.boxes)
        return {
            "rpn_logits": tf.concat(list(logits.values()), axis=1),
            "rpn_deltas": tf.concat(list(deltas.values()), axis=1),
            "class_logits": class_logits,
            "box_deltas": box_deltas,
            "sampled_classes": tf.one_hot(samples.classes, class_logits.shape[-1]),
            "sampled_deltas": samples.deltas,
            "sampled_weights": samples.weights,
            "sampled_is_positive": samples.is_positive,
            "mask_logits": self._mask(pooled, mask_classes),
            "sampled_masks": self._mask_targets(
                inputs["gt_masks"], positives.boxes, positives.instances
            ),
            "sampled_mask_weights": positives.is_positive,
        }

    def detect(self, features: Mapping[str, tf.Tensor], image_info: tf.Tensor) -> Tensors:
        """Features by level -> boxes, classes, scores, validity and masks of K detections."""
        size = image_size(image_info)
        logits, deltas = self._rpn(features)
        proposals, _, valid = self._propose[False](logits, deltas, self._anchors[False], size)
        class_logits, box_deltas = self._box(self._pool_boxes(features, proposals))
        detections = self._detector(class_logits, box_deltas, proposals, valid, size)
        pooled = self._pool_masks(features, detections["boxes"])
        mask_logits = self._mask(pooled, detections["classes"])
        return {**detections, "masks": tf.sigmoid(mask_logits)}


def build_anchors(config: fpn_config.Model, size: Sequence[int]) -> Mapping[str, np.ndarray]:
    """The anchors of an image size, by level."""
    return generate_anchors(
        (size[0], size[1]),
        scale=config.rpn.anchor_scale,
        aspect_ratios=tuple(config.rpn.aspect_ratios),
    )


def image_size(image_info: tf.Tensor) -> tf.Tensor:
    """The part of the network's frame that the image fills: float32 [B, 2]."""
    return tf.cast(geometry.valid_size(image_info), tf.float32)


def _width(config: fpn_config.Model) -> int:
    """Channels of a branch's pyramid."""
    return config.fpn.filters // (2 if config.fpn.sharing == "split" else 1)
