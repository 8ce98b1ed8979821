"""Writer of the COCO panoptic format: PNGs of segment ids and the JSON file beside them."""

from __future__ import annotations

import math
import os
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple, Union

import numpy as np
from PIL import Image

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files, segments

ImageId = Union[int, str]


class CocoPanopticWriter:
    """Writes annotations or predictions in COCO panoptic format.

    PNGs are written as images are added, the JSON file last, by `close`: without it the folder does
    not look finished. Usable in a `with` block.

    Args:
      output_dir: the folder.
      dataset_info: categories; the files hold the data set's own ids. What stands for unlabelled
        pixels is void in the files, as in the annotations.
      json_name: name of the JSON file in it.
      png_dir: sub-folder of the PNGs.
    """

    def __init__(
        self,
        output_dir: str,
        dataset_info: dataset_info_lib.DatasetInfo,
        *,
        json_name: str = "predictions.json",
        png_dir: str = "predictions",
    ):
        self.json_path = os.path.join(output_dir, json_name)
        self.png_dir = os.path.join(output_dir, png_dir)
        self._info = dataset_info
        self._unlabelled = next(
            (c.id for c in dataset_info.categories if c.dataset_id == dataset_info.unlabelled_id),
            None,
        )
        self._images: Dict[ImageId, Dict[str, Any]] = {}
        self._annotations: List[Dict[str, Any]] = []
        self._png_names: Set[str] = set()
        os.makedirs(self.png_dir, exist_ok=True)

    def __enter__(self) -> CocoPanopticWriter:
        return self

    def __exit__(self, error_type: Any, *_: Any) -> None:
        if error_type is None:
            self.close()

    def add(
        self,
        image_id: ImageId,
        file_stem: str,
        category_mask: np.ndarray,
        instance_mask: np.ndarray,
        *,
        scores: Optional[Mapping[Tuple[int, int], float]] = None,
        crowd: Optional[np.ndarray] = None,
        image_file: Optional[str] = None,
    ) -> None:
        """Writes the PNG of one image and keeps its segments for the JSON file.

        Args:
          image_id: the data set's own id, int or str (`json.loads` of an image id tensor).
          file_stem: the PNG's name without `.png`.
          category_mask: integers [H, W], contiguous category ids, 0 is void.
          instance_mask: integers [H, W] of any width, unique in the image, 0 on stuff.
          scores: score by (contiguous category id, instance id); segments not named have none.
          crowd: bool [H, W], True on crowd segments; a segment is a crowd if any pixel is.
          image_file: `file_name` of the image; default `<file_stem>.jpg`.

        Raises:
          ValueError: the image or the PNG came before, a mask or a score holds what it must not, or
            `file_stem` leaves the folder.
        """
        image_id = self._check_id(image_id)
        where = f"image_id {image_id!r}"
        top = self._info.num_categories
        category_mask = _check_mask(f"{where}: category_mask", category_mask, f"0..{top}", top)
        instance_mask = _check_mask(
            f"{where}: instance_mask", instance_mask, "integers of at least 0"
        )
        is_crowd = np.zeros(category_mask.shape, bool)
        if crowd is not None:
            is_crowd = _check_mask(f"{where}: crowd", crowd, "0 and 1", 1).astype(bool)
        shapes = [mask.shape for mask in (category_mask, instance_mask, is_crowd)]
        if len(shapes[0]) != 2 or len(set(shapes)) != 1:
            raise ValueError(f"{where}: masks must be [H, W] and alike, got {shapes}.")
        png_name = file_stem + ".png"
        path = files.inside(self.png_dir, png_name, source="file_stem")
        if png_name in self._png_names:
            raise ValueError(f"{where}: file_stem {file_stem!r} was added before.")
        for key, score in (scores or {}).items():
            if not math.isfinite(score):
                raise ValueError(f"{where}: scores[{key}] must be finite, got {score}.")
        if self._unlabelled is not None:
            category_mask = np.where(category_mask == self._unlabelled, 0, category_mask)
        rows, categories, instances = segments.masks_to_rows(category_mask, instance_mask)
        height, width = rows.shape
        with files.atomic_path(path) as temporary:
            Image.fromarray(segments.id_to_rgb(rows)).save(temporary, format="PNG")
        self._png_names.add(png_name)
        crowd_rows = frozenset(np.unique(rows[is_crowd]).tolist())
        self._images[image_id] = {
            "id": image_id,
            "file_name": image_file or file_stem + ".jpg",
            "height": height,
            "width": width,
        }
        segments_info = self._segments_info(rows, categories, instances, crowd_rows, scores or {})
        self._annotations.append(
            {"image_id": image_id, "file_name": png_name, "segments_info": segments_info}
        )

    def entries(self) -> Dict[str, List[Dict[str, Any]]]:
        """The `images` and `annotations` of the JSON file so far."""
        return {"images": list(self._images.values()), "annotations": self._annotations}

    def add_entries(self, entries: Mapping[str, List[Dict[str, Any]]]) -> None:
        """Adds the `entries` of another writer into the same folder, of other images."""
        for image, annotation in zip(entries["images"], entries["annotations"]):
            self._images[self._check_id(image["id"])] = image
            self._annotations.append(annotation)
            self._png_names.add(annotation["file_name"])

    def close(self) -> str:
        """Writes the JSON file and returns its path."""
        content = {**self.entries(), "categories": self._info.annotated().to_coco()}
        files.write_json(self.json_path, content)
        return self.json_path

    def _check_id(self, image_id: Any) -> ImageId:
        if isinstance(image_id, np.integer):
            image_id = int(image_id)
        if isinstance(image_id, bool) or not isinstance(image_id, (int, str)) or image_id == "":
            raise ValueError(f"image_id must be an integer or a non-empty text, got {image_id!r}.")
        if image_id in self._images:
            raise ValueError(f"image_id {image_id!r} was added before to {self.json_path}.")
        return image_id

    def _segments_info(self, rows, categories, instances, crowd_rows, scores) -> List[Dict]:
        areas, boxes = segments.areas_and_boxes(rows, len(categories))
        segments_info = []
        for row, key in enumerate(zip(categories.tolist(), instances.tolist())):
            segment = {
                "id": row + 1,
                "category_id": self._info.dataset_ids[key[0]],
                "area": int(areas[row]),
                "bbox": boxes[row].tolist(),
                "iscrowd": int(row + 1 in crowd_rows),
            }
            if key in scores:
                segment["score"] = float(scores[key])
            segments_info.append(segment)
        return segments_info


def _check_mask(name: str, mask: Any, expected: str, most: Optional[int] = None) -> np.ndarray:
    """A mask as integers of at least 0, at most `most`."""
    integers = segments.as_integers(name, mask)
    if integers.size:
        low, high = integers.min(), integers.max()
        if low < 0 or (most is not None and high > most):
            raise ValueError(f"{name} must hold {expected}, got {low}..{high}.")
    return integers
