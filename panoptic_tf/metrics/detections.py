"""Detected instances, which may overlap, as run lengths in the image's frame.

Small masks over boxes are pasted as Mask R-CNN's are (detectron2's `paste_masks_in_image`): sampled
bilinearly at the centers of the image's pixels, zero outside of the box, kept where at least one
half. One box region at a time, since a hundred masks of the whole image are too much at once.
Masks of the whole image come as bits, and go to another size by nearest neighbour.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf.metrics import instances as instances_lib
from panoptic_tf.metrics.original_size import restore_original_size
from panoptic_tf.structures import Prediction

MAX_DETECTIONS = instances_lib.MAX_DETECTIONS
SCORE_THRESHOLD = 0.05
"""A detection counts if its score is larger; lower ones only cost time."""

_MASK_THRESHOLD = 0.5
_SEGMENT_KEYS = (
    Prediction.INSTANCE_MASK,
    Prediction.SEGMENT_CATEGORY,
    Prediction.SEGMENT_INSTANCE,
    Prediction.SEGMENT_SCORE,
)


def has_detections(prediction: Mapping[str, Any]) -> bool:
    """Whether a prediction holds detections, with masks of one kind or the other."""
    kinds = (Prediction.DETECTION_KEYS, Prediction.BIT_MASK_DETECTION_KEYS)
    return any(all(key in prediction for key in keys) for keys in kinds)


def found_instances(
    prediction: Mapping[str, Any], masks: Mapping[str, np.ndarray], original_size: Sequence[int]
) -> Optional[instances_lib.Instances]:
    """The instances that AP is computed of: detections where there are some, else segments.

    Args:
      prediction: keys of `Prediction`, no batch dimension.
      masks: its masks by key, in the image's own size.
      original_size: (height, width) of the image.

    Returns:
      Instances with scores, of whatever category; None if the prediction has none of either kind.
    """
    if has_detections(prediction):
        return detected_instances(prediction, original_size)
    if any(key not in prediction for key in _SEGMENT_KEYS):
        return None
    return instances_lib.predicted_instances(
        masks[Prediction.INSTANCE_MASK],
        segment_instance=np.asarray(prediction[Prediction.SEGMENT_INSTANCE]),
        segment_category=np.asarray(prediction[Prediction.SEGMENT_CATEGORY]),
        segment_score=np.asarray(prediction[Prediction.SEGMENT_SCORE]),
    )


def detected_instances(
    prediction: Mapping[str, Any], original_size: Sequence[int]
) -> instances_lib.Instances:
    """The best detections of one image in the image's own frame.

    Args:
      prediction: `Prediction.DETECTION_KEYS` or `Prediction.BIT_MASK_DETECTION_KEYS`, and
        `Prediction.IMAGE_SIZE`, no batch dimension.
      original_size: (height, width) of the image.

    Returns:
      At most 100 instances with scores and boxes; those whose box is empty are left out.

    Raises:
      ValueError: there is no `image_size`.
    """
    if Prediction.IMAGE_SIZE not in prediction:
        raise ValueError("detections need image_size, the size of the frame of their boxes.")
    count = int(prediction[Prediction.NUM_DETECTIONS])
    scores = np.asarray(prediction[Prediction.DETECTION_SCORES])[:count]
    scale = np.asarray(original_size) / np.asarray(prediction[Prediction.IMAGE_SIZE])
    boxes = np.asarray(prediction[Prediction.DETECTION_BOXES], np.float64)[:count]
    boxes = boxes * np.tile(scale, 2)  # [K, 4]
    is_there = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    best = np.argsort(-scores, kind="stable")
    best = best[is_there[best] & (scores[best] > SCORE_THRESHOLD)][:MAX_DETECTIONS]
    if Prediction.DETECTION_BIT_MASKS in prediction:
        planes = np.asarray(prediction[Prediction.DETECTION_BIT_MASKS])
        answered = [int(side) for side in prediction[Prediction.IMAGE_SIZE]]
        rles = encode_bit_masks(planes, best, answered, original_size)
    else:
        masks = np.asarray(prediction[Prediction.DETECTION_MASKS], np.float32)[best]
        rles = paste_masks(masks, boxes[best], original_size)
    return instances_lib.Instances(
        rles,
        np.asarray(prediction[Prediction.DETECTION_CATEGORIES])[best],
        scores=scores[best],
        boxes=boxes[best],
    )


def encode_bit_masks(
    planes: np.ndarray,
    rows: Sequence[int],
    valid_size: Sequence[int],
    original_size: Sequence[int],
) -> List[Dict[str, Any]]:
    """Run-length encodes some of the masks that integers hold bit by bit.

    Args:
      planes: int32 [H, W, P]; bit i % 32 of plane i // 32 is mask i.
      rows: K numbers of masks, each below 32 P.
      valid_size: (height, width) of the part of [H, W] that the image fills.
      original_size: (height, width) of the image.

    Returns:
      K encodings in the image's frame.

    Raises:
      ValueError: the planes are not int32, or hold fewer masks.
    """
    if planes.dtype != np.int32 or planes.ndim != 3:
        raise ValueError(
            f"detection_bit_masks must be int32 [H, W, P], got {planes.dtype} {list(planes.shape)}."
        )
    if len(rows) and max(rows) >= 32 * planes.shape[2]:
        raise ValueError(
            f"detection {max(rows)} has no bit in the {planes.shape[2]} planes of "
            "detection_bit_masks, which hold 32 each."
        )
    planes = restore_original_size(planes, valid_size, original_size)
    height, width, count = planes.shape
    # Low bytes first, whatever the machine: bit i % 8 of byte i // 8, and no sign.
    octets = np.ascontiguousarray(planes, "<i4").view(np.uint8)  # [H, W, 4 P]
    # -> [4 P, W, H], since runs go down the columns
    octets = np.ascontiguousarray(octets.reshape(height, width, 4 * count).transpose(2, 1, 0))
    rles = []
    for row in rows:
        is_inside = (octets[row // 8] & np.uint8(1 << row % 8)).reshape(-1) > 0  # [W * H]
        flat = np.concatenate([[False], is_inside, [False]])
        edges = np.flatnonzero(flat[1:] != flat[:-1])
        rles.append(instances_lib.encode_edges(edges, height, width))
    return rles


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, image_size: Sequence[int]
) -> List[Dict[str, Any]]:
    """Pastes masks into their boxes.

    Args:
      masks: float32 [K, m, m], probabilities over the box.
      boxes: float [K, 4], [ymin, xmin, ymax, xmax] in pixels of the image, none empty.
      image_size: (height, width) of the image.

    Returns:
      K run-length encodings.
    """
    height, width = int(image_size[0]), int(image_size[1])
    rles = []
    for mask, (top, left, bottom, right) in zip(masks, boxes.tolist()):
        row, rows = _sampling(top, bottom, height, mask.shape[0])
        column, columns = _sampling(left, right, width, mask.shape[1])
        # [w, m] x [m, m] x [m, h], column-major as run lengths are.
        region = columns @ mask.T @ rows.T >= _MASK_THRESHOLD
        strip = np.zeros((len(columns), height), bool)  # [w, H], the columns of the box
        strip[:, row : row + len(rows)] = region
        flat = np.concatenate([[False], strip.reshape(-1), [False]])
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + column * height
        rles.append(instances_lib.encode_edges(edges, height, width))
    return rles


def _sampling(start: float, end: float, length: int, size: int) -> Tuple[int, np.ndarray]:
    """Bilinear weights along one axis of the pixels whose centers are in the box.

    A pixel whose center is outside sees less than half of the outermost sample and is below the
    threshold.

    Args:
      start, end: edges of the box.
      length: pixels of the image.
      size: m, samples of the mask.

    Returns:
      The first pixel, and float32 [pixels, m].
    """
    first = int(np.clip(np.ceil(start - 0.5), 0, length))
    stop = int(np.clip(np.floor(end - 0.5) + 1, first, length))
    position = (np.arange(first, stop) + 0.5 - start) * (size / (end - start)) - 0.5  # in samples
    distance = np.abs(position[:, np.newaxis] - np.arange(size))
    return first, np.maximum(1.0 - distance, 0.0).astype(np.float32)
