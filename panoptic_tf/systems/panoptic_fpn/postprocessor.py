"""From detections and semantic logits to a panoptic prediction, in the graph.

Panoptic FPN (arXiv:1901.02446, section 3.1): instances in the order of their scores, each on the
pixels that are free; stuff on what is left. Matches recorded outputs of detectron2's Panoptic FPN.
"""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops import rescale
from panoptic_tf.ops.argmax_in_image import argmax_in_image
from panoptic_tf.postprocess import merge_by_score, painting, paste, segments
from panoptic_tf.structures import Prediction, Tensors

_MASK_THRESHOLD = 0.5  # smallest probability inside of a mask


class PanopticFPNPostProcessor(tf.keras.layers.Layer):
    """Pastes masks and merges them with the semantic map, in the image's own frame."""

    def __init__(
        self,
        *,
        output_size: Tuple[int, int],
        thing_ids: Sequence[int],
        num_categories: int,
        semantic_categories: Sequence[int],
        answers_semantic_mask: bool = True,
        merges: bool = True,
        score_threshold: float = 0.5,
        overlap_threshold: float = 0.5,
        stuff_area: int = 4096,
        output_detections: bool = True,
        resizes_in_two_steps: bool = True,
        name: str = "postprocessor",
    ):
        """See the class.

        Args:
          output_size: static (height, width) of the masks.
          thing_ids: contiguous ids of the thing categories.
          num_categories: N.
          semantic_categories: category id of each channel of the semantic logits, 0 for none.
          answers_semantic_mask: whether the semantic branch's own map is one of the outputs.
          merges: whether the output is panoptic; else it is what the one branch says.
          score_threshold: from which a detection takes part in the merge.
          overlap_threshold: share of an instance's pixels that higher ones may have taken.
          stuff_area: smallest area of a stuff segment, pixels of the output.
          output_detections: return the detections before the merge as well, which mask AP is
            measured on.
          resizes_in_two_steps: of the semantic logits, to the network's pixels and then to the
            output, as detectron2 does; else at once, which is faster and differs at the borders of
            stuff where image and network have different scales.
          name: of the layer.
        """
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        self._output_size = tuple(output_size)
        self._thing_ids = tuple(thing_ids)
        self._num_categories = num_categories
        self._semantic_categories = tuple(semantic_categories)
        self._answers_semantic_mask = answers_semantic_mask
        self._merges = merges
        self._output_detections = output_detections
        self._resizes_in_two_steps = resizes_in_two_steps
        self._score_threshold = score_threshold
        self._overlap_threshold = overlap_threshold
        self._stuff_area = stuff_area

    def call(
        self, outputs: Tensors, image_info: tf.Tensor, training: Optional[bool] = None
    ) -> Tensors:
        """Computes the prediction.

        Args:
          outputs: `boxes` float32 [B, K, 4] in pixels of the network's input, `scores` [B, K],
            descending, `classes` int32 [B, K], `valid` bool [B, K], `masks` [B, K, m, m]
            probabilities; or `semantic_logits` [B, h, w, C]; or both.
          image_info: float32 [B, 4, 2].

        Returns:
          The keys of `structures.Prediction`: panoptic where both branches are, detections where
          there are detections, the semantic mask where every category has a channel.
        """
        del training
        prediction = {Prediction.IMAGE_SIZE: rescale.size_in_output(image_info, self._output_size)}
        semantic = None
        if "semantic_logits" in outputs:
            semantic = self._semantic_mask(outputs["semantic_logits"], image_info)
            if self._answers_semantic_mask:
                prediction[Prediction.SEMANTIC_MASK] = tf.cast(semantic, tf.int32)
        if "boxes" in outputs:
            scale = rescale.output_scale(image_info, self._output_size)
            scale = tf.tile(scale, [1, 2])[:, tf.newaxis]  # [B, 1, 4]
            outputs = {**outputs, "boxes": outputs["boxes"] * scale}
            if self._output_detections or not self._merges:
                prediction.update(self._detections(outputs))
        if self._merges:
            prediction.update(self._merge(outputs, semantic, image_info))
        return prediction

    def _semantic_mask(self, logits: tf.Tensor, image_info: tf.Tensor) -> tf.Tensor:
        """Category of the highest logit at each pixel of the image: float32 [B, H, W]."""
        channel = argmax_in_image(
            logits, image_info, self._output_size, two_steps=self._resizes_in_two_steps
        )
        categories = tf.constant(self._semantic_categories, tf.float32)
        category = tf.gather(categories, tf.cast(channel, tf.int32))
        return tf.where(self._inside(image_info), category, 0.0)

    def _inside(self, image_info: tf.Tensor) -> tf.Tensor:
        size = rescale.size_in_output(image_info, self._output_size)
        return rescale.valid_in_output(size, self._output_size)  # [B, H, W]

    def _detections(self, outputs: Tensors) -> Tensors:
        valid = outputs["valid"]
        categories = tf.gather(tf.constant(self._thing_ids, tf.int32), outputs["classes"])
        rows = tf.cast(valid, tf.float32)[..., tf.newaxis]  # [B, K, 1]
        return {
            Prediction.DETECTION_BOXES: outputs["boxes"] * rows,
            Prediction.DETECTION_CATEGORIES: tf.where(valid, categories, 0),
            Prediction.DETECTION_SCORES: tf.where(valid, outputs["scores"], 0.0),
            Prediction.DETECTION_MASKS: outputs["masks"] * rows[..., tf.newaxis],
            Prediction.NUM_DETECTIONS: tf.reduce_sum(tf.cast(valid, tf.int32), axis=1),
        }

    def _merge(
        self, outputs: Tensors, semantic: Optional[tf.Tensor], image_info: tf.Tensor
    ) -> Tensors:
        batch = tf.shape(image_info)[0]
        owner = stuff_mask = tf.zeros([batch, *self._output_size])
        scores, categories = tf.zeros([batch, 1]), tf.zeros([batch, 1], tf.int32)
        probability = None
        if "boxes" in outputs:
            owner, scores = self._paint(outputs, image_info), outputs["scores"]
            categories = tf.gather(tf.constant(self._thing_ids, tf.int32), outputs["classes"])
        if semantic is not None:
            stuff_mask = semantic  # things in it stay void
            probability = self._probability(outputs["semantic_logits"], image_info)
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
        return segments.build_segments(merged.row_map, merged.rows)

    def _paint(self, outputs: Tensors, image_info: tf.Tensor) -> tf.Tensor:
        # No probability is as large as 2.
        smallest = tf.where(self._inside(image_info), _MASK_THRESHOLD, 2.0)  # [B, H, W]

        def mask_of(k: tf.Tensor) -> tf.Tensor:
            mask, box = (tf.gather(outputs[key], k, axis=1) for key in ("masks", "boxes"))
            return paste.paste_masks(mask, box, output_size=self._output_size) >= smallest

        painted = painting.paint(
            mask_of,
            tf.logical_and(outputs["valid"], outputs["scores"] >= self._score_threshold),
            size=self._output_size,
            overlap_threshold=self._overlap_threshold,
        )
        return painted.owner

    def _probability(self, logits: tf.Tensor, image_info: tf.Tensor) -> tf.Tensor:
        """Probability of the best channel, from the logits' own resolution: float32 [B, H, W]."""
        best = tf.reduce_max(logits, axis=-1, keepdims=True)
        probability = 1.0 / tf.reduce_sum(tf.exp(logits - best), axis=-1, keepdims=True)
        probability = rescale.rescale_to_image(probability, image_info, self._output_size)
        return tf.squeeze(probability, axis=-1)
