"""Runs an experiment: training through `official.core.train_lib`, evaluation, loading weights."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any, Dict, Iterator, Optional

import tensorflow as tf
from official.common import distribute_utils
from official.core import base_trainer, task_factory, train_lib, train_utils
from official.core import config_definitions as cfg

from panoptic_tf.datasets import files
from panoptic_tf.systems import actions, panels, workers
from panoptic_tf.systems.cluster import Cluster
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


_IMPLEMENTATIONS = {
    None: tf.distribute.experimental.CommunicationImplementation.AUTO,
    "ring": tf.distribute.experimental.CommunicationImplementation.RING,
    "nccl": tf.distribute.experimental.CommunicationImplementation.NCCL,
}


def split_cpu(count: int) -> None:
    """Makes several logical devices of the CPU, over which `mirrored` without GPUs distributes.

    For trying a distribution out; must come before TensorFlow's first operation.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )


def build_strategy(
    runtime: cfg.RuntimeConfig, cluster: Optional[Cluster] = None
) -> tf.distribute.Strategy:
    """The distribution strategy of a runtime config.

    Args:
      runtime: names it.
      cluster: the processes of `multi_worker_mirrored`, and of that alone.

    Raises:
      ValueError: the two do not go together.
    """
    name = runtime.distribution_strategy
    if (name == "multi_worker_mirrored") != (cluster is not None):
        raise ValueError(
            f"distribution_strategy {name!r}: multi_worker_mirrored, and that alone, needs "
            "--worker_hosts and --task_index, or --cluster_resolver, which `train` has."
        )
    if cluster is not None:
        if runtime.all_reduce_alg not in _IMPLEMENTATIONS:
            raise ValueError(
                "runtime.all_reduce_alg must be null, 'ring' or 'nccl' for multi_worker_mirrored, "
                f"got {runtime.all_reduce_alg!r}."
            )
        return workers.connect(cluster, implementation=_IMPLEMENTATIONS[runtime.all_reduce_alg])
    if name == "mirrored" and not runtime.num_gpus:
        return tf.distribute.MirroredStrategy(
            [device.name for device in tf.config.list_logical_devices("CPU")]
        )
    return distribute_utils.get_distribution_strategy(
        distribution_strategy=runtime.distribution_strategy,
        all_reduce_alg=runtime.all_reduce_alg,
        num_gpus=runtime.num_gpus,
        tpu_address=runtime.tpu,
    )


def build_task(params: cfg.ExperimentConfig, model_dir: str = "") -> PanopticTask:
    """The task of an experiment."""
    return task_factory.get_task(params.task, logging_dir=model_dir)


def train(
    params: cfg.ExperimentConfig, *, mode: str, model_dir: str, cluster: Optional[Cluster] = None
) -> PanopticTask:
    """Trains, evaluates on the way, resumes from the last checkpoint in `model_dir`.

    Args:
      params: the experiment.
      mode: `train`, `train_and_eval`, `eval` or `continuous_eval`.
      model_dir: gets checkpoints, summaries with image panels, `params.yaml`, and after every
        evaluation `metrics.json`; of several workers the first one writes them, all read them.
      cluster: the processes that train together, of which this is one. Where one of them fails, all
        end: with exit code `workers.LOST_WORKER` those that did not fail themselves.

    Returns:
      The task, whose `last_result` holds the last evaluation.

    Raises:
      ValueError: the config asks for what cannot go together, or there is nothing to evaluate.
    """
    _check(params, mode, model_dir, cluster)
    set_precision(params.runtime)
    strategy = build_strategy(params.runtime, cluster)
    with contextlib.ExitStack() as stack:
        own_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="panoptic_tf_worker_"))
        stack.enter_context(workers.ending_together(cluster, model_dir, own_dir))
        stack.enter_context(_naming_damaged_records(params))
        task = build_task(params, model_dir)
        task.xla = _uses_xla(params.runtime, strategy)
        if strategy.extended.should_checkpoint:
            own_dir = model_dir
            if "train" in mode:
                tf.io.gfile.makedirs(model_dir)
                _remove_unfinished_checkpoints(model_dir)
                train_utils.serialize_config(params, model_dir)
        _Runner(task, strategy, params, mode, model_dir, own_dir).run()
    return task


