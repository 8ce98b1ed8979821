"""From class and mask logits of queries to a panoptic prediction, in the graph.

Inference of MaskFormer (arXiv:2107.06278) and Mask2Former (arXiv:2112.01527), as the authors'
implementations have it for panoptic models: mask logits are resized to the pixels of the network's
input, cut to the image, resized to the output, and only then made probabilities. Departures:
- only masks that are needed are resized;
- an instance whose mask is empty is none;
- the semantic mask interpolates the sums over queries of class times mask probability, made in the
  cells of the masks, and not the mask logits before the sum. That differs at borders: at 512x512 in
  up to 0.3% of the pixels of drawn blobs.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.ops import rescale
from panoptic_tf.ops.argmax_in_image import argmax_in_image
from panoptic_tf.ops.sigmoid import sigmoid
from panoptic_tf.postprocess import merge_by_query, painting, segments, upsampling
from panoptic_tf.structures import Prediction, Tensors

_MOST_PIXELS = 2**24  # whose number float32 counts exactly


class _Instances(NamedTuple):
    """M pairs of a query and a thing category of each image, by descending score, valid ones first.

    Attributes:
      query: float32 [B, M], 0..Q - 1.
      scores: float32 [B, M], 0 where not valid.
      categories: int32 [B, M], contiguous ids, 0 where not valid.
      valid: bool [B, M].
    """

    query: tf.Tensor
    scores: tf.Tensor
    categories: tf.Tensor
    valid: tf.Tensor


class MaskTransformerPostProcessor(tf.keras.layers.Layer):
    """Lets queries compete for pixels, in the image's own frame."""

    def __init__(
        self,
        *,
        output_size: Tuple[int, int],
        thing_ids: Sequence[int],
        num_categories: int,
        mask_stride: int = 4,
        score_threshold: float = 0.8,
        mask_threshold: float = 0.5,
        overlap_threshold: float = 0.8,
        void_outside_masks: bool = True,
        max_instances: int = 100,
        output_detections: bool = True,
        output_semantic: bool = True,
        name: str = "postprocessor",
    ):
        """See the class.

        Args:
          output_size: static (height, width) of the masks.
          thing_ids: contiguous ids of the thing categories.
          num_categories: N.
          mask_stride: pixels of the network's frame per cell of the mask logits.
          score_threshold: largest class probability of a query that does not compete.
          mask_threshold: smallest probability inside of a mask.
          overlap_threshold: share of its mask's area that a query must own.
          void_outside_masks: pixels that a query owns outside its mask are void (Mask2Former), else
            they belong to its segment (MaskFormer).
          max_instances: of how many pairs of a query and a category, the most probable, those of
            things are detections.
          output_detections: return instances as well, which mask AP is measured on.
          output_semantic: return a semantic mask as well.
          name: of the layer.

        Raises:
          ValueError: a number is out of range.
        """
        if max_instances < 1 or not 0.0 < mask_threshold < 1.0:
            raise ValueError(
                "task.model.postprocessor needs max_instances >= 1 and mask_threshold between 0 "
                f"and 1, got {max_instances} and {mask_threshold}."
            )
        if output_size[0] * output_size[1] > _MOST_PIXELS:
            raise ValueError(
                f"task.model.output_size must have at most {_MOST_PIXELS} pixels, which areas are "
                f"counted exactly up to, got {tuple(output_size)}."
            )
        super().__init__(name=name, dtype=tf.float32, trainable=False)
        self._output_size = (output_size[0], output_size[1])
        self._thing_ids = tuple(thing_ids)
        self._num_categories = num_categories
        self._mask_stride = mask_stride
        self._score_threshold = score_threshold
        self._mask_threshold = mask_threshold
        self._overlap_threshold = overlap_threshold
        self._void_outside_masks = void_outside_masks
        self._max_instances = max_instances
        self._output_detections = output_detections
        self._output_semantic = output_semantic

    def call(
        self, outputs: Tensors, image_info: tf.Tensor, training: Optional[bool] = None
    ) -> Tensors:
        """Computes the prediction.

        Args:
          outputs: `class_logits` float32 [B, Q, N + 1], of category c + 1 in channel c, of no
            object last; `mask_logits` float32 [B, Q, h, w].
          image_info: float32 [B, 4, 2].

        Returns:
          The panoptic keys of `structures.Prediction`, where asked for those of
          `BIT_MASK_DETECTION_KEYS` and the semantic mask.
        """
        del training
        mask_logits = outputs["mask_logits"]
        size = rescale.size_in_output(image_info, self._output_size)
        in_image = rescale.valid_in_output(size, self._output_size)
        prediction = {Prediction.IMAGE_SIZE: size}
        to_image = upsampling.build_upsampling(
            image_info,
            self._output_size,
            map_size=tuple(mask_logits.shape[2:]),
            stride=self._mask_stride,
        )
        probabilities = tf.nn.softmax(outputs["class_logits"])
        if self._output_semantic:
            sums = _semantic_sums(probabilities[..., :-1], mask_logits)
            channel = argmax_in_image(sums, image_info, self._output_size)
            semantic_mask = tf.where(in_image, channel + 1.0, 0.0)
            prediction[Prediction.SEMANTIC_MASK] = tf.cast(semantic_mask, tf.int32)

        def logits_of(query: tf.Tensor) -> tf.Tensor:
            """Of one query of each image, int32 [B]: float32 [B, H, W], 0 beyond the image."""
            maps = tf.gather(mask_logits, query, axis=1, batch_dims=1)
            return upsampling.upsample(to_image, maps)

        def probability_of(query: tf.Tensor) -> tf.Tensor:
            return sigmoid(logits_of(query)) * tf.cast(in_image, tf.float32)

        candidates = self._candidates(probabilities) if self._output_detections else None
        queries = merge_by_query.choose_queries(
            probabilities, score_threshold=self._score_threshold
        )
        contest = merge_by_query.compete(
            probability_of,
            queries,
            size=self._output_size,
            mask_threshold=self._mask_threshold,
            measured=None if candidates is None else _queries_of(candidates, mask_logits.shape[1]),
        )
        merged = merge_by_query.merge_by_query(
            contest,
            queries,
            thing_ids=self._thing_ids,
            num_categories=self._num_categories,
            overlap_threshold=self._overlap_threshold,
            void_outside_masks=self._void_outside_masks,
        )
        prediction.update(segments.build_segments(merged.row_map, merged.rows))
        if candidates is not None:
            instances = _rescore(candidates, contest.mean_probabilities)
            prediction.update(_detections(instances, logits_of, self._output_size))
        return prediction

    def _candidates(self, probabilities: tf.Tensor) -> _Instances:
        """Things among the most probable pairs of a query and a category; [B, Q, N + 1]."""
        count, categories = probabilities.shape[1], self._num_categories
        flat = tf.reshape(probabilities[..., :-1], [-1, count * categories])
        scores, index = tf.math.top_k(flat, k=min(self._max_instances, count * categories))
        # Floats are exact here, and int32 would be divided on the host.
        index = tf.cast(index, tf.float32)
        query = tf.floor((index + 0.5) / categories)
        category = tf.cast(index - query * categories, tf.int32) + 1
        is_thing = [c in set(self._thing_ids) for c in range(categories + 1)]
        valid = tf.gather(tf.constant(is_thing), category)
        return _Instances(query, scores, category, valid)


