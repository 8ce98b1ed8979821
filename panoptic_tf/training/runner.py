"""Runs an experiment: training, evaluation, loading weights."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from typing import Any, Dict, Iterator, Optional, Sequence

import tensorflow as tf
from official.common import distribute_utils
from official.core import base_trainer, task_factory, train_utils
from official.core import config_definitions as cfg

from panoptic_tf.ops import forms
from panoptic_tf.systems.model import PanopticModel
from panoptic_tf.systems.task import PanopticTask
from panoptic_tf.training import machine, progress, run_checks, run_folder, workers
from panoptic_tf.training.cluster import Cluster
from panoptic_tf.training.run import Run

STRATEGIES = ("one_device", "mirrored", "multi_worker_mirrored", "tpu")
PRECISIONS = ("float32", "bfloat16", "float16")


def set_precision(runtime: cfg.RuntimeConfig) -> None:
    """Sets the Keras policy; logits and losses stay float32 under every one.

    Raises:
      ValueError: unknown `runtime.mixed_precision_dtype`.
    """
    dtype = runtime.mixed_precision_dtype or "float32"
    _check_choice("runtime.mixed_precision_dtype", dtype, PRECISIONS)
    _set_policy(dtype)


def _set_policy(dtype: str) -> None:
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    tf.keras.mixed_precision.set_global_policy(policy)


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


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
      ValueError: there is no such strategy, the two do not go together, there are fewer GPUs than
        it asks for, or several processes would take the same.
    """
    name = runtime.distribution_strategy
    _check_choice("runtime.distribution_strategy", name, STRATEGIES)
    run_checks.check_devices(runtime)
    if (name == "multi_worker_mirrored") != (cluster is not None):
        raise ValueError(
            f"distribution_strategy {name!r}: multi_worker_mirrored, and that alone, needs "
            "--worker_hosts and --task_index, or --cluster_resolver, which `train` has."
        )
    if cluster is not None:
        run_checks.check_own_gpus(cluster)
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
    params: cfg.ExperimentConfig,
    *,
    mode: str,
    model_dir: str,
    experiment: Optional[str] = None,
    cluster: Optional[Cluster] = None,
    log: str = "auto",
) -> PanopticTask:
    """Trains, evaluates on the way, resumes from the last checkpoint in `model_dir`.

    Args:
      params: the experiment.
      mode: `train`, `train_and_eval`, `eval` or `continuous_eval`.
      model_dir: gets checkpoints, summaries with image panels, `params.yaml`, and after every
        evaluation `metrics.json`; of several workers the first one writes them, all read them.
      experiment: name of the experiment, which `params.yaml` then holds.
      cluster: the processes that train together, of which this is one. Where one of them fails, all
        end: with exit code `workers.LOST_WORKER` those that did not fail themselves.
      log: of `progress.STYLES`: how the run shows where it is; `auto`: a bar on a terminal, else
        lines.

    Returns:
      The task, whose `last_result` holds the last evaluation.

    Raises:
      ValueError: the config asks for what cannot go together, there is nothing to evaluate, another
        training writes to `model_dir`, or records are missing or cannot be read.
    """
    strategy = start(params, mode, model_dir, cluster)
    with contextlib.ExitStack() as stack:
        terminal = stack.enter_context(progress.clean_terminal(log))
        own_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="panoptic_tf_worker_"))
        stack.enter_context(workers.ending_together(cluster, model_dir, own_dir))
        task = build_task_for(strategy, params, mode, model_dir)
        if "train" in mode and tf.train.latest_checkpoint(model_dir) is None:
            task.check_start()
        stack.enter_context(naming_bad_records(params, task, mode))
        task.gather = functools.partial(workers.gather, strategy=strategy)
        if strategy.extended.should_checkpoint:
            own_dir = model_dir
            if "train" in mode:
                tf.io.gfile.makedirs(model_dir)
                stack.enter_context(run_folder.lock(model_dir))
                run_folder.remove_leftovers(model_dir)
                run_folder.write_params(params, model_dir, experiment, mode)
        params = without_xla(params)
        Run(task, strategy, params, mode, model_dir, own_dir, terminal).run()
    return task


