"""Scores the images of an evaluation while the network already runs on the next ones."""

from __future__ import annotations

import concurrent.futures
from typing import Callable, Dict, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf

from panoptic_tf.metrics.evaluator import PanopticEvaluator
from panoptic_tf.structures import GroundTruth

ImageListener = Callable[
    [Mapping[str, np.ndarray], Mapping[str, np.ndarray], Optional[float]], None
]
_Replicas = Mapping[str, Sequence[tf.Tensor]]


class BackgroundScoring:
    """Feeds an evaluator from a thread, one step after the other."""

    def __init__(self, evaluator: PanopticEvaluator, listeners: Sequence[ImageListener]):
        """See the class.

        Args:
          evaluator: gets every image.
          listeners: called with (ground truth, prediction, PQ) of every image, from the thread.
        """
        self._evaluator = evaluator
        self._listeners = listeners
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "scoring")
        self._last: Optional[concurrent.futures.Future] = None

    def add(self, outputs: Mapping[str, _Replicas]) -> None:
        """Takes the images of a step, once those of the step before are scored.

        Args:
          outputs: `ground_truth` and `prediction`: for each key a tensor [B, ...] of each replica.

        Raises:
          Exception: whatever the evaluator or a listener raised for an earlier step.
        """
        self._wait()
        self._last = self._thread.submit(self._score, outputs)

    def finish(self) -> PanopticEvaluator:
        """The evaluator with all images.

        Raises:
          Exception: see `add`.
        """
        self._wait()
        self._thread.shutdown()
        return self._evaluator

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    def _score(self, outputs: Mapping[str, _Replicas]) -> None:
        for replica in range(len(next(iter(outputs["prediction"].values())))):
            truth, prediction = (
                {key: value[replica].numpy() for key, value in outputs[part].items()}
                for part in ("ground_truth", "prediction")
            )
            for i in range(len(truth[GroundTruth.IMAGE_SIZE])):
                one_truth = _unpad({key: value[i] for key, value in truth.items()})
                one_prediction = {key: value[i] for key, value in prediction.items()}
                self._evaluator.update(one_truth, one_prediction)
                pq = self._evaluator.image_scores()[-1][1]
                for listener in self._listeners:
                    listener(one_truth, one_prediction, pq)


def _unpad(ground_truth: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Cuts the masks of one image to its own size."""
    height, width = (int(v) for v in ground_truth[GroundTruth.IMAGE_SIZE])
    masks = (GroundTruth.CATEGORY_MASK, GroundTruth.INSTANCE_MASK, GroundTruth.CROWD_MASK)
    return {
        key: value[:height, :width] if key in masks else value
        for key, value in ground_truth.items()
    }