def _remove_unfinished_checkpoints(model_dir: str) -> None:
    """Removes what a process that was killed while it saved left behind."""
    for path in tf.io.gfile.glob(os.path.join(model_dir, "ckpt-*_temp")):
        tf.io.gfile.rmtree(path)


def _check(
    params: cfg.ExperimentConfig, mode: str, model_dir: str, cluster: Optional[Cluster]
) -> None:
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
    if mode == "continuous_eval" and cluster is not None:
        raise ValueError("--mode=continuous_eval is one process; give it no cluster.")
    if mode == "eval" and tf.train.latest_checkpoint(model_dir) is None:
        raise ValueError(f"there is no checkpoint in --model_dir {model_dir!r} to evaluate.")


def _uses_xla(runtime: cfg.RuntimeConfig, strategy: tf.distribute.Strategy) -> bool:
    """Whether XLA compiles the training step; on a TPU it always does.

    Raises:
      ValueError: several replicas on CPUs, whose losses and batch statistics XLA cannot exchange.
    """
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return True
    if runtime.enable_xla and strategy.num_replicas_in_sync > 1 and not runtime.num_gpus:
        raise ValueError(
            "runtime.enable_xla cannot compile what replicas on CPUs exchange, and there are "
            f"{strategy.num_replicas_in_sync} of them. Leave it off, or take one replica."
        )
    return runtime.enable_xla


class _Runner(train_lib.OrbitExperimentRunner):
    """Adds our actions, which need the checkpoint manager and the step.

    All workers do the same, since reading a variable may take all of them; what those beside the
    first write goes to a folder of their own, which is thrown away.
    """

    def __init__(self, task, strategy, params, mode, model_dir, own_dir):
        self._task = task
        self._shared_dir = model_dir
        self._is_first = own_dir == model_dir
        writes_panels = "eval" in mode and self._is_first
        self._panels = panels.PanelWriter(task, model_dir) if writes_panels else None
        self._progress: Optional[actions.ProgressBar] = None
        # TensorFlow's own handler of SIGTERM would take the place of ours.
        params = params.replace(trainer={"preemption_on_demand_checkpoint": False})
        super().__init__(strategy, task, mode, params, own_dir, save_summary=self._is_first)
        with strategy.scope():
            workers.check_same_step(int(self.trainer.global_step.numpy()), model_dir)

    def _build_trainer(self, task, train: bool, evaluate: bool) -> base_trainer.Trainer:
        trainer = super()._build_trainer(task, train, evaluate)
        # Several replicas in one process cannot create them inside of the training loop.
        if train and hasattr(trainer.optimizer, "_create_all_weights"):
            with self.strategy.scope():
                trainer.optimizer._create_all_weights(trainer.model.trainable_variables)
        return trainer

    def _maybe_build_checkpoint_manager(self) -> tf.train.CheckpointManager:
        return _CheckpointManager(
            self.trainer.checkpoint,
            directory=self.model_dir,
            restore_from=self._shared_dir,
            max_to_keep=self.params.trainer.max_to_keep if self._is_first else 1,
            step_counter=self.trainer.global_step,
            checkpoint_interval=self.params.trainer.checkpoint_interval,
            init_fn=self.trainer.initialize,
        )

    def _build_controller(self, *args: Any, **kwargs: Any):
        trainer = kwargs["trainer"]
        step = self.trainer.global_step
        eval_actions = [self._after_evaluation] if self._panels is not None else []
        if trainer is not None:
            kwargs["train_actions"] = [actions.FiniteLoss(step)]
            if self._is_first:
                self._progress = actions.ProgressBar(
                    global_step=step,
                    train_steps=self.params.trainer.train_steps,
                    batch_size=self.params.task.train_data.global_batch_size,
                )
                kwargs["train_actions"].append(self._progress)
            save_on_signal = actions.SaveOnSignal(self.checkpoint_manager, step)
            kwargs["train_actions"].append(save_on_signal)
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


class _CheckpointManager(tf.train.CheckpointManager):
    """Saves to one folder and goes on from the last checkpoint of another."""

    def __init__(self, checkpoint: tf.train.Checkpoint, *, restore_from: str, **kwargs: Any):
        super().__init__(checkpoint, **kwargs)
        self._restore_from = restore_from

    def restore_or_initialize(self) -> Optional[str]:
        """See base class."""
        if self.directory != self._restore_from:
            self._latest_checkpoint = tf.train.latest_checkpoint(self._restore_from)
        return super().restore_or_initialize()


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
