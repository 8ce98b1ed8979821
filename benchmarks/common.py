"""What the learning benchmarks share: train on records, score, write the report."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, Optional

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams
from tqdm import tqdm

from panoptic_tf import experiments, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.evaluation import ceiling, records, results
from panoptic_tf.training import machine, runner

_EXPERIMENTS = {"mask_transformer": "mask2former"}
"""What experiments of a system start with, where it is not the name of the system's folder."""


def experiment_name(system: str, rest: str) -> str:
    """The experiment of a system's folder, such as `shapes` or `resnet50_coco`."""
    return f"{_EXPERIMENTS.get(system, system)}_{rest}"


def recipe_path(system: str, name: str) -> str:
    """The YAML file of a recipe."""
    folder = os.path.dirname(os.path.abspath(experiments.__file__))
    return os.path.join(folder, "recipes", system, name + ".yaml")


def train_and_score(
    experiment: str,
    *,
    train_path: str,
    val_path: str,
    output_dir: str,
    recipe: Optional[str] = None,
    overrides: Optional[Dict[str, Any]] = None,
    steps: Optional[int] = None,
) -> Dict[str, Any]:
    """Trains, evaluates the last checkpoint with its report, and adds the ceiling.

    Args:
      experiment: a registered name.
      train_path, val_path: patterns of the records.
      output_dir: gets model/, metrics.json, report.html and the COCO result files.
      recipe: YAML file that overrides the experiment.
      overrides: of the experiment, after the recipe.
      steps: shortens the training; the schedule follows.

    Returns:
      The metrics, with `PQ_ceiling`, `train_seconds` (wall clock) and `train_cpu_seconds`.
    """
    params = build_params(
        experiment,
        train_path=train_path,
        val_path=val_path,
        recipe=recipe,
        overrides=overrides,
        steps=steps,
    )
    model_dir = os.path.join(output_dir, "model")
    costs = train(params, model_dir, experiment=experiment)
    return score(params, model_dir=model_dir, output_dir=output_dir, title=experiment, costs=costs)


def build_params(
    experiment: str,
    *,
    train_path: str,
    val_path: str,
    recipe: Optional[str] = None,
    overrides: Optional[Dict[str, Any]] = None,
    steps: Optional[int] = None,
) -> cfg.ExperimentConfig:
    """The config of a run; see `train_and_score` for the arguments.

    Where an experiment is in bfloat16 and this machine has none, it is in float32.
    """
    params = exp_factory.get_exp_config(experiment)
    if params.runtime.mixed_precision_dtype == "bfloat16":
        params.runtime.mixed_precision_dtype = machine.find_machine().precision
    if recipe:
        params = hyperparams.override_params_dict(params, recipe, is_strict=True)
    params.override(overrides or {})
    params.task.train_data.input_path = train_path
    params.task.validation_data.input_path = val_path
    if steps:
        params.trainer.train_steps = steps
        params.trainer.optimizer_config.learning_rate.get().decay_steps = steps
    return params


def train(
    params: cfg.ExperimentConfig, model_dir: str, experiment: Optional[str] = None
) -> Dict[str, float]:
    """Trains from the start.

    Args:
      params: of `build_params`.
      model_dir: must not hold a run.
      experiment: the registered name, by which exports find the network again.

    Returns:
      `train_seconds` (wall clock) and `train_cpu_seconds`.

    Raises:
      ValueError: `model_dir` holds a run.
    """
    if tf.train.latest_checkpoint(model_dir):
        raise ValueError(f"{model_dir} holds a run already; its time would be counted in part.")
    wall, cpu = time.monotonic(), time.process_time()
    runner.train(params, mode="train", model_dir=model_dir, experiment=experiment)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    print(f"trained for {wall:.0f} s ({cpu:.0f} CPU-s)")
    return {"train_seconds": wall, "train_cpu_seconds": cpu}


def score(
    params: cfg.ExperimentConfig,
    *,
    model_dir: str,
    output_dir: str,
    title: str,
    costs: Optional[Dict[str, float]] = None,
) -> Dict[str, Any]:
    """Evaluates the last checkpoint and writes the report.

    Args:
      params: of `build_params`.
      model_dir: holds the checkpoint.
      output_dir: gets metrics.json, report.html and the COCO result files.
      title: of the report.
      costs: of `train`, kept beside the metrics.

    Returns:
      The metrics, with `PQ_ceiling` and the costs.
    """
    val_path = params.task.validation_data.input_path
    task = runner.build_task(params)
    collector = results.ResultCollector(task.dataset_info, output_dir, write_predictions=True)
    total = records.count_records(val_path)
    with tqdm(total=total, unit="image", desc="evaluate") as progress:
        task.image_listeners[:] = [lambda *_: progress.update(), collector.add]
        metrics = runner.evaluate(params, task, checkpoint_path=model_dir)
    metrics["PQ_ceiling"] = ceiling.evaluate_ceiling(task, val_path)["PQ"]
    metrics.update(costs or {})
    print(collector.finish(metrics, input_path=val_path, title=title))
    return metrics


def print_figure(metrics: Dict[str, Any]) -> None:
    """Prints the scores, the PQ alone on the last line."""
    for name in ("PQ_things", "PQ_stuff", "mIoU", "AP", "AP_box", "PQ_ceiling", "PQ"):
        value = metrics[name]
        print(f"{name}: {'-' if value is None else f'{value:.2f}'}")
