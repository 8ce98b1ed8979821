"""Image panels of an evaluation for TensorBoard: input, ground truth, prediction, difference."""

from __future__ import annotations

import os
from typing import Dict, Mapping, Optional

import numpy as np
import tensorflow as tf

from panoptic_tf.evaluation import results
from panoptic_tf.structures import GroundTruth, Prediction
from panoptic_tf.systems.task import PanopticTask
from panoptic_tf.visualization import panel

_MASKS = (GroundTruth.CATEGORY_MASK, GroundTruth.INSTANCE_MASK, GroundTruth.CROWD_MASK)


class PanelWriter:
    """Keeps the first images of every evaluation and writes their panels after it."""

    def __init__(self, task: PanopticTask, model_dir: str, *, num_images: int = 4):
        """Listens to the task.

        Args:
          task: evaluates.
          model_dir: folder of the summaries, below which `validation` is.
          num_images: panels of each evaluation.
        """
        self._task = task
        self._num_images = num_images
        self._writer = tf.summary.create_file_writer(os.path.join(model_dir, "validation"))
        self._kept: Dict[str, tuple] = {}
        self._images: Dict[str, np.ndarray] = {}
        task.image_listeners.append(self._keep)

    def _keep(
        self,
        ground_truth: Mapping[str, np.ndarray],
        prediction: Mapping[str, np.ndarray],
        pq: Optional[float],
    ) -> None:
        del pq
        if len(self._kept) >= self._num_images or Prediction.CATEGORY_MASK not in prediction:
            return
        truth = {key: ground_truth[key] for key in _MASKS}
        masks = results.original_masks(prediction, truth[GroundTruth.CATEGORY_MASK].shape)
        self._kept[ground_truth[GroundTruth.IMAGE_ID].decode()] = (truth, masks)

    def __call__(self, step: int) -> None:
        """Writes the panels of the evaluation that has just ended."""
        kept, self._kept = self._kept, {}
        missing = [image_id for image_id in kept if image_id not in self._images]
        input_path = self._task.task_config.validation_data.input_path
        self._images.update(results.read_images(input_path, missing))
        info = self._task.dataset_info
        with self._writer.as_default(step=step):
            for number, (image_id, (truth, masks)) in enumerate(kept.items()):
                drawn = panel.draw_panel(
                    self._images[image_id],
                    truth,
                    masks,
                    colors=info.colors,
                    names=info.names,
                    show_difference=True,
                )
                tf.summary.image(f"panel/{number}", drawn[np.newaxis])
        self._writer.flush()
