"""What is refused before a run builds anything."""

from __future__ import annotations

import dataclasses
from typing import Any, FrozenSet, Optional, Tuple

import tensorflow as tf
from absl import logging
from official.core import config_definitions as cfg

from panoptic_tf.metrics import coverage, evaluator
from panoptic_tf.metrics.matching import CROWD_RULES
from panoptic_tf.systems import config as base_config
from panoptic_tf.systems import task_records
from panoptic_tf.systems.task import PanopticTask
from panoptic_tf.training import best
from panoptic_tf.training.cluster import Cluster

_POSITIVE = ("train_steps", "steps_per_loop", "checkpoint_interval")

# What is read of the fields of data, and of those that the Model Garden's trainer has.
_READ_OF_DATA = frozenset(
    {
        "input_path",
        "global_batch_size",
        "is_training",
        "shuffle_buffer_size",
        "cache",
        "seed",
        "enable_tf_data_service",
        "tf_data_service_address",
        "tf_data_service_job_name",
        "max_examples",
        "allow_partial",
        "max_bad_records",
        "with_instances",
    }
)
_READ_OF_TRAINING_DATA = _READ_OF_DATA | {"repeat_factor_threshold", "augmentation"}
_READ_OF_RUNTIME = frozenset(
    {
        "distribution_strategy",
        "enable_xla",
        "tpu",
        "num_gpus",
        "all_reduce_alg",
        "mixed_precision_dtype",
        "loss_scale",
        "tpu_enable_xla_dynamic_padder",
    }
)


def check_run(
    params: cfg.ExperimentConfig, mode: str, model_dir: str, cluster: Optional[Cluster]
) -> None:
    """Checks what does not need the data or a device.

    Raises:
      ValueError: a value is out of its range, nothing reads it, or what is asked for cannot go
        together.
    """
    if "train" in mode:
        _check_training(params.trainer, params.runtime)
        _check_comparisons(params, mode)
        if params.runtime.enable_xla and cluster is not None:
            raise ValueError(
                "runtime.enable_xla compiles what the devices of one process exchange, not what "
                "several processes do (losses and batch statistics are of all). Leave it off for "
                "multi_worker_mirrored."
            )
        _check_data(params.task.train_data, "task.train_data")
    if "eval" in mode:
        check_evaluation(params)
    if "eval" in mode and params.runtime.distribution_strategy == "tpu":
        raise ValueError(
            "a TPU does not evaluate: images differ in size, and a TPU needs sizes that are known "
            "beforehand. Use --mode=train, then `panoptic-tf evaluate --model_dir=...` elsewhere."
        )
    if mode == "continuous_eval" and cluster is not None:
        raise ValueError("--mode=continuous_eval is one process; give it no cluster.")
    if mode == "eval" and tf.train.latest_checkpoint(model_dir) is None:
        raise ValueError(f"there is no checkpoint in --model_dir {model_dir!r} to evaluate.")


def check_evaluation(params: cfg.ExperimentConfig) -> None:
    """Checks the values of an evaluation.

    Raises:
      ValueError: one is out of its range, or nothing reads it.
    """
    _check_unread(params.runtime, cfg.RuntimeConfig(), "runtime", _READ_OF_RUNTIME)
    steps = params.trainer.validation_steps
    if steps != -1:
        _check_at_least(1, steps, "trainer.validation_steps", "or -1 for all records")
    _check_data(params.task.validation_data, "task.validation_data")
    measured = params.task.evaluation
    _check_at_least(1, measured.max_pixels, "task.evaluation.max_pixels")
    if measured.crowd_rule not in CROWD_RULES:
        raise ValueError(
            f"task.evaluation.crowd_rule must be one of {CROWD_RULES}, got {measured.crowd_rule!r}."
        )
    if not 0 <= measured.boundary_ratio <= 1:
        raise ValueError(
            "task.evaluation.boundary_ratio must be within 0..1, a share of the image's diagonal, "
            f"got {measured.boundary_ratio}."
        )


def _check_training(trainer: cfg.TrainerConfig, runtime: cfg.RuntimeConfig) -> None:
    _check_unread(runtime, cfg.RuntimeConfig(), "runtime", _READ_OF_RUNTIME)
    for name in _POSITIVE:
        _check_at_least(1, getattr(trainer, name), f"trainer.{name}")
    for name in ("max_to_keep", "summary_interval"):
        if getattr(trainer, name) is not None:
            _check_at_least(1, getattr(trainer, name), f"trainer.{name}")
    if trainer.validation_interval is not None:
        note = "0 evaluates at the end only"
        _check_at_least(0, trainer.validation_interval, "trainer.validation_interval", note)
    if trainer.summary_interval and trainer.summary_interval % trainer.steps_per_loop:
        raise ValueError(
            "trainer.summary_interval must be a multiple of trainer.steps_per_loop "
            f"({trainer.steps_per_loop}), got {trainer.summary_interval}."
        )


def _check_comparisons(params: cfg.ExperimentConfig, mode: str) -> None:
    """Checks what the best checkpoint and early stopping compare."""
    trainer, stopping = params.trainer, params.trainer.early_stopping
    names = "trainer.best_checkpoint_eval_metric", "trainer.best_checkpoint_metric_comp"
    values = trainer.best_checkpoint_eval_metric, trainer.best_checkpoint_metric_comp
    if trainer.best_checkpoint_export_subdir:
        _check_comparison(params, names, values)
        _check_evaluates(mode, "trainer.best_checkpoint_export_subdir", "empty")
    name = "trainer.early_stopping"
    _check_at_least(0, stopping.patience, f"{name}.patience", "0 never stops early")
    if not stopping.patience:
        return
    _check_comparison(
        params, (f"{name}.metric", f"{name}.metric_comp"), (stopping.metric, stopping.metric_comp)
    )
    if stopping.min_delta < 0:
        raise ValueError(f"{name}.min_delta must be at least 0, got {stopping.min_delta}.")
    _check_evaluates(mode, f"{name}.patience", "0")


