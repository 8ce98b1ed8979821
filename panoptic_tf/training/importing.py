"""Published weights as a checkpoint of an experiment, ready to evaluate, export and train on."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any, Mapping, Optional

import tensorflow as tf
from absl import logging
from official.core import base_trainer, exp_factory, train_utils
from official.core import config_definitions as cfg

from panoptic_tf import checkpoints
from panoptic_tf.systems import weight_settings
from panoptic_tf.training import run_folder, runner


def configure(
    params: cfg.ExperimentConfig, experiment: str, settings: Mapping[str, Any]
) -> cfg.ExperimentConfig:
    """The experiment as weights want it, but for what its user has set himself.

    Args:
      params: the experiment with the user's overrides.
      experiment: its name.
      settings: of `checkpoints.describe`.
    """
    wanted = weight_settings.differing(params.task, settings)
    default = exp_factory.get_exp_config(experiment).task
    taken = {}
    for key, value in wanted.items():
        current = weight_settings.value_of(params.task, key)
        if current == weight_settings.value_of(default, key):
            taken[key] = value
        else:
            logging.warning(
                "task.%s stays %s, as you set it; the weights expect %s.", key, current, value
            )
    return params.replace(task=weight_settings.nested(taken)) if taken else params


def import_checkpoint(
    params: cfg.ExperimentConfig,
    *,
    source: str,
    output_dir: str,
    modules: str = "all",
    experiment: Optional[str] = None,
) -> checkpoints.Loaded:
    """Writes a checkpoint and its `params.yaml`; all or nothing.

    Args:
      params: the experiment, as `configure` makes it.
      source: the weights; see `checkpoints.load_weights`.
      output_dir: a new folder.
      modules: see `checkpoints.load_weights`.
      experiment: its name, which `params.yaml` then holds.

    Returns:
      What was loaded.

    Raises:
      ValueError: the folder is there already, or the weights cannot be read or do not fit.
    """
    if "://" in output_dir:
        raise ValueError(f"--output_dir must be a local folder, got {output_dir!r}.")
    if os.path.exists(output_dir) and (not os.path.isdir(output_dir) or os.listdir(output_dir)):
        raise ValueError(f"--output_dir {output_dir!r} exists already. Give a new folder.")
    params = params.replace(
        task={"init_checkpoint": os.path.abspath(output_dir), "init_checkpoint_modules": "all"}
    )
    tf.keras.mixed_precision.set_global_policy("float32")
    task = runner.build_task(params)
    with tf.distribute.OneDeviceStrategy("device:CPU:0").scope():
        model = task.build_model()
        loaded = checkpoints.load_weights(source, model.weights, modules=modules, network=model)
        optimizer = train_utils.create_optimizer(task, params)
        trainer = base_trainer.Trainer(
            params, task, model=model, optimizer=optimizer, train=False, evaluate=False
        )
        if hasattr(optimizer, "swap_weights"):  # Averages are what is evaluated.
            is_partial = params.trainer.optimizer_config.ema.trainable_weights_only
            for variable in model.trainable_variables if is_partial else model.weights:
                optimizer.get_slot(variable, "average").assign(variable)
    _write(params, trainer.checkpoint, output_dir, experiment)
    return loaded


def _write(
    params: cfg.ExperimentConfig,
    checkpoint: tf.train.Checkpoint,
    output_dir: str,
    experiment: Optional[str],
) -> None:
    folder = os.path.abspath(output_dir)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    unfinished = tempfile.mkdtemp(prefix=".import_", dir=os.path.dirname(folder))
    try:
        manager = tf.train.CheckpointManager(checkpoint, unfinished, max_to_keep=1)
        manager.save(checkpoint_number=0)
        run_folder.write_params(params, unfinished, experiment)
        if os.path.isdir(folder):
            os.rmdir(folder)
        os.chmod(unfinished, 0o755)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
