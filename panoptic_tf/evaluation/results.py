"""What an evaluation leaves behind: metrics.json, COCO result files, an HTML report, panels."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import files
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.evaluation.prediction_files import PredictionFiles
from panoptic_tf.inputs import reading
from panoptic_tf.metrics import coverage
from panoptic_tf.metrics.evaluator import as_text
from panoptic_tf.metrics.original_size import restore_original_size
from panoptic_tf.structures import GroundTruth, Prediction
from panoptic_tf.visualization import gallery, report

Arrays = Mapping[str, np.ndarray]


class ResultCollector:
    """Listens to an evaluation; every form of a model (Keras, SavedModel, TFLite) feeds it."""

    def __init__(
        self,
        dataset_info: DatasetInfo,
        output_dir: str,
        *,
        write_predictions: bool = False,
        gallery_size: int = 6,
    ):
        """See the class.

        Args:
          dataset_info: categories.
          output_dir: folder of all results.
          write_predictions: whether to write COCO result files, see `prediction_files`.
          gallery_size: best and worst images in the report, each.
        """
        self._info = dataset_info
        self._output_dir = output_dir
        self._gallery = gallery.Gallery(gallery_size)
        self._predictions: Optional[PredictionFiles] = None
        if write_predictions:
            self._predictions = PredictionFiles(output_dir, dataset_info)

    def add(self, ground_truth: Arrays, prediction: Arrays, pq: Optional[float]) -> None:
        """Takes one image.

        Args:
          ground_truth: keys of `structures.GroundTruth`, in the image's own size.
          prediction: keys of `structures.Prediction`; one without masks has no picture.
          pq: of this image alone, percent.
        """
        size = ground_truth[GroundTruth.CATEGORY_MASK].shape
        image_id = as_text(ground_truth[GroundTruth.IMAGE_ID])
        masks: Dict[str, np.ndarray] = {}
        if Prediction.CATEGORY_MASK in prediction:
            masks = original_masks(prediction, size)
            self._gallery.add(image_id, pq, ground_truth, masks)
        if self._predictions is not None:
            self._predictions.add(json.loads(image_id), prediction, masks, size)

    def finish(
        self,
        metrics: Mapping[str, Any],
        *,
        input_path: str,
        title: str,
        subtitle: str = "",
        extras: Optional[Mapping[str, Mapping[str, Any]]] = None,
    ) -> str:
        """Writes metrics.json, report.html and, if asked for, the result files.

        Args:
          metrics: one metrics.json object, or several by name of the form.
          input_path: records that hold the images of the gallery.
          title, subtitle, extras: see `report.render_report`.

        Returns:
          The path of the report.
        """
        if self._predictions is not None:
            self._predictions.close()
        files.write_json(os.path.join(self._output_dir, "metrics.json"), metrics)
        images = read_images(input_path, self._gallery.image_ids)
        html = report.render_report(
            title=title,
            subtitle=subtitle,
            metrics=metrics,
            colors=self._info.colors,
            gallery=self._gallery.draw(images, colors=self._info.colors, names=self._info.names),
            extras=extras,
            warnings=_warnings(metrics),
        )
        path = os.path.join(self._output_dir, "report.html")
        files.write_bytes(path, html.encode())
        return path


def _warnings(metrics: Mapping[str, Any]) -> List[str]:
    """Of one metrics.json object; of several forms, those of the first."""
    forms = [value for value in metrics.values() if isinstance(value, Mapping)]
    return coverage.warnings_of(forms[0] if forms and "PQ" not in metrics else metrics)


def original_masks(prediction: Arrays, original_size: Sequence[int]) -> Dict[str, np.ndarray]:
    """The masks of a prediction at the exact size of the image: int32 [H, W] each."""
    valid = tuple(int(v) for v in prediction[Prediction.IMAGE_SIZE])
    keys = (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK)
    return {key: restore_original_size(prediction[key], valid, original_size) for key in keys}


def read_images(input_path: str, image_ids: Sequence[str]) -> Dict[str, np.ndarray]:
    """Images of some records, uint8 [H, W, 3], by image id (JSON text)."""
    wanted = set(image_ids)
    images: Dict[str, np.ndarray] = {}
    if not wanted:
        return images
    paths = sorted(tf.io.gfile.glob(input_path))
    for example in reading.read_examples(paths):
        image_id = example["image_id"].numpy().decode()
        if image_id in wanted:
            pixels = tf.io.decode_image(example["image_bytes"], channels=3, expand_animations=False)
            images[image_id] = pixels.numpy()
        if len(images) == len(wanted):
            break
    return images
