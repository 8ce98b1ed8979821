"""Predictions of an evaluation in COCO's formats of results, panoptic and instances.

    predictions.json, predictions/*.png     the panoptic map of each image
    coco_instances_results.json             a list that `pycocotools.coco.COCO.loadRes` reads

The list holds what AP is computed of (`detections.found_instances`): detections, which may overlap,
where a model has some, else the things of the panoptic map.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, List, Mapping, Sequence
from urllib import parse

import numpy as np

from panoptic_tf.datasets import coco_writer, files
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.metrics import detections
from panoptic_tf.metrics.instances import Instances, coco_boxes
from panoptic_tf.serving.result import segment_scores
from panoptic_tf.serving.writers.coco import RESULTS_FILE
from panoptic_tf.structures import Prediction

Arrays = Mapping[str, np.ndarray]


class PredictionFiles:
    """Writes both, as far as a model has what they hold.

    Args:
      output_dir: the folder.
      dataset_info: the categories; files hold the data set's own ids.
    """

    def __init__(self, output_dir: str, dataset_info: DatasetInfo):
        self._panoptic = coco_writer.CocoPanopticWriter(output_dir, dataset_info)
        self._results_path = os.path.join(output_dir, RESULTS_FILE)
        self._thing_ids = {c.id: c.dataset_id for c in dataset_info.categories if c.is_thing}
        self._results: List[Dict[str, Any]] = []
        self._has_instances = False

    def add(
        self,
        image_id: coco_writer.ImageId,
        prediction: Arrays,
        masks: Arrays,
        original_size: Sequence[int],
    ) -> None:
        """Takes one image.

        Args:
          image_id: the data set's own id.
          prediction: keys of `structures.Prediction`, no batch dimension.
          masks: its masks in the image's own size; none if it has no panoptic map.
          original_size: (height, width) of the image.
        """
        if masks:
            is_number = isinstance(image_id, int)
            self._panoptic.add(
                image_id,
                f"{image_id:012d}" if is_number else parse.quote(str(image_id), safe=""),
                masks[Prediction.CATEGORY_MASK],
                masks[Prediction.INSTANCE_MASK],
                scores=segment_scores(prediction),
            )
        found = detections.found_instances(prediction, masks, original_size)
        if found is not None:
            self._has_instances = True
            self._results.extend(self._describe(image_id, found))

    def close(self) -> None:
        """Writes the JSON files; that of instances goes where this model has none."""
        self._panoptic.close()
        if self._has_instances:
            files.write_json(self._results_path, self._results)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._results_path)

    def _describe(
        self, image_id: coco_writer.ImageId, instances: Instances
    ) -> List[Dict[str, Any]]:
        """Results of the things; with boxes where they are not those of the masks."""
        boxes = coco_boxes(instances)
        scores = np.asarray(instances.scores, np.float64).tolist()
        results = []
        for k, category in enumerate(np.asarray(instances.categories).tolist()):
            if category not in self._thing_ids:
                continue
            rle = instances.rles[k]
            result: Dict[str, Any] = {
                "image_id": image_id,
                "category_id": self._thing_ids[category],
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                "score": scores[k],
            }
            if instances.boxes is not None:
                result["bbox"] = boxes[k]
            results.append(result)
        return results