def _check_evaluates(mode: str, name: str, off: str) -> None:
    if mode != "train_and_eval":
        raise ValueError(
            f"{name} is set, but --mode={mode} does not evaluate on the way. Take "
            f"--mode=train_and_eval, or leave it {off}."
        )


def _check_comparison(
    params: cfg.ExperimentConfig, names: Tuple[str, str], values: Tuple[str, str]
) -> None:
    known = (*evaluator.METRIC_NAMES, *coverage.NAMES)
    if values[0] not in known:
        raise ValueError(f"{names[0]} must be one of {', '.join(known)}, got {values[0]!r}.")
    if values[0].startswith("AP") and not params.task.evaluation.report_mask_ap:
        raise ValueError(
            f"{names[0]} is {values[0]}, which task.evaluation.report_mask_ap=false leaves out."
        )
    if "_boundary" in values[0] and not params.task.evaluation.boundary_ratio:
        raise ValueError(f"{names[0]} is {values[0]}, which needs task.evaluation.boundary_ratio.")
    if values[1] not in best.COMPARISONS:
        raise ValueError(f"{names[1]} must be higher or lower, got {values[1]!r}.")


def _check_data(data: Any, name: str) -> None:
    _check_at_least(1, data.global_batch_size, f"{name}.global_batch_size")
    _check_at_least(0, data.max_examples, f"{name}.max_examples", "0 is all")
    _check_at_least(0, data.max_bad_records, f"{name}.max_bad_records")
    if data.is_training:
        _check_at_least(1, data.shuffle_buffer_size, f"{name}.shuffle_buffer_size")
    # An evaluation never drops its last images, whatever the field says.
    read = _READ_OF_TRAINING_DATA if data.is_training else _READ_OF_DATA | {"drop_remainder"}
    _check_unread(data, base_config.DataConfig(), name, read)
    task_records.data_service(data)


def _check_unread(values: Any, defaults: Any, name: str, read: FrozenSet[str]) -> None:
    """Refuses values, other than the defaults, of fields that nothing reads."""
    for field in dataclasses.fields(defaults):
        value, default = getattr(values, field.name), getattr(defaults, field.name)
        if field.name in read or value == default:
            continue
        if dataclasses.is_dataclass(default) and dataclasses.is_dataclass(value):
            _check_unread(value, default, f"{name}.{field.name}", frozenset())
        else:
            raise ValueError(
                f"{name}.{field.name} is {value!r}, but it has no effect here. Leave it at "
                f"{default!r}."
            )


def _check_at_least(least: int, value: Any, name: str, note: str = "") -> None:
    if not isinstance(value, int) or value < least:
        note = f" ({note})" if note else ""
        raise ValueError(f"{name} must be at least {least}{note}, got {value!r}.")


def check_inputs(params: cfg.ExperimentConfig, task: PanopticTask, mode: str) -> None:
    """Looks at the files of the records that a mode reads.

    Raises:
      ValueError: see `PanopticTask.check_inputs`.
    """
    if "train" in mode:
        task.check_inputs(params.task.train_data)
    if "eval" in mode:
        task.check_inputs(params.task.validation_data)


def check_devices(runtime: cfg.RuntimeConfig) -> None:
    """Compares the GPUs that are asked for with those that TensorFlow sees.

    Raises:
      ValueError: it sees fewer.
    """
    if runtime.distribution_strategy == "tpu":
        return
    seen = len(tf.config.list_physical_devices("GPU"))
    if runtime.num_gpus > seen:
        raise ValueError(
            f"runtime.num_gpus (--num_gpus) is {runtime.num_gpus}, TensorFlow {tf.__version__} "
            f"sees {seen or 'no'} GPU{'s' if seen > 1 else ''}. Lower it, or look at the driver, "
            "at CUDA_VISIBLE_DEVICES and whether this TensorFlow is built for GPUs "
            "(pip install 'tensorflow[and-cuda]')."
        )


def check_own_gpus(cluster: Cluster) -> None:
    """Compares the GPUs that this process sees with the processes that are on one machine.

    Raises:
      ValueError: several of them would take the same GPUs.
    """
    seen = len(tf.config.list_physical_devices("GPU"))
    hosts = [host.rpartition(":")[0] for hosts in cluster.addresses.values() for host in hosts]
    own = cluster.addresses[cluster.job][cluster.index].rpartition(":")[0]
    if seen > 1 and hosts.count(own) > 1:
        raise ValueError(
            f"{hosts.count(own)} processes are on {own}, and each would take all of its {seen} "
            "GPUs. Start one process a machine (Slurm: --ntasks-per-node=1), which takes them all, "
            "or give each its own (Slurm: --gpus-per-task=1)."
        )


def log_devices(strategy: tf.distribute.Strategy) -> None:
    """Logs in one line what a run computes on; a warning where GPUs stay idle."""
    devices = strategy.extended.worker_devices
    seen = len(tf.config.list_physical_devices("GPU"))
    used = sum("GPU" in device for device in devices)
    names = ", ".join(device.rpartition("device:")[2] or device for device in devices)
    if used < seen and not isinstance(strategy, tf.distribute.TPUStrategy):
        logging.warning(
            "computing on %s; TensorFlow sees %d GPUs of which %d are idle: --num_gpus=%d uses "
            "them%s.",
            names,
            seen,
            seen - used,
            seen,
            " with --distribution_strategy=mirrored" if seen > 1 else "",
        )
    else:
        logging.info("computing on %s.", names)
