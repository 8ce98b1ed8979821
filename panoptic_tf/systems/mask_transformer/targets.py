"""Targets of mask transformers: one mask and one class for each segment, things and stuff alike."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

from panoptic_tf.inputs import samples, segments
from panoptic_tf.structures import PanopticSample, Tensors


class MaskTransformerTargetGenerator:
    """From a sample to the truth that predictions are matched with.

    The labels are `segment_map` int32 [H, W], number 1..M of each pixel's segment, 0 where there is
    none; `segment_classes` int32 [M], category - 1, 0 past the last; `segment_valid` float32 [M];
    `seed` int32 [2], what points are drawn with; `is_annotated` float32 [], 0 for an image without
    any annotated pixel. Crowds are in no segment, as published. There are no features.
    """

    def __init__(self, *, max_segments: int = 100):
        """See the class.

        Args:
          max_segments: M, at most as many as queries.

        Raises:
          ValueError: it is not positive.
        """
        if max_segments < 1:
            raise ValueError(f"task.targets.max_segments must be at least 1, got {max_segments}.")
        self._max_segments = max_segments

    def __call__(self, sample: PanopticSample) -> Tuple[Tensors, Tensors]:
        """Returns features and labels of the class docstring."""
        found = segments.index_segments(sample, self._max_segments)
        annotated = tf.reduce_any(sample.category_mask > 0)
        labels = {
            "segment_map": tf.ensure_shape(found.segment_map, sample.image.shape[:2]),
            "segment_classes": tf.maximum(found.categories - 1, 0),
            "segment_valid": tf.cast(found.valid, tf.float32),
            "seed": samples.seed_feature(sample),
            "is_annotated": tf.cast(annotated, tf.float32),
        }
        return {}, labels
