"""Runs an experiment: training through `official.core.train_lib`, evaluation, loading weights."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, Iterator, Optional

import tensorflow as tf
from official.common import distribute_utils
from official.core import base_trainer, task_factory, train_lib, train_utils
from official.core import config_definitions as cfg

from panoptic_tf.datasets import files
from panoptic_tf.systems import actions, panels
from panoptic_tf.systems.model import PanopticModel
from panoptic_tf.systems.task import PanopticTask

_PRECISIONS = {
    None: "float32",
    "": "float32",
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def set_precision(runtime: cfg.RuntimeConfig) -> None:
    """Sets the Keras policy; logits and losses stay float32 under every one.

    Raises:
      ValueError: unknown `runtime.mixed_precision_dtype`.
    """
    dtype = runtime.mixed_precision_dtype
    if dtype not in _PRECISIONS:
        raise ValueError(
            "runtime.mixed_precision_dtype must be one of 'float32', 'bfloat16', 'float16', got "
            f"{dtype!r}."
        )
    tf.keras.mixed_precision.set_global_policy(_PRECISIONS[dtype])


def build_strategy(runtime: cfg.RuntimeConfig) -> tf.distribute.Strategy:
    """The distribution strategy of a runtime config."""
    return distribute_utils.get_distribution_strategy(
        distribution_strategy=runtime.distribution_strategy,
        all_reduce_alg=runtime.all_reduce_alg,
        num_gpus=runtime.num_gpus,
        tpu_address=runtime.tpu,
    )


def build_task(params: cfg.ExperimentConfig, model_dir: str = "") -> PanopticTask:
    """The task of an experiment."""
    return task_factory.get_task(params.task, logging_dir=model_dir)


def train(params: cfg.ExperimentConfig, *, mode: str, model_dir: str) -> PanopticTask:
    """Trains, evaluates on the way, resumes from the last checkpoint in `model_dir`.

    Args:
      params: the experiment.
      mode: `train`, `train_and_eval`, `eval` or `continuous_eval`.
      model_dir: gets checkpoints, summaries with image panels, `params.yaml`, and after every
        evaluation `metrics.json`.

    Returns:
      The task, whose `last_result` holds the last evaluation.

    Raises:
      ValueError: the config asks for what cannot go together, or there is nothing to evaluate.
    """
    _check(params, mode, model_dir)
    set_precision(params.runtime)
    strategy = build_strategy(params.runtime)
    task = build_task(params, model_dir)
    if "train" in mode:
        tf.io.gfile.makedirs(model_dir)
        train_utils.serialize_config(params, model_dir)
    with _naming_damaged_records(params):
        _Runner(task, strategy, params, mode, model_dir).run()
    return task


def _check(params: cfg.ExperimentConfig, mode: str, model_dir: str) -> None:
    if params.trainer.optimizer_config.ema is not None:
        if params.runtime.mixed_precision_dtype == "float16":
            raise ValueError(
                "runtime.mixed_precision_dtype float16 scales the loss, which "
                "trainer.optimizer_config.ema does not know. Use bfloat16, or set ema to null."
            )
        if params.trainer.best_checkpoint_export_subdir:
            raise ValueError(
                "trainer.best_checkpoint_export_subdir would keep averaged weights as raw ones. "
                "Leave it empty, or set trainer.optimizer_config.ema to null."
            )
    if mode == "eval" and tf.train.latest_checkpoint(model_dir) is None:
        raise ValueError(f"there is no checkpoint in --model_dir {model_dir!r} to evaluate.")


class _Runner(train_lib.OrbitExperimentRunner):
    """Adds our actions, which need the checkpoint manager and the step."""

    def __init__(self, task, strategy, params, mode, model_dir):
        self._task = task
        self._panels = panels.PanelWriter(task, model_dir) if "eval" in mode else None
        self._progress: Optional[actions.ProgressBar] = None
        super().__init__(strategy, task, mode, params, model_dir)

    def _build_controller(self, *args: Any, **kwargs: Any):
        trainer = kwargs["trainer"]
        step = self.trainer.global_step
        eval_actions = [self._after_evaluation] if self._panels is not None else []
        if trainer is not None:
            self._progress = actions.ProgressBar(
                global_step=step,
                train_steps=self.params.trainer.train_steps,
                batch_size=self.params.task.train_data.global_batch_size,
            )
            save_on_signal = actions.SaveOnSignal(self.checkpoint_manager, step)
            kwargs["train_actions"] = [actions.FiniteLoss(step), self._progress, save_on_signal]
            eval_actions.append(save_on_signal)
        kwargs["eval_actions"] = eval_actions
        return super()._build_controller(*args, **kwargs)

    def _after_evaluation(self, output) -> None:
        del output
        files.write_json(os.path.join(self.model_dir, "metrics.json"), self._task.last_result)
        self._panels(int(self.trainer.global_step.numpy()))

    def run(self):
        """See base class."""
        if self._progress is not None:
            self._progress.start()
        try:
            result = super().run()
            if self._mode == "train_and_eval" and not self._task.last_result:
                # A run that was stopped between its last step and the end of its last evaluation.
                with self.strategy.scope():
                    self.controller.evaluate(steps=self.params.trainer.validation_steps)
            return result
        finally:
            if self._progress is not None:
                self._progress.close()


def evaluate(
    params: cfg.ExperimentConfig, task: PanopticTask, *, checkpoint_path: str
) -> Dict[str, Any]:
    """Evaluates one checkpoint on the validation data, in float32 as the exported forms compute.

    Args:
      params: the experiment.
      task: its task, with the listeners that want to see the images.
      checkpoint_path: a checkpoint's prefix or a folder of checkpoints, of which the last counts.

    Returns:
      The metrics, as `metrics.json` holds them.

    Raises:
      ValueError: there is no checkpoint, or it does not fit the experiment.
    """
    tf.keras.mixed_precision.set_global_policy("float32")
    with build_strategy(params.runtime).scope():
        trainer = train_utils.create_trainer(params, task, train=False, evaluate=True)
        _restore(trainer, checkpoint_path)
        with _naming_damaged_records(params):
            trainer.evaluate(tf.constant(params.trainer.validation_steps, tf.int32))
    return task.last_result


def load_model(
    params: cfg.ExperimentConfig, task: PanopticTask, *, checkpoint_path: str
) -> PanopticModel:
    """A float32 model with a checkpoint's weights, averaged ones where the experiment keeps them.

    Args:
      params: the experiment.
      task: its task.
      checkpoint_path: a checkpoint's prefix or a folder of checkpoints, of which the last counts.

    Raises:
      ValueError: there is no checkpoint, or it does not fit the experiment.
    """
    tf.keras.mixed_precision.set_global_policy("float32")
    # Averages are swapped in under a strategy only.
    with tf.distribute.OneDeviceStrategy("device:CPU:0").scope():
        trainer = train_utils.create_trainer(params, task, train=False, evaluate=False)
        _restore(trainer, checkpoint_path)
        if hasattr(trainer.optimizer, "swap_weights"):
            trainer.optimizer.swap_weights()
    return trainer.model


def export_arguments(params: cfg.ExperimentConfig, task: PanopticTask) -> Dict[str, Any]:
    """What `serving` needs to know of an experiment beside its inference network."""
    normalization = params.task.normalization
    return {
        "dataset_info": task.dataset_info,
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "channel_order": normalization.channel_order,
        "input_size": tuple(params.task.model.input_size),
    }


@contextlib.contextmanager
def _naming_damaged_records(params: cfg.ExperimentConfig) -> Iterator[None]:
    """Turns TensorFlow's data loss into an error that names the files and what to do."""
    try:
        yield
    except tf.errors.DataLossError as error:
        task = params.task
        paths = sorted({task.train_data.input_path, task.validation_data.input_path} - {""})
        raise ValueError(
            f"a record of {' or '.join(paths)} is damaged ({error.message}). "
            "`panoptic-tf doctor --input_path=...` names the file and the record; convert it again."
        ) from error


def _restore(trainer: base_trainer.Trainer, checkpoint_path: str) -> None:
    """Restores model and optimizer.

    Raises:
      ValueError: no checkpoint there, or a variable of the model is not in it.
    """
    path = checkpoint_path
    prefix = tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path
    if not prefix or not tf.io.gfile.exists(prefix + ".index"):
        raise ValueError(f"no checkpoint at {path!r}: expected a prefix with an .index file.")
    try:
        status = trainer.checkpoint.restore(prefix)
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"checkpoint {prefix} does not fit this experiment: {error}. Give the --config_file "
            "and --params_override that it was trained with."
        ) from error
