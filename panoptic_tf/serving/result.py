"""What a prediction looks like to a user: arrays of the image's own size and a list of segments."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
from PIL import Image

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files, segments
from panoptic_tf.metrics.original_size import restore_original_size
from panoptic_tf.serving import detections, other_packages
from panoptic_tf.structures import VOID, Prediction
from panoptic_tf.visualization import overlay

_MASKS = (
    Prediction.CATEGORY_MASK,
    Prediction.INSTANCE_MASK,
    Prediction.SEMANTIC_MASK,
    Prediction.DETECTION_BIT_MASKS,
)


@dataclasses.dataclass(frozen=True)
class PredictedSegment:
    """One segment.

    Attributes:
      id: its id in the id map, 1..S.
      instance_id: its id in `instance_mask`, 0 for stuff.
      category_id: its id in `category_mask`, contiguous.
      dataset_category_id: the data set's own category id.
      name: of the category.
      is_thing: whether the category's pixels split into instances.
      score: 0..1, or None where the model gives none.
      area: pixels.
      bbox: (x, y, width, height) in pixels, as COCO has it.
    """

    id: int
    instance_id: int
    category_id: int
    dataset_category_id: int
    name: str
    is_thing: bool
    score: Optional[float]
    area: int
    bbox: Tuple[int, int, int, int]


class PanopticResult:
    """The panoptic segmentation of one image, in the image's own size.

    Args:
      image: uint8 [H, W, 3], RGB.
      arrays: keys of `structures.Prediction`, unbatched, masks [H, W] of the image's size.
      dataset_info: the categories.
      score_threshold: 0..1. Things of a lower score are left out: their pixels become void, since a
        panoptic map has nothing below a segment. Stuff and what has no score stay. Of a model that
        only detects, the detections that are drawn; default 0.5.

    Attributes:
      category_mask: int32 [H, W], contiguous category ids, 0 is void. The semantic mask where the
        model has no instances, the detections where it has nothing else.
      instance_mask: int32 [H, W], unique in the image, 0 on stuff and void.
      id_map: int32 [H, W], `PredictedSegment.id`, 0 is void.
      segments: tuple of `PredictedSegment`, by category, then instance.
      scores: score by (contiguous category id, instance id), of the model's segment table.
      image_size: (height, width).
    """

    def __init__(
        self,
        image: np.ndarray,
        arrays: Mapping[str, np.ndarray],
        dataset_info: dataset_info_lib.DatasetInfo,
        *,
        score_threshold: Optional[float] = None,
    ):
        masks = {Prediction.CATEGORY_MASK, Prediction.SEMANTIC_MASK} & set(arrays)
        if not masks:
            arrays = detections.draw_detections(arrays, image.shape[:2], score_threshold)
        key = Prediction.SEMANTIC_MASK
        if Prediction.CATEGORY_MASK in arrays:
            key = Prediction.CATEGORY_MASK
        self.category_mask = arrays[key]
        blank = np.zeros_like(self.category_mask)
        self.instance_mask = arrays.get(Prediction.INSTANCE_MASK, blank)
        self.scores = segment_scores(arrays)
        if score_threshold is not None:
            self._leave_out(score_threshold)
        self.image_size = image.shape[:2]
        self.id_map, categories, instances = segments.masks_to_rows(
            self.category_mask, self.instance_mask
        )
        self._image = image
        self._info = dataset_info
        self.segments = self._describe(categories, instances)

    def plot(self, alpha: float = 0.6) -> np.ndarray:
        """Paints the segments over the image, with their names: uint8 [H, W, 3]."""
        return overlay.draw_overlay(
            self._image,
            self.category_mask,
            self.instance_mask,
            colors=self._info.colors,
            names=self._info.names,
            alpha=alpha,
        )

    def to_coco(self) -> Dict[str, Any]:
        """The annotation in COCO panoptic terms.

        Returns:
          `id_map` uint32 [H, W], and `segments_info`, a list of plain dicts (id, category_id as the
          data set has it, area, bbox, iscrowd, and score where there is one).
        """
        described = []
        for segment in self.segments:
            item: Dict[str, Any] = {
                "id": segment.id,
                "category_id": segment.dataset_category_id,
                "area": segment.area,
                "bbox": list(segment.bbox),
                "iscrowd": 0,
            }
            if segment.score is not None:
                item["score"] = segment.score
            described.append(item)
        return {"segments_info": described, "id_map": self.id_map.astype(np.uint32)}

    def to_dicts(self) -> List[Dict[str, Any]]:
        """One dictionary of plain values for each segment, as for `pandas.DataFrame`.

        The attributes of `PredictedSegment`, with x, y, width and height in place of bbox.
        """
        described = []
        for segment in self.segments:
            item = dataclasses.asdict(segment)
            item.update(zip(("x", "y", "width", "height"), item.pop("bbox")))
            described.append(item)
        return described

    def to_supervision(self) -> Any:
        """The segments, stuff too, as `supervision.Detections`.

        Returns:
          xyxy [S, 4], the outer edges in pixels; mask bool [S, H, W]; confidence [S], None where a
          segment has no score; class_id [S], contiguous category ids; data: `class_name` and
          `is_thing`.

        Raises:
          ImportError: supervision is not installed.
        """
        return other_packages.to_supervision(self)

    def to_fiftyone(self) -> Dict[str, Any]:
        """The labels of a `fiftyone.Sample`.

        Returns:
          `instances`, `fiftyone.Detections` of the things, each with the mask of its box;
          `segmentation`, a `fiftyone.Segmentation` of contiguous category ids, 0 is void.

        Raises:
          ImportError: fiftyone is not installed.
        """
        return other_packages.to_fiftyone(self)

    def save_png(self, path: str) -> None:
        """Writes the id map as RGB PNG, id = R + 256 G + 65536 B, atomically."""
        with files.atomic_path(path) as temporary:
            Image.fromarray(segments.id_to_rgb(self.id_map)).save(temporary, format="PNG")

    def __repr__(self) -> str:
        height, width = self.image_size
        names = ", ".join(segment.name for segment in self.segments)
        return f"PanopticResult({height} x {width}: {names})"

    def _leave_out(self, score_threshold: float) -> None:
        """Makes the things of a lower score void."""
        low = [key for key, score in self.scores.items() if key[1] and score < score_threshold]
        if not low:
            return
        for key in low:
            del self.scores[key]
        is_low = np.isin(self.instance_mask, [instance for _, instance in low])
        self.category_mask = np.where(is_low, VOID, self.category_mask)
        self.instance_mask = np.where(is_low, 0, self.instance_mask)

    def _describe(self, categories, instances) -> Tuple[PredictedSegment, ...]:
        areas, boxes = segments.areas_and_boxes(self.id_map, len(categories))
        described = []
        for row, key in enumerate(zip(categories.tolist(), instances.tolist())):
            category = self._info.categories[key[0] - 1]
            described.append(
                PredictedSegment(
                    id=row + 1,
                    instance_id=key[1],
                    category_id=category.id,
                    dataset_category_id=category.dataset_id,
                    name=category.name,
                    is_thing=category.is_thing,
                    score=self.scores.get(key),
                    area=int(areas[row]),
                    bbox=tuple(boxes[row].tolist()),
                )
            )
        return tuple(described)


def segment_scores(arrays: Mapping[str, np.ndarray]) -> Dict[Tuple[int, int], float]:
    """Scores by (contiguous category id, instance id), from an unbatched segment table."""
    if Prediction.NUM_SEGMENTS not in arrays:
        return {}
    count = int(arrays[Prediction.NUM_SEGMENTS])
    columns = (Prediction.SEGMENT_CATEGORY, Prediction.SEGMENT_INSTANCE, Prediction.SEGMENT_SCORE)
    rows = zip(*(arrays[key][:count].tolist() for key in columns))
    return {(category, instance): score for category, instance, score in rows}


def to_original_size(
    arrays: Mapping[str, np.ndarray], original_size: Tuple[int, int]
) -> Dict[str, np.ndarray]:
    """Cuts masks to the image, and resizes them and boxes where it is not of the output's size.

    Args:
      arrays: keys of `structures.Prediction`, unbatched.
      original_size: (height, width) of the image.

    Raises:
      ValueError: the image size in `arrays` is not within a mask.
    """
    answered = arrays[Prediction.IMAGE_SIZE].tolist()
    changed = {
        key: restore_original_size(arrays[key], answered, original_size)
        for key in _MASKS
        if key in arrays
    }
    if Prediction.DETECTION_BOXES in arrays:
        scale = np.tile(np.divide(original_size, answered), 2).astype(np.float32)
        changed[Prediction.DETECTION_BOXES] = arrays[Prediction.DETECTION_BOXES] * scale
    return {**arrays, **changed, Prediction.IMAGE_SIZE: np.asarray(original_size, np.int32)}
