"""Keeps the checkpoint of the best evaluation, and ends a training that gets no better."""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any, Dict, List, Mapping, Optional

import tensorflow as tf
from absl import logging

from panoptic_tf.systems.config import EarlyStopping
from panoptic_tf.training import run_folder

COMPARISONS = ("higher", "lower")


class NoBetter(Exception):
    """A training has had its patience of evaluations that were no better."""


class BestCheckpoint:
    """Keeps one checkpoint in a folder of its own, whole and with everything to train on.

    The folder's `metrics.json` holds the evaluation it is the best of; it is written after the
    checkpoint, so that a run that was killed in between keeps the better one.

    Args:
      manager: saves to the folder, and keeps one.
      metric: key of the metrics to compare.
      metric_comp: of `COMPARISONS`.
      best: the metrics of the checkpoint that is there, if there is one.
      writes: whether this process writes the metrics; all workers save.
      params_file: of the run, copied beside the checkpoint that it is of.
    """

    def __init__(
        self,
        manager: tf.train.CheckpointManager,
        *,
        metric: str,
        metric_comp: str,
        best: Mapping[str, Any],
        writes: bool = True,
        params_file: Optional[str] = None,
    ):
        self._manager = manager
        self._metric = metric
        self._metric_comp = metric_comp
        self._best = best.get(metric)
        self._writes = writes
        self._params_file = params_file

    def update(self, metrics: Mapping[str, Any]) -> bool:
        """Saves if these metrics are the best so far.

        Args:
          metrics: the content of `metrics.json` with the `step`; a metric that is None is no better
            than any other.

        Returns:
          whether they are.
        """
        value = metrics.get(self._metric)
        if not is_better(value, self._best, self._metric_comp):
            if self._best is None:
                logging.warning(
                    "trainer.best_checkpoint_eval_metric: the evaluation at step %s has no %s, and "
                    "no checkpoint is kept.",
                    metrics["step"],
                    self._metric,
                )
            return False
        self._manager.save(checkpoint_number=metrics["step"], check_interval=False)
        if self._writes:
            folder = self._manager.directory
            if self._params_file is not None:
                path = os.path.join(folder, run_folder.PARAMS_FILE)
                with contextlib.suppress(tf.errors.NotFoundError):
                    tf.io.gfile.copy(self._params_file, path, overwrite=True)
            run_folder.write_json(os.path.join(folder, run_folder.METRICS_FILE), dict(metrics))
        self._best = value
        return True


class Patience:
    """Counts evaluations that are no better than the best one before.

    Args:
      config: what counts.
      evaluations: what `state` was, of this run until now.
      step: from which the run goes on; evaluations after it are forgotten.
    """

    def __init__(self, config: EarlyStopping, evaluations: Mapping[str, Any], *, step: int):
        self._config = config
        self._values: Dict[int, Optional[float]] = {}
        if evaluations.get("metric") == config.metric:
            entries: List[Dict[str, Any]] = evaluations["evaluations"]
            self._values = {e["step"]: e["value"] for e in entries if e["step"] <= step}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Counts an evaluation; a second one of the same step takes the place of the first.

        Args:
          metrics: the content of `metrics.json` with the `step`.
        """
        self._values[metrics["step"]] = metrics.get(self._config.metric)

    def state(self) -> Dict[str, Any]:
        """The content of `run_folder.EVALUATIONS_FILE`."""
        entries = [{"step": step, "value": value} for step, value in sorted(self._values.items())]
        return {"metric": self._config.metric, "evaluations": entries}

    def verdict(self) -> Optional[str]:
        """Why to stop, one line; None: go on."""
        best, best_step, num_worse = None, None, 0
        for step, value in sorted(self._values.items()):
            if is_better(value, best, self._config.metric_comp, self._config.min_delta):
                best, best_step, num_worse = value, step, 0
            else:
                num_worse += 1
        if num_worse < self._config.patience:
            return None
        last = max(self._values)
        found = "was never measured" if best is None else f"is best at step {best_step}: {best:.2f}"
        return (
            f"stopped early at step {last}: {self._config.metric} {found}, and {num_worse} "
            f"evaluations since were no better (trainer.early_stopping.patience "
            f"{self._config.patience}; raise it to continue)."
        )


def is_better(
    value: Optional[float], best: Optional[float], metric_comp: str, min_delta: float = 0.0
) -> bool:
    """Whether a metric is better than the best one so far.

    Args:
      value: of now; None and NaN never are.
      best: None: there is none yet.
      metric_comp: of `COMPARISONS`.
      min_delta: by how much it has to be better.
    """
    if value is None or math.isnan(value):
        return False
    if best is None:
        return True
    return value > best + min_delta if metric_comp == "higher" else value < best - min_delta
