"""Training from Python, and what `panoptic-tf train` runs."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any, Mapping, Optional, Sequence, Union

import tensorflow as tf
from absl import logging

from panoptic_tf import checkpoints
from panoptic_tf.api import configuration, paths, process_state, settings
from panoptic_tf.api.scores import Scored
from panoptic_tf.training import dry_run as dry_run_lib
from panoptic_tf.training import machine, run_folder, runner, schedule
from panoptic_tf.training.cluster import Cluster


@dataclasses.dataclass(frozen=True)
class TrainResult(Scored):
    """What a training has come to.

    Attributes:
      experiment: its name.
      model_dir: the folder of the run, which `evaluate` and `export` take.
      checkpoint: prefix of the last checkpoint, or None.
      step: of that checkpoint; 0 without one.
      metrics: of the last evaluation, as metrics.json holds them; empty without one.
    """

    experiment: str
    model_dir: str
    checkpoint: Optional[str]
    step: int


def train(
    experiment: Optional[str] = None,
    *,
    model_dir: Optional[str] = None,
    config_file: Union[None, str, Sequence[str]] = None,
    overrides: Optional[settings.Overrides] = None,
    mode: Optional[str] = None,
    log: str = "auto",
    dry_run: bool = False,
    cluster: Optional[Cluster] = None,
    **devices: Any,
) -> TrainResult:
    """Trains an experiment, evaluates it on the way and goes on from the last checkpoint.

    A folder of a run alone, `train(model_dir="runs/own")`, goes on as its `params.yaml` says, in
    its mode and on its devices.

    Args:
      experiment: its name (`panoptic-tf experiments` lists them); default the one that the files
        name.
      model_dir: folder of the run, see docs/training.md; default the one that the files name.
      config_file: one or more YAML files of values.
      overrides: values that win over the files', `{"trainer.train_steps": 1000}`; nested ones, and
        the text of `--params_override` are taken too.
      mode: `train`, `train_and_eval`, `eval` or `continuous_eval`; default the one that the files,
        or the run that goes on, name, else `train_and_eval`.
      log: how the run shows where it is; see `training.runner.train`.
      dry_run: only take one batch through everything, print what that shows and write pictures of
        what the network sees to `dry_run/` in the folder; see `training.dry_run`.
      cluster: the processes that train together; see `training.cluster.resolve_cluster`.
      **devices: `distribution_strategy`, `num_gpus`, `mixed_precision`, `tpu`, `tf_data_service`;
        see `settings.configure`.

    Returns:
      The folder, its last checkpoint, and the metrics of the last evaluation.

    Example:
        run = panoptic_tf.train(
            "panoptic_deeplab_shapes",
            model_dir="runs/python",
            overrides={
                "task.dataset_info": "data/records/dataset_info.json",
                "task.train_data": {"input_path": "data/records/train-*", "global_batch_size": 8},
                "task.validation_data.input_path": "data/records/val-*",
                "trainer.train_steps": 1000,
            },
        )
        print(run.step, run.checkpoint, run.metrics["PQ"])

    Raises:
      ValueError: the configuration names no experiment, a key that there is not, a value of the
        wrong type, or what cannot go together; records are missing or cannot be read; another
        training writes to `model_dir`.
      FloatingPointError: the loss became NaN or infinite.
    """
    if mode is not None and mode not in configuration.MODES:
        raise ValueError(f"mode must be one of {', '.join(configuration.MODES)}, got {mode!r}.")
    model_dir = None if model_dir is None else os.fspath(model_dir)
    only_evaluates = mode is not None and "train" not in mode
    goes_on = model_dir is not None and not (experiment or config_file)
    found = settings.configure(
        experiment,
        config_file=config_file,
        overrides=overrides,
        saved_dir=model_dir if only_evaluates or goes_on else None,
        keep_devices=not only_evaluates,
        **devices,
    )
    mode = mode or found.mode or "train_and_eval"
    model_dir = model_dir or found.model_dir
    if not model_dir:
        raise ValueError("no folder is named: give --model_dir, or a --config_file with it.")
    paths.check_can_write("model_dir", os.path.join(model_dir, run_folder.PARAMS_FILE))
    if "train" in mode:
        notes = [*found.notes, *schedule.misfits(found.params)]
        notes += machine.precision_misfits(found.params.runtime)
        for note in notes:
            logging.warning("%s", note)
        if tf.train.latest_checkpoint(model_dir) is None:
            _check_init_checkpoint(found.params.task.init_checkpoint)
    if dry_run:
        return _dry_run(found, mode=mode, model_dir=model_dir, cluster=cluster)
    with process_state.kept():
        task = runner.train(
            found.params,
            mode=mode,
            model_dir=model_dir,
            experiment=found.experiment,
            cluster=cluster,
            log=log,
        )
    checkpoint = tf.train.latest_checkpoint(model_dir)
    metrics = dict(task.last_result or {})
    step = _step_of(checkpoint, metrics)
    if not metrics and checkpoint:  # A run that had stopped early evaluates nothing.
        saved = run_folder.read_or_empty(model_dir, run_folder.METRICS_FILE)
        metrics = saved if saved.get("step") == step else {}
    return TrainResult(
        metrics=metrics,
        experiment=found.experiment,
        model_dir=model_dir,
        checkpoint=checkpoint,
        step=step,
    )


def _step_of(checkpoint: Optional[str], metrics: Mapping[str, Any]) -> int:
    """As the name of the checkpoint says, or else its evaluation."""
    if not checkpoint:
        return 0
    number = re.search(r"-(\d+)$", checkpoint)
    return int(number[1]) if number else int(metrics.get("step") or 0)


def _dry_run(
    found: settings.Settings, *, mode: str, model_dir: str, cluster: Optional[Cluster]
) -> TrainResult:
    """One batch through everything; a result without checkpoint and metrics."""
    if cluster is not None:
        raise ValueError("a dry run is one process; give it no cluster.")
    with process_state.kept():
        shown = dry_run_lib.dry_run(found.params, mode=mode, model_dir=model_dir)
    print("\n".join(shown.lines()))
    return TrainResult(
        metrics={}, experiment=found.experiment, model_dir=model_dir, checkpoint=None, step=0
    )


def _check_init_checkpoint(path: str) -> None:
    """Opens what training is to start from before anything is built.

    Raises:
      ValueError: it cannot be read, or is of no known source.
    """
    if path and not path.startswith("keras:"):
        try:
            checkpoints.describe(path)
        except ValueError as error:
            raise ValueError(f"task.init_checkpoint: {error}") from error
