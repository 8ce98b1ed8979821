"""All metrics of panoptic segmentation over a split, image by image, on the host.

Works in the images' own frames. What a system does not predict is an absent key, and its metrics
are None: semantic only (no instances) or instances only (no categories).
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf import structures
from panoptic_tf.metrics import (
    calibration,
    coverage,
    detections,
    diagnosis,
    matching,
    panoptic_quality,
    segment_errors,
    segmentation,
    segments,
    stuff_quality,
)
from panoptic_tf.metrics import instances as instances_lib
from panoptic_tf.metrics.original_size import restore_original_size

_QUALITY_NAMES = tuple(
    name + suffix for suffix in ("", "_things", "_stuff") for name in ("PQ", "SQ", "RQ")
)
_BOUNDARY_NAMES = tuple(name.replace("Q", "Q_boundary", 1) for name in _QUALITY_NAMES)
METRIC_NAMES = (
    *_QUALITY_NAMES,
    *stuff_quality.METRIC_NAMES,
    *_BOUNDARY_NAMES,
    *calibration.METRIC_NAMES,
    *("mIoU", "fIoU"),
    *instances_lib.METRIC_NAMES,
)
"""Keys of every `metrics.json`, in order; values are percentages or None."""

_Truth = structures.GroundTruth
_Prediction = structures.Prediction
_SCORE_KEYS = (
    _Prediction.SEGMENT_CATEGORY,
    _Prediction.SEGMENT_INSTANCE,
    _Prediction.SEGMENT_SCORE,
)


class PanopticEvaluator:
    """Streaming panoptic quality and what stands beside it; replicas and processes merge.

    AP is that of the detections where a prediction holds some, and these may overlap; else that of
    the masks of its segments. Only detections have boxes, and with them box AP.

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
      thing_ids: ids of the thing categories.
      category_names: N + 1 names by category id; entry 0 is void.
      crowd_rule: `all` or `last`, see `PanopticQuality`.
      compute_ap: whether to compute AP; without it AP is None.
      boundary_ratio: width of the boundaries of Boundary PQ (arXiv:2103.16562) as a share of the
        image's diagonal, the paper's being 0.02; 0: without it Boundary PQ is None.
      stuff_area: see `Diagnosis`.

    Raises:
      ValueError: `category_names` has another length, or `boundary_ratio` is not within 0..1.
    """

    def __init__(
        self,
        *,
        num_categories: int,
        thing_ids: Sequence[int],
        category_names: Sequence[str],
        crowd_rule: str = "all",
        compute_ap: bool = True,
        boundary_ratio: float = 0.0,
        stuff_area: int = 0,
    ):
        if len(category_names) != num_categories + 1:
            raise ValueError(
                f"category_names must hold void and {num_categories} categories, "
                f"got {len(category_names)} names."
            )
        if not 0 <= boundary_ratio <= 1:
            raise ValueError(f"boundary_ratio must be within 0..1, got {boundary_ratio}.")
        self._names = tuple(category_names)
        self._thing_ids = tuple(int(i) for i in thing_ids)
        self._crowd_rule = crowd_rule
        self._boundary_ratio = boundary_ratio
        kinds: Dict[str, Any] = {"num_categories": num_categories, "thing_ids": self._thing_ids}
        self._quality = panoptic_quality.PanopticQuality(crowd_rule=crowd_rule, **kinds)
        self._boundary_quality = panoptic_quality.PanopticQuality(crowd_rule=crowd_rule, **kinds)
        self._stuff_quality = stuff_quality.StuffQuality(num_categories=num_categories)
        self._errors = segment_errors.SegmentErrors(**kinds)
        self._calibration = calibration.SegmentCalibration(**kinds)
        self._segmentation = segmentation.SegmentationMetrics(num_categories=num_categories)
        self._coverage = coverage.Coverage(**kinds)
        self._diagnosis = diagnosis.Diagnosis(stuff_area=stuff_area, **kinds)
        self._instances: Optional[instances_lib.InstanceAveragePrecision] = None
        if compute_ap:
            self._instances = instances_lib.InstanceAveragePrecision(**kinds)
        self._image_scores: List[Tuple[str, Optional[float]]] = []

    def update(
        self,
        ground_truth: Mapping[str, Any],
        prediction: Mapping[str, Any],
        instances: Optional[instances_lib.Instances] = None,
    ) -> None:
        """Adds one image.

        Args:
          ground_truth: keys of `structures.GroundTruth`, no batch dimension; `crowd_mask` may be
            absent. Where there is an `image_size`, pixels beyond it are padding.
          prediction: keys of `structures.Prediction`, no batch dimension. Its valid part is
            resized to the size of the ground truth where the two differ.
          instances: the ground truth of AP; default those of `GroundTruth.INSTANCE_KEYS`, which
            may overlap, and where these are absent the instances of the masks.

        Raises:
          ValueError: masks do not fit, or a category is unknown; the message names the image.
        """
        image_id = as_text(ground_truth.get(_Truth.IMAGE_ID, len(self._image_scores)))
        try:
            truth = _ground_truth_masks(ground_truth)
            masks = _predicted_masks(prediction, truth[_Truth.CATEGORY_MASK].shape)
            overlaps = self._update_panoptic(image_id, truth, masks, prediction)
            self._update_semantic(truth, masks, overlaps)
            if instances is None:
                instances = instances_lib.stored_instances(ground_truth)
            self._update_instances(truth, masks, prediction, instances)
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from error

    def update_labels(
        self,
        image_id: str,
        ground_truth: segments.LabelMap,
        prediction: segments.LabelMap,
        scores: Optional[np.ndarray] = None,
    ) -> None:
        """Adds one image by its segments alone: semantic IoU is theirs, and there is no AP.

        Args:
          image_id: of the image.
          ground_truth, prediction: its segments.
          scores: float [P + 1] by label of the prediction, 0..1; NaN: this one has none.
        """
        overlaps = segments.count_overlaps(
            ground_truth, prediction, boundary_ratio=self._boundary_ratio
        )
        self._add_overlaps(image_id, overlaps, scores)
        self._segmentation.update_overlaps(overlaps)

    def merge(self, other: PanopticEvaluator) -> None:
        """Adds the images of another evaluator of the same categories."""
        self._quality.merge(other._quality)
        self._boundary_quality.merge(other._boundary_quality)
        self._stuff_quality.merge(other._stuff_quality)
        self._errors.merge(other._errors)
        self._calibration.merge(other._calibration)
        self._segmentation.merge(other._segmentation)
        self._coverage.merge(other._coverage)
        self._diagnosis.merge(other._diagnosis)
        if self._instances is not None and other._instances is not None:
            self._instances.merge(other._instances)
        self._image_scores.extend(other._image_scores)

    def image_scores(self) -> List[Tuple[str, Optional[float]]]:
        """(image id, PQ of this image alone in percent or None), in the order of the updates."""
        return list(self._image_scores)

    def result(self) -> Dict[str, Any]:
        """The content of `metrics.json`, as plain Python values.

        Returns:
          `METRIC_NAMES`, `coverage.NAMES`, `diagnosis.NAMES`, `errors` (`segment_errors`),
          `calibration` and `per_category`.
        """
        values: Dict[str, Any] = dict.fromkeys(METRIC_NAMES)
        quality = self._quality.result()
        boundary = self._boundary_quality.result()
        stuff = self._stuff_quality.result(quality["per_category"], self._thing_ids)
        semantic = self._segmentation.result()
        calibrated = self._calibration.result()
        precision = {} if self._instances is None else self._instances.result()
        for part in (quality, stuff, semantic, precision, calibrated):
            values.update({name: part[name] for name in METRIC_NAMES if name in part})
        values.update(zip(_BOUNDARY_NAMES, (boundary[name] for name in _QUALITY_NAMES)))
        values.update(self._coverage.result())
        values.update(self._diagnosis.result(self._names))
        values["errors"] = self._errors.result()
        values["calibration"] = calibrated["calibration"]
        values["per_category"] = [
            {
                "id": row["id"],
                "name": self._names[row["id"]],
                "is_thing": row["id"] in self._thing_ids,
                **{name: row[name] for name in ("PQ", "SQ", "RQ")},
                "PQ_dagger": stuff["per_category"][i],
                "PQ_boundary": boundary["per_category"][i]["PQ"],
                "IoU": semantic["IoU"][i],
                "AP": precision["per_category"][i] if precision else None,
                **{name: row[name] for name in ("tp", "fp", "fn")},
            }
            for i, row in enumerate(quality["per_category"])
        ]
        return values

    def _update_panoptic(
        self,
        image_id: str,
        truth: Mapping[str, Any],
        masks: Mapping[str, Any],
        table: Mapping[str, Any],
    ) -> Optional[segments.Overlaps]:
        """What ground truth and prediction share, None where there is no panoptic prediction."""
        if _Prediction.CATEGORY_MASK not in masks or _Prediction.INSTANCE_MASK not in masks:
            self._image_scores.append((image_id, None))
            return None
        ground_truth = segments.label_masks(
            truth[_Truth.CATEGORY_MASK], truth[_Truth.INSTANCE_MASK], truth.get(_Truth.CROWD_MASK)
        )
        prediction = segments.label_masks(
            masks[_Prediction.CATEGORY_MASK], masks[_Prediction.INSTANCE_MASK]
        )
        overlaps = segments.count_overlaps(
            ground_truth, prediction, boundary_ratio=self._boundary_ratio
        )
        self._add_overlaps(
            image_id, overlaps, _segment_scores(overlaps, table), _scale(table, truth)
        )
        return overlaps

    def _update_semantic(
        self,
        truth: Mapping[str, Any],
        masks: Mapping[str, Any],
        overlaps: Optional[segments.Overlaps],
    ) -> None:
        mask = masks.get(_Prediction.SEMANTIC_MASK, masks.get(_Prediction.CATEGORY_MASK))
        if _Prediction.SEMANTIC_MASK not in masks and overlaps is not None:
            self._segmentation.update_overlaps(overlaps)
        elif mask is not None:
            self._segmentation.update(truth[_Truth.CATEGORY_MASK], mask)
            if overlaps is None:
                self._coverage.update_masks(truth[_Truth.CATEGORY_MASK], mask)

    def _add_overlaps(
        self,
        image_id: str,
        overlaps: segments.Overlaps,
        scores: Optional[np.ndarray] = None,
        scale: float = 1.0,
    ) -> None:
        matches = self._match(overlaps)
        image_state = self._quality.update_matches(overlaps, matches)
        if self._boundary_ratio:
            by_boundary = self._match(overlaps, use_boundaries=True)
            self._boundary_quality.update_matches(overlaps, by_boundary)
        self._stuff_quality.update(overlaps, matches)
        self._errors.update(overlaps, matches)
        if scores is not None:
            self._calibration.update(overlaps, matches, scores)
        self._coverage.update_overlaps(overlaps)
        self._diagnosis.update_overlaps(overlaps, scale=scale)
        self._image_scores.append((image_id, panoptic_quality.average_quality(image_state)["PQ"]))

    def _match(self, overlaps: segments.Overlaps, use_boundaries: bool = False) -> matching.Matches:
        return matching.match_segments(
            overlaps,
            num_categories=len(self._names) - 1,
            crowd_rule=self._crowd_rule,
            use_boundaries=use_boundaries,
        )

    def _update_instances(
        self,
        truth: Mapping[str, Any],
        masks: Mapping[str, Any],
        prediction: Mapping[str, Any],
        instances: Optional[instances_lib.Instances],
    ) -> None:
        size = truth[_Truth.CATEGORY_MASK].shape
        found = None
        if self._instances is not None:
            found = detections.found_instances(prediction, masks, size)
        if self._instances is None or found is None:
            return
        if instances is None:
            instances = instances_lib.ground_truth_instances(
                truth[_Truth.CATEGORY_MASK],
                truth[_Truth.INSTANCE_MASK],
                truth.get(_Truth.CROWD_MASK),
            )
        self._instances.update(size, instances, found)


def _ground_truth_masks(ground_truth: Mapping[str, Any]) -> Dict[str, np.ndarray]:
    """The masks of one image without padding."""
    keys = (_Truth.CATEGORY_MASK, _Truth.INSTANCE_MASK, _Truth.CROWD_MASK)
    masks = {key: np.asarray(ground_truth[key]) for key in keys if key in ground_truth}
    size = ground_truth.get(_Truth.IMAGE_SIZE)
    if size is None:
        return masks
    height, width = (int(side) for side in size)
    return {key: mask[:height, :width] for key, mask in masks.items()}


def _predicted_masks(
    prediction: Mapping[str, Any], original_size: Sequence[int]
) -> Dict[str, np.ndarray]:
    """The predicted masks at the image's original size."""
    keys = (_Prediction.CATEGORY_MASK, _Prediction.INSTANCE_MASK, _Prediction.SEMANTIC_MASK)
    masks = {key: np.asarray(prediction[key]) for key in keys if key in prediction}
    sizes = {
        key: tuple(int(side) for side in prediction.get(_Prediction.IMAGE_SIZE, mask.shape))
        for key, mask in masks.items()
    }
    return {
        key: restore_original_size(mask, sizes[key], original_size) for key, mask in masks.items()
    }


def _segment_scores(
    overlaps: segments.Overlaps, prediction: Mapping[str, Any]
) -> Optional[np.ndarray]:
    """Scores of the predicted segments, float64 [P + 1], NaN where there is none; or None."""
    if any(key not in prediction for key in _SCORE_KEYS):
        return None
    columns = (np.asarray(prediction[key]).tolist() for key in _SCORE_KEYS)
    scores = {(category, instance): score for category, instance, score in zip(*columns)}
    found = zip(overlaps.categories.tolist(), overlaps.ids.tolist())
    return np.array([scores.get(segment, np.nan) for segment in found])


def _scale(prediction: Mapping[str, Any], truth: Mapping[str, np.ndarray]) -> float:
    """Pixels of a prediction for a pixel of its image."""
    size = prediction.get(_Prediction.IMAGE_SIZE)
    pixels = truth[_Truth.CATEGORY_MASK].size
    return 1.0 if size is None or not pixels else float(np.prod(np.int64(size))) / pixels


def as_text(image_id: Any) -> str:
    """An image id as bytes, a NumPy scalar or a number, as text."""
    image_id = image_id.item() if hasattr(image_id, "item") else image_id
    return image_id.decode() if isinstance(image_id, bytes) else str(image_id)
