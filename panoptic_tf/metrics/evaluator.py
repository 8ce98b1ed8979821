"""All metrics of panoptic segmentation over a split, image by image, on the host.

Works in the images' own frames. What a system does not predict is an absent key, and its metrics
are None: semantic only (no instances) or instances only (no categories).
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf import structures
from panoptic_tf.metrics import coverage, detections, panoptic_quality, segmentation, segments
from panoptic_tf.metrics import instances as instances_lib
from panoptic_tf.metrics.original_size import restore_original_size

METRIC_NAMES = (
    *(name + suffix for suffix in ("", "_things", "_stuff") for name in ("PQ", "SQ", "RQ")),
    *("mIoU", "fIoU"),
    *instances_lib.METRIC_NAMES,
)
"""Keys of every `metrics.json`, in order; values are percentages or None."""

_Truth = structures.GroundTruth
_Prediction = structures.Prediction
_TABLE_KEYS = (
    _Prediction.INSTANCE_MASK,
    _Prediction.SEGMENT_CATEGORY,
    _Prediction.SEGMENT_INSTANCE,
    _Prediction.SEGMENT_SCORE,
)


class PanopticEvaluator:
    """Streaming panoptic quality, semantic IoU, AP and coverage; replicas and processes merge.

    AP is that of the detections where a prediction holds some, and these may overlap; else that of
    the masks of its segments. Only detections have boxes, and with them box AP.

    Args:
      num_categories: N; category ids are 1..N, 0 is void.
      thing_ids: ids of the thing categories.
      category_names: N + 1 names by category id; entry 0 is void.
      crowd_rule: `all` or `last`, see `PanopticQuality`.
      compute_ap: whether to compute AP; without it AP is None.
    """

    def __init__(
        self,
        *,
        num_categories: int,
        thing_ids: Sequence[int],
        category_names: Sequence[str],
        crowd_rule: str = "all",
        compute_ap: bool = True,
    ):
        if len(category_names) != num_categories + 1:
            raise ValueError(
                f"category_names must hold void and {num_categories} categories, "
                f"got {len(category_names)} names."
            )
        self._names = tuple(category_names)
        self._thing_ids = tuple(int(i) for i in thing_ids)
        self._quality = panoptic_quality.PanopticQuality(
            num_categories=num_categories, thing_ids=self._thing_ids, crowd_rule=crowd_rule
        )
        self._segmentation = segmentation.SegmentationMetrics(num_categories=num_categories)
        self._coverage = coverage.Coverage(num_categories=num_categories, thing_ids=self._thing_ids)
        self._instances: Optional[instances_lib.InstanceAveragePrecision] = None
        if compute_ap:
            self._instances = instances_lib.InstanceAveragePrecision(
                num_categories=num_categories, thing_ids=self._thing_ids
            )
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
            overlaps = self._update_panoptic(image_id, truth, masks)
            self._update_semantic(truth, masks, overlaps)
            if instances is None:
                instances = instances_lib.stored_instances(ground_truth)
            self._update_instances(truth, masks, prediction, instances)
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from error

    def update_labels(
        self, image_id: str, ground_truth: segments.LabelMap, prediction: segments.LabelMap
    ) -> None:
        """Adds one image by its segments alone; semantic IoU is that of the segments, no AP."""
        overlaps = segments.count_overlaps(ground_truth, prediction)
        self._add_overlaps(image_id, overlaps)
        self._segmentation.update_overlaps(overlaps)

    def merge(self, other: PanopticEvaluator) -> None:
        """Adds the images of another evaluator of the same categories."""
        self._quality.merge(other._quality)
        self._segmentation.merge(other._segmentation)
        self._coverage.merge(other._coverage)
        if self._instances is not None and other._instances is not None:
            self._instances.merge(other._instances)
        self._image_scores.extend(other._image_scores)

    def image_scores(self) -> List[Tuple[str, Optional[float]]]:
        """(image id, PQ of this image alone in percent or None), in the order of the updates."""
        return list(self._image_scores)

    def result(self) -> Dict[str, Any]:
        """The content of `metrics.json`, as plain Python values.

        Returns:
          `METRIC_NAMES`, `coverage.NAMES` and `per_category`.
        """
        values: Dict[str, Any] = dict.fromkeys(METRIC_NAMES)
        quality = self._quality.result()
        semantic = self._segmentation.result()
        precision = {} if self._instances is None else self._instances.result()
        for part in (quality, semantic, precision):
            values.update({name: part[name] for name in METRIC_NAMES if name in part})
        values.update(self._coverage.result())
        values["per_category"] = [
            {
                "id": row["id"],
                "name": self._names[row["id"]],
                "is_thing": row["id"] in self._thing_ids,
                **{name: row[name] for name in ("PQ", "SQ", "RQ")},
                "IoU": semantic["IoU"][i],
                "AP": precision["per_category"][i] if precision else None,
                **{name: row[name] for name in ("tp", "fp", "fn")},
            }
            for i, row in enumerate(quality["per_category"])
        ]
        return values

    def _update_panoptic(
        self, image_id: str, truth: Mapping[str, Any], masks: Mapping[str, Any]
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
        overlaps = segments.count_overlaps(ground_truth, prediction)
        self._add_overlaps(image_id, overlaps)
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

    def _add_overlaps(self, image_id: str, overlaps: segments.Overlaps) -> None:
        image_state = self._quality.update_overlaps(overlaps)
        self._coverage.update_overlaps(overlaps)
        self._image_scores.append((image_id, panoptic_quality.average_quality(image_state)["PQ"]))

    def _update_instances(
        self,
        truth: Mapping[str, Any],
        masks: Mapping[str, Any],
        prediction: Mapping[str, Any],
        instances: Optional[instances_lib.Instances],
    ) -> None:
        size = truth[_Truth.CATEGORY_MASK].shape
        found = None if self._instances is None else _found_instances(prediction, masks, size)
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


def _found_instances(
    prediction: Mapping[str, Any], masks: Mapping[str, np.ndarray], original_size: Sequence[int]
) -> Optional[instances_lib.Instances]:
    """The instances that AP is computed of, or None if the prediction has none of any kind."""
    if detections.has_detections(prediction):
        return detections.detected_instances(prediction, original_size)
    if any(key not in prediction for key in _TABLE_KEYS):
        return None
    return instances_lib.predicted_instances(
        masks[_Prediction.INSTANCE_MASK],
        segment_instance=np.asarray(prediction[_Prediction.SEGMENT_INSTANCE]),
        segment_category=np.asarray(prediction[_Prediction.SEGMENT_CATEGORY]),
        segment_score=np.asarray(prediction[_Prediction.SEGMENT_SCORE]),
    )


def as_text(image_id: Any) -> str:
    """An image id as bytes, a NumPy scalar or a number, as text."""
    image_id = image_id.item() if hasattr(image_id, "item") else image_id
    return image_id.decode() if isinstance(image_id, bytes) else str(image_id)
