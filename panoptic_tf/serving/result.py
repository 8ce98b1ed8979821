"""What a prediction looks like to a user: arrays of the image's own size and a list of segments."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np
from PIL import Image

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files, segments
from panoptic_tf.serving import detections
from panoptic_tf.structures import Prediction
from panoptic_tf.visualization import overlay


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

    Attributes:
      category_mask: int32 [H, W], contiguous category ids, 0 is void. The semantic mask where the
        model has no instances, the detections from a score of 0.5 on where it has nothing else.
      instance_mask: int32 [H, W], unique in the image, 0 on stuff and void.
      id_map: int32 [H, W], `PredictedSegment.id`, 0 is void.
      segments: tuple of `PredictedSegment`, by category, then instance.
      image_size: (height, width).
    """

    def __init__(
        self,
        image: np.ndarray,
        arrays: Mapping[str, np.ndarray],
        dataset_info: dataset_info_lib.DatasetInfo,
    ):
        masks = {Prediction.CATEGORY_MASK, Prediction.SEMANTIC_MASK} & set(arrays)
        if not masks:
            arrays = detections.draw_detections(arrays, image.shape[:2])
        key = Prediction.SEMANTIC_MASK
        if Prediction.CATEGORY_MASK in arrays:
            key = Prediction.CATEGORY_MASK
        self.category_mask = arrays[key]
        blank = np.zeros_like(self.category_mask)
        self.instance_mask = arrays.get(Prediction.INSTANCE_MASK, blank)
        self.image_size = image.shape[:2]
        self.id_map, categories, instances = segments.masks_to_rows(
            self.category_mask, self.instance_mask
        )
        self.scores = segment_scores(arrays)
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

    def save_png(self, path: str) -> None:
        """Writes the id map as RGB PNG, id = R + 256 G + 65536 B, atomically."""
        with files.atomic_path(path) as temporary:
            Image.fromarray(segments.id_to_rgb(self.id_map)).save(temporary, format="PNG")

    def __repr__(self) -> str:
        height, width = self.image_size
        names = ", ".join(segment.name for segment in self.segments)
        return f"PanopticResult({height} x {width}: {names})"

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