def _semantic_sums(probabilities: tf.Tensor, mask_logits: tf.Tensor) -> tf.Tensor:
    """Sums over queries of class probability [B, Q, N] times mask probability: [B, h, w, N]."""
    count, height, width = mask_logits.shape[1:]
    masks = tf.reshape(sigmoid(mask_logits), [-1, count, height * width])
    # [B, Q, h * w] x [B, Q, N] -> [B, h * w, N]
    sums = tf.matmul(masks, probabilities, transpose_a=True)
    return tf.reshape(sums, [-1, height, width, probabilities.shape[2]])


def _queries_of(candidates: _Instances, count: int) -> tf.Tensor:
    """Whether each query is one of the valid candidates': bool [B, Q]."""
    row = tf.range(count, dtype=tf.float32)
    is_query = tf.equal(candidates.query[:, :, tf.newaxis], row)  # [B, M, Q]
    return tf.reduce_any(tf.logical_and(is_query, candidates.valid[:, :, tf.newaxis]), axis=1)


def _rescore(candidates: _Instances, mean_probabilities: tf.Tensor) -> _Instances:
    """Multiplies scores by the mean probabilities of masks [B, Q], drops empty ones, and sorts."""
    query = tf.cast(candidates.query, tf.int32)
    scores = candidates.scores * tf.gather(mean_probabilities, query, axis=1, batch_dims=1)
    scores = tf.where(tf.logical_and(candidates.valid, scores > 0.0), scores, -1.0)
    scores, order = tf.math.top_k(scores, k=scores.shape[1])
    valid = scores > 0.0
    query, categories = (
        tf.gather(x, order, axis=1, batch_dims=1) for x in (candidates.query, candidates.categories)
    )
    return _Instances(
        query=query,
        scores=tf.where(valid, scores, 0.0),
        categories=tf.where(valid, categories, 0),
        valid=valid,
    )


def _detections(
    instances: _Instances, logits_of: Callable[[tf.Tensor], tf.Tensor], size: Tuple[int, int]
) -> Tensors:
    """The keys of `BIT_MASK_DETECTION_KEYS`; `logits_of` a query of each image, [B], [B, H, W]."""

    def mask_of(k: tf.Tensor) -> tf.Tensor:
        query = tf.gather(instances.query, k, axis=1)
        return logits_of(tf.cast(query, tf.int32)) > 0.0

    painted = painting.paint(
        mask_of,
        tf.zeros_like(instances.valid),  # they only overlap
        size=size,
        overlap_threshold=0.0,
        answered=instances.valid,
    )
    return {
        Prediction.DETECTION_BOXES: painted.boxes,
        Prediction.DETECTION_CATEGORIES: instances.categories,
        Prediction.DETECTION_SCORES: instances.scores,
        Prediction.DETECTION_BIT_MASKS: painted.bit_masks,
        Prediction.NUM_DETECTIONS: tf.reduce_sum(tf.cast(instances.valid, tf.int32), axis=1),
    }
