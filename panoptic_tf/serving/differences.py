"""In what two predictions of the same images differ by more than rounding."""

from __future__ import annotations

from typing import List, Mapping, Sequence

import numpy as np

from panoptic_tf.structures import Prediction

Arrays = Mapping[str, np.ndarray]

_EQUAL_SHARE = 0.999
_SCORE_TOLERANCE = 1e-3
_BOX_TOLERANCE = 0.5
_SMALLEST_IOU = 0.9  # of two masks of bits
# Of the detections of an image. Rounding decides whether one is just above a threshold.
_DETECTIONS_IN_BOTH = 0.95
_SCORES = (Prediction.SEGMENT_SCORE,)
_MASKS = (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK, Prediction.SEMANTIC_MASK)
_TABLE = (
    Prediction.NUM_SEGMENTS,
    Prediction.SEGMENT_CATEGORY,
    Prediction.SEGMENT_INSTANCE,
    Prediction.IMAGE_SIZE,
)


def differences(found: Arrays, expected: Arrays) -> Sequence[str]:
    """In what two predictions differ, in words.

    Masks agree in 99.9% of the pixels; segments in number, category and instance, in area to 0.1%
    of the pixels, in score to 0.001. 95% of the detections of an image, of the prediction that has
    more, have a partner in the other, wherever in the order: of their category, to 0.001 in score,
    half a pixel in the box, and 0.001 in the mean over the mask.

    Args:
      found, expected: keys of `Prediction`, with the batch.
    """
    if set(found) != set(expected):
        return [f"the outputs are {sorted(found)} instead of {sorted(expected)}"]
    problems = []
    for key, value in expected.items():
        other = found[key]
        if other.shape != value.shape or other.dtype != value.dtype:
            problems.append(
                f"{key} is {other.dtype} {other.shape}, not {value.dtype} {value.shape}"
            )
        elif key in _MASKS and np.mean(other == value) < _EQUAL_SHARE:
            problems.append(f"{key} differs in {np.mean(other != value):.2%} of the pixels")
        elif key in _TABLE and np.any(other != value):
            problems.append(f"{key} is {other.tolist()}, not {value.tolist()}")
        elif key in _SCORES and not np.all(np.abs(other - value) <= _SCORE_TOLERANCE):  # NaN too
            problems.append(f"{key} differs by {np.abs(other - value).max():.3g}")
        elif key == Prediction.SEGMENT_AREA:
            most = np.abs(other - value).max()
            if most > (1 - _EQUAL_SHARE) * expected[Prediction.CATEGORY_MASK][0].size:
                problems.append(f"{key} differs by {most} pixels")
    if Prediction.NUM_DETECTIONS in expected and not problems:
        problems = _differences_of_detections(found, expected)
    return problems


def _differences_of_detections(found: Arrays, expected: Arrays) -> List[str]:
    problems = []
    for i in range(len(expected[Prediction.NUM_DETECTIONS])):
        one, other = ({key: value[i] for key, value in x.items()} for x in (found, expected))
        most = max(int(x[Prediction.NUM_DETECTIONS]) for x in (one, other))
        lonely = most - _count_pairs(one, other)
        if lonely > (1 - _DETECTIONS_IN_BOTH) * most:
            problems.append(f"{lonely} of {most} detections of image {i} are not the same")
    return problems


def _count_pairs(one: Arrays, other: Arrays) -> int:
    """How many detections of one image have a partner, each another."""

    def valid(key: str) -> List[np.ndarray]:
        return [x[key][: int(x[Prediction.NUM_DETECTIONS])] for x in (one, other)]

    categories, scores, boxes = (
        valid(key)
        for key in (
            Prediction.DETECTION_CATEGORIES,
            Prediction.DETECTION_SCORES,
            Prediction.DETECTION_BOXES,
        )
    )
    is_near = categories[0][:, np.newaxis] == categories[1]  # [K of one, K of the other]
    is_near &= np.abs(scores[0][:, np.newaxis] - scores[1]) <= _SCORE_TOLERANCE
    is_near &= (np.abs(boxes[0][:, np.newaxis] - boxes[1]) <= _BOX_TOLERANCE).all(axis=-1)
    pairs = 0
    for k in range(len(is_near)):
        for partner in np.flatnonzero(is_near[k]).tolist():
            if _are_equal(_mask(one, k), _mask(other, partner)):
                is_near[:, partner] = False
                pairs += 1
                break
    return pairs


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Of two masks of one form; see `_mask`."""
    if one.dtype.kind == "f":
        return bool(np.mean(np.abs(one - other)) <= 1 - _EQUAL_SHARE)
    union = np.count_nonzero(one | other)
    return bool(np.count_nonzero(one & other) >= _SMALLEST_IOU * union)


def _mask(prediction: Arrays, k: int) -> np.ndarray:
    """Of detection k of one image: float32 [m, m] over its box, or int32 {0, 1} [H, W]."""
    if Prediction.DETECTION_MASKS in prediction:
        return prediction[Prediction.DETECTION_MASKS][k]
    return prediction[Prediction.DETECTION_BIT_MASKS][..., k // 32] >> k % 32 & 1
