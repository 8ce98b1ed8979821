"""Masks to look at from a model that only detects (no branch for stuff)."""

from __future__ import annotations

from typing import Dict, Mapping, Optional, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from panoptic_tf.metrics import detections
from panoptic_tf.structures import Prediction

_SCORE_THRESHOLD = 0.5


def draw_detections(
    arrays: Mapping[str, np.ndarray],
    image_size: Sequence[int],
    score_threshold: Optional[float] = None,
) -> Dict[str, np.ndarray]:
    """Paints detections into one map, the best on top.

    Args:
      arrays: `Prediction.DETECTION_KEYS` or `Prediction.BIT_MASK_DETECTION_KEYS`, and the image
        size, unbatched.
      image_size: (height, width).
      score_threshold: detections of a lower score are left out; default 0.5.

    Returns:
      `category_mask`, `instance_mask` int32 [H, W] and the segment table of `structures.Prediction`
      with one row for each painted detection; what no detection covers is void.
    """
    found = detections.detected_instances(arrays, image_size)
    scores = np.asarray(found.scores, np.float32)
    threshold = _SCORE_THRESHOLD if score_threshold is None else score_threshold
    rows = np.flatnonzero(scores >= threshold)
    instance = np.zeros(tuple(image_size), np.int32)
    for number, k in reversed(list(enumerate(rows, 1))):
        instance[coco_mask.decode(found.rles[k]) > 0] = number
    categories = np.asarray(found.categories, np.int32)[rows]
    return {
        Prediction.CATEGORY_MASK: np.concatenate([[0], categories])[instance].astype(np.int32),
        Prediction.INSTANCE_MASK: instance,
        Prediction.SEGMENT_CATEGORY: categories,
        Prediction.SEGMENT_INSTANCE: np.arange(1, len(rows) + 1, dtype=np.int32),
        Prediction.SEGMENT_SCORE: scores[rows],
        Prediction.NUM_SEGMENTS: np.asarray(len(rows), np.int32),
    }
