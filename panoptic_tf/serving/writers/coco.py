"""COCO's files: `coco_panoptic` and `coco_instances`."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Tuple

import numpy as np

from panoptic_tf.datasets import files
from panoptic_tf.datasets.coco_format import CocoPanopticWriter
from panoptic_tf.metrics import instances
from panoptic_tf.serving.result import PanopticResult
from panoptic_tf.serving.writers import base

ANNOTATIONS_FILE = "coco_instances.json"
RESULTS_FILE = "coco_instances_results.json"


class PanopticWriter(base.Writer):
    """Writes `predictions.json` and `predictions/<name>.png`, PNGs of segment ids."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._writer = CocoPanopticWriter(self.output_dir, self.dataset_info)

    def add(self, image: base.ImageFile, result: PanopticResult) -> None:
        """See the class."""
        self._writer.add(
            image.image_id,
            image.name,
            result.category_mask,
            result.instance_mask,
            scores=result.scores,
            image_file=image.file_name,
        )

    def kept(self) -> Any:
        """The entries of the JSON file."""
        return self._writer.entries()

    def join(self, kept: Any) -> None:
        """See `Writer`."""
        self._writer.add_entries(kept)

    def close(self) -> None:
        """Writes the JSON file."""
        self._writer.close()


class InstancesWriter(base.Writer):
    """Writes the instances of the panoptic map, which do not overlap; stuff is left out.

    `coco_instances.json` has `images`, `annotations` and `categories`, as annotation tools and
    `pycocotools.coco.COCO` read them; its annotations have a `score` besides.
    `coco_instances_results.json` is the list that `COCO.loadRes` and evaluation servers take:
    image_id, category_id, segmentation, bbox, score. Category ids are the data set's own, masks
    compressed run lengths, boxes x, y, width, height in pixels.

    Tools want integers as image ids: images whose id is a name are numbered from 1.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._kept: List[Tuple[Dict[str, Any], List[Dict[str, Any]]]] = []

    def add(self, image: base.ImageFile, result: PanopticResult) -> None:
        """Keeps the instances of an image."""
        height, width = result.image_size
        annotations = []
        by_id = {segment.id: segment for segment in result.segments}
        things = np.where(result.instance_mask > 0, result.id_map, 0)
        ids, rles, _ = instances.encode_id_map(things)
        for segment, rle in zip((by_id[i] for i in ids.tolist()), rles):
            annotation: Dict[str, Any] = {
                "id": None,
                "image_id": None,
                "category_id": segment.dataset_category_id,
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                "area": segment.area,
                "bbox": list(segment.bbox),
                "iscrowd": 0,
            }
            if segment.score is not None:
                annotation["score"] = segment.score
            annotations.append(annotation)
        entry = {
            "id": image.image_id,
            "file_name": image.file_name,
            "height": height,
            "width": width,
        }
        self._kept.append((entry, annotations))

    def kept(self) -> Any:
        """Images and their annotations, which `close` numbers."""
        return self._kept

    def join(self, kept: Any) -> None:
        """See `Writer`."""
        self._kept += kept

    def close(self) -> None:
        """Writes both files."""
        images, annotations = self._number()
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": c.dataset_id, "name": c.name, "supercategory": ""}
                for c in self.dataset_info.categories
                if c.is_thing
            ],
        }
        files.write_json(os.path.join(self.output_dir, ANNOTATIONS_FILE), content)
        keys = ("image_id", "category_id", "segmentation", "bbox")
        # Results need a score to be ranked; without one they are as sure as can be.
        results = [
            {**{key: a[key] for key in keys}, "score": a.get("score", 1.0)} for a in annotations
        ]
        files.write_json(os.path.join(self.output_dir, RESULTS_FILE), results)

    def _number(self) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
        """The images and annotations with their ids."""
        images: List[Dict[str, Any]] = []
        annotations: List[Dict[str, Any]] = []
        for entry, instances_of_image in self._kept:
            image_id = entry["id"] if isinstance(entry["id"], int) else len(images) + 1
            images.append({**entry, "id": image_id})
            for annotation in instances_of_image:
                ids = {"id": len(annotations) + 1, "image_id": image_id}
                annotations.append({**annotation, **ids})
        return images, annotations
