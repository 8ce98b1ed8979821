"""From embedded kernels and the encoded feature to a panoptic prediction, in the graph.

Panoptic FCN (arXiv:2012.00720). Matches recorded outputs of the authors'
implementation, whose numbers of kernels vary; here they are static, with validity masks.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.layers import dynamic_conv
from panoptic_tf.ops import rescale
from panoptic_tf.ops.sigmoid import sigmoid
from panoptic_tf.postprocess import (
    kernel_fusion,
    merge_by_score,
    painting,
    segments,
    upsampling,
)
from panoptic_tf.postprocess import matrix_nms as matrix_nms_lib
from panoptic_tf.structures import ImageInfo, Prediction, Tensors
from panoptic_tf.systems.panoptic_fcn import assignment

_STRIDE = 4


class _Instances(NamedTuple):
    """M instances of each image by descending score, valid ones first.

    Attributes:
      maps: float32 [B, M, h4, w4], probabilities.
      scores: float32 [B, M], 0 where not valid.
      categories: int32 [B, M], contiguous ids, 0 where not valid.
      valid: bool [B, M].
    """

    maps: tf.Tensor
    scores: tf.Tensor
    categories: tf.Tensor
    valid: tf.Tensor


class PanopticFCNPostProcessor(tf.keras.layers.Layer):
    """Fuses kernels, convolves and rescores, and merges in the image's own frame."""

    def __init__(
        self,
        *,
        output_size: Tuple[int, int],
        thing_ids: Sequence[int],
        num_categories: int,
        stuff_categories: Sequence[int],
        fuse_kernels: bool = True,
        similarity_threshold: float = 0.9,
        class_aware: bool = True,
        matrix_nms: bool = False,
        mask_threshold: float = 0.4,
        min_score: float = 0.05,
        max_instances: int = 100,
        score_threshold: float = 0.2,
        overlap_threshold: float = 0.5,
        stuff_area: int = 4096,
        output_detections: bool = True,
        name: str = "postprocessor",
    ):
        """See the class.

        Args:
          output_size: static (height, width) of the masks.
          thing_ids: contiguous ids of the thing categories.
          num_categories: N.
          stuff_categories: category id of each stuff channel, rising; 0 is the class of all things.
          fuse_kernels: average similar kernels before they are convolved.
          similarity_threshold: cosine from which kernels are similar.
          class_aware: kernels of different classes are never fused, nor suppressed by matrix NMS.
          matrix_nms: let scores decay where masks overlap (SOLOv2, arXiv:2003.10152).
          mask_threshold: largest probability outside of a mask.
          min_score: from which an instance counts at all.
          max_instances: most instances of an image.
          score_threshold: from which an instance takes part in the merge.
          overlap_threshold: share of an instance's pixels that higher ones may have taken.
          stuff_area: smallest area of a stuff segment, pixels of the output.
          output_detections: return the instances before the merge as well, which mask AP is
            measured on.
          name: of the layer.

        Raises:
          ValueError: the categories of stuff do not rise, or a number is out of range.
        """
        if max_instances < 1 or not 0.0 <= mask_threshold < 1.0:
            raise ValueError(
                "task.model.postprocessor needs max_instances >= 1 and mask_threshold in 0..1, got "
                f"{max_instances} and {mask_threshold}."
            )
        if any(a >= b for a, b in zip(stuff_categories, stuff_categories[1:])):
            raise ValueError(f"stuff_categories must rise, got {list(stuff_categories)}.")
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        self._output_size = tuple(output_size)
        self._thing_ids = tuple(thing_ids)
        self._num_categories = num_categories
        self._stuff_categories = tuple(stuff_categories)
        self._fuse_kernels = fuse_kernels
        self._similarity_threshold = similarity_threshold
        self._class_aware = class_aware
        self._matrix_nms = matrix_nms
        self._mask_threshold = mask_threshold
        self._min_score = min_score
        self._max_instances = max_instances
        self._score_threshold = score_threshold
        self._overlap_threshold = overlap_threshold
        self._stuff_area = stuff_area
        self._output_detections = output_detections

    def call(
        self, outputs: Tensors, image_info: tf.Tensor, training: Optional[bool] = None
    ) -> Tensors:
        """Computes the prediction.

        Args:
          outputs: what `KernelSelector` returns, with embedded kernels: `thing_kernels` float32
            [B, K, C], `thing_scores` [B, K], `thing_classes`, `thing_valid`; `stuff_kernels`
            [B, S, C], `stuff_valid` [B, S]; either half may be absent. And `encoded` float32
            [B, h4, w4, C], of stride 4.
          image_info: float32 [B, 4, 2].

        Returns:
          The panoptic keys of `structures.Prediction` and, with things, those of
          `BIT_MASK_DETECTION_KEYS`. No semantic mask: things are one class of it at most.
        """
        del training
        prediction = {Prediction.IMAGE_SIZE: rescale.size_in_output(image_info, self._output_size)}
        encoded = outputs["encoded"]
        to_image = upsampling.build_upsampling(
            image_info,
            self._output_size,
            map_size=tuple(encoded.shape[1:3]),
            stride=_STRIDE,
        )
        batch = tf.shape(encoded)[0]
        owner = stuff_mask = tf.zeros([batch, *self._output_size])
        scores, categories = tf.zeros([batch, 1]), tf.zeros([batch, 1], tf.int32)
        if "thing_kernels" in outputs:
            instances = self._instances(outputs, image_info)
            scores, categories = instances.scores, instances.categories
            painted = self._paint(instances, to_image)
            owner = painted.owner
            if self._output_detections:
                prediction.update(_detections(instances, painted))
        probability = None
        if "stuff_kernels" in outputs:
            stuff_mask, probability = self._stuff(outputs, to_image)
        merged = merge_by_score.merge_by_score(
            owner,
            scores=scores,
            categories=categories,
            stuff_mask=stuff_mask,
            stuff_probability=probability,
            thing_ids=self._thing_ids,
            num_categories=self._num_categories,
            stuff_area=self._stuff_area,
        )
        prediction.update(segments.build_segments(merged.row_map, merged.rows))
        return prediction

    def _instances(self, outputs: Tensors, image_info: tf.Tensor) -> _Instances:
        candidates = kernel_fusion.Kernels(
            *(outputs[f"thing_{name}"] for name in kernel_fusion.Kernels._fields)
        )
        if self._fuse_kernels:
            candidates = kernel_fusion.fuse_kernels(
                *candidates,
                similarity_threshold=self._similarity_threshold,
                class_aware=self._class_aware,
            )
        else:
            candidates = kernel_fusion.best_first(candidates)
        logits = dynamic_conv.mask_logits(candidates.kernels, outputs["encoded"])
        maps = tf.sigmoid(logits)  # [B, n, h4, w4]
        scores = self._rescore(candidates, maps, _valid_cells(maps, image_info))
        scores = tf.where(tf.logical_and(candidates.valid, scores >= self._min_score), scores, -1.0)
        scores, row = tf.math.top_k(scores, k=min(self._max_instances, scores.shape[1]))  # [B, M]
        valid = scores >= 0.0
        row = tf.where(valid, row, 0)
        classes = tf.gather(candidates.classes, row, axis=1, batch_dims=1)
        categories = tf.gather(tf.constant(self._thing_ids, tf.int32), classes)
        return _Instances(
            maps=tf.gather(maps, row, axis=1, batch_dims=1),
            scores=tf.where(valid, scores, 0.0),
            categories=tf.where(valid, categories, 0),
            valid=valid,
        )

    def _rescore(
        self, kept: kernel_fusion.Kernels, maps: tf.Tensor, in_image: tf.Tensor
    ) -> tf.Tensor:
        """Scores times the mean probability inside of the mask: float32 [B, n]."""
        maps = _flat(maps)  # [B, n, h4 * w4]
        inside = tf.cast(maps > self._mask_threshold, tf.float32)
        # [B, n, h4 * w4] x [B, h4 * w4, 1] -> [B, n, 1]
        area = tf.matmul(inside, in_image)
        total = tf.matmul(inside * maps, in_image)
        scores = kept.scores * tf.math.divide_no_nan(total, area)[..., 0]
        if not self._matrix_nms:
            return scores
        masks = inside * in_image[:, tf.newaxis, :, 0]
        ordered, order = tf.math.top_k(scores, k=scores.shape[1])
        classes, valid, masks = (
            tf.gather(x, order, axis=1, batch_dims=1) for x in (kept.classes, kept.valid, masks)
        )
        decayed = matrix_nms_lib.matrix_nms(
            masks, ordered, classes, valid, class_aware=self._class_aware
        )
        return tf.gather(decayed, _inverse(order), axis=1, batch_dims=1)

    def _paint(self, instances: _Instances, to_image: upsampling.Upsampling) -> painting.Painted:
        def mask_of(k: tf.Tensor) -> tf.Tensor:
            maps = tf.gather(instances.maps, k, axis=1)
            return upsampling.upsample(to_image, maps) > self._mask_threshold

        takes_part = instances.scores >= self._score_threshold
        return painting.paint(
            mask_of,
            tf.logical_and(instances.valid, takes_part),
            size=self._output_size,
            overlap_threshold=self._overlap_threshold,
            answered=instances.valid if self._output_detections else None,
        )

    def _stuff(
        self, outputs: Tensors, to_image: upsampling.Upsampling
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """The most probable stuff of each pixel; 0 for things, beyond the image, without stuff.

        Returns:
          Its category id and probability: float32 [B, H, W] each.
        """
        valid = outputs["stuff_valid"]
        numbers = tf.where(valid, tf.constant(self._stuff_categories, tf.float32) + 1.0, 0.0)
        goes_to = tf.cast(segments.valid_first(valid), tf.float32)  # [B, S, S]
        kernels = tf.matmul(goes_to, outputs["stuff_kernels"])
        numbers = tf.linalg.matvec(goes_to, numbers)
        maps = sigmoid(dynamic_conv.mask_logits(kernels, outputs["encoded"]))
        number, probability = upsampling.best_of_maps(to_image, maps, numbers)
        return tf.nn.relu(number - 1.0), probability


def _valid_cells(maps: tf.Tensor, image_info: tf.Tensor) -> tf.Tensor:
    """1 on the cells of [B, n, h, w] that show the image: float32 [B, h * w, 1]."""
    share = tf.cast(geometry.valid_size(image_info), tf.float32)
    share /= image_info[:, ImageInfo.NETWORK_SIZE]
    size = tuple(maps.shape[2:])
    valid = assignment.valid_cells(share, level_size=size, network_size=(1, 1))
    return tf.reshape(valid, [-1, size[0] * size[1], 1])


def _flat(maps: tf.Tensor) -> tf.Tensor:
    """[B, n, h, w] -> [B, n, h * w]."""
    shape = tf.shape(maps)
    return tf.reshape(maps, [shape[0], shape[1], maps.shape[2] * maps.shape[3]])


def _inverse(order: tf.Tensor) -> tf.Tensor:
    """Where each entry of a permutation [B, n] went."""
    return tf.math.top_k(-order, k=order.shape[1]).indices


def _detections(instances: _Instances, painted: painting.Painted) -> Tensors:
    return {
        Prediction.DETECTION_BOXES: painted.boxes,
        Prediction.DETECTION_CATEGORIES: instances.categories,
        Prediction.DETECTION_SCORES: instances.scores,
        Prediction.DETECTION_BIT_MASKS: painted.bit_masks,
        Prediction.NUM_DETECTIONS: tf.reduce_sum(tf.cast(instances.valid, tf.int32), axis=1),
    }