def start(
    params: cfg.ExperimentConfig, mode: str, model_dir: str, cluster: Optional[Cluster] = None
) -> tf.distribute.Strategy:
    """Checks what needs no data, sets the precision and takes the devices of a training.

    Raises:
      ValueError: see `run_checks.check_run` and `build_strategy`.
    """
    run_checks.check_run(params, mode, model_dir, cluster)
    set_precision(params.runtime)
    strategy = build_strategy(params.runtime, cluster)
    run_checks.log_devices(strategy)
    return strategy


def build_task_for(
    strategy: tf.distribute.Strategy, params: cfg.ExperimentConfig, mode: str, model_dir: str
) -> PanopticTask:
    """The task of a training: its records are looked at, its operations are for its devices.

    Raises:
      ValueError: see `run_checks.check_inputs`; or XLA is asked for where it cannot.
    """
    task = build_task(params, model_dir)
    run_checks.check_inputs(params, task, mode)
    task.form = form_of(strategy)
    task.xla = _uses_xla(params.runtime, strategy)
    return task


def without_xla(params: cfg.ExperimentConfig) -> cfg.ExperimentConfig:
    """For the trainer: what XLA compiles, the task knows; it would add the optimiser on GPUs."""
    return params.replace(runtime={"enable_xla": False})


def form_of(strategy: tf.distribute.Strategy) -> forms.Form:
    """The form of operations that the devices of a strategy want."""
    is_cpu = ["CPU" in device for device in strategy.extended.worker_devices]
    return machine.cpu_form() if all(is_cpu) else forms.Form.ACCELERATOR


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
      ValueError: there is no checkpoint, it does not fit the experiment, records are missing or
        cannot be read, or every image is too large.
    """
    run_checks.check_evaluation(params)
    run_checks.check_inputs(params, task, "eval")
    tf.keras.mixed_precision.set_global_policy("float32")
    strategy = build_strategy(params.runtime)
    run_checks.log_devices(strategy)
    task.form = form_of(strategy)
    with strategy.scope():
        trainer = train_utils.create_trainer(params, task, train=False, evaluate=True)
        _restore(trainer, checkpoint_path)
        with naming_bad_records(params, task, "eval"):
            trainer.evaluate(tf.constant(params.trainer.validation_steps, tf.int32))
    task.check_evaluated()
    return task.last_result


def load_model(
    params: cfg.ExperimentConfig,
    task: PanopticTask,
    *,
    checkpoint_path: str,
    precision: str = "float32",
) -> PanopticModel:
    """A model with a checkpoint's weights, averaged ones where the experiment keeps them.

    Args:
      params: the experiment.
      task: its task.
      checkpoint_path: a checkpoint's prefix or a folder of checkpoints, of which the last counts.
      precision: one of `PRECISIONS`: what its layers compute in; weights and logits are float32.

    Raises:
      ValueError: there is no checkpoint, or it does not fit the experiment.
    """
    _set_policy(precision)
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


_OF_DATA = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.UnknownError,
)


@contextlib.contextmanager
def naming_bad_records(
    params: cfg.ExperimentConfig, task: PanopticTask, mode: str
) -> Iterator[None]:
    """Turns an error of the input into one that names the file, the record and what to do."""
    try:
        yield
    except _OF_DATA as error:
        data = {"train": params.task.train_data, "eval": params.task.validation_data}
        for name, config in data.items():
            reason = task.explain_failure(error, config) if name in mode else None
            if reason:
                raise ValueError(reason) from error
        raise


def _restore(trainer: base_trainer.Trainer, checkpoint_path: str) -> None:
    """Restores model and optimizer.

    Raises:
      ValueError: no checkpoint there, or a variable of the model is not in it.
    """
    prefix = run_folder.latest_checkpoint(checkpoint_path)
    if prefix is None:
        raise ValueError(
            f"no checkpoint at {checkpoint_path!r}: expected a prefix with an .index file."
        )
    try:
        status = trainer.checkpoint.restore(prefix)
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"checkpoint {prefix} does not fit this experiment: {error}. Give the --config_file "
            "and --params_override that it was trained with."
        ) from error
