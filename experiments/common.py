"""What the binaries share: the experiment that the flags ask for."""

from __future__ import annotations

import os
from typing import Optional, Sequence, Tuple

import tensorflow as tf
from absl import flags
from official.common import flags as tfm_flags
from official.core import config_definitions as cfg
from official.core import train_utils

from panoptic_tf import checkpoints
from panoptic_tf.experiments import configuration

_DISTRIBUTION = flags.DEFINE_enum(
    "distribution_strategy",
    None,
    ["one_device", "mirrored", "multi_worker_mirrored", "tpu"],
    "How to distribute; sets runtime.distribution_strategy.",
)
_NUM_GPUS = flags.DEFINE_integer(
    "num_gpus",
    None,
    "Number of GPUs; sets runtime.num_gpus. Default all that TensorFlow sees; 0 is the CPU.",
    lower_bound=0,
)
_PRECISION = flags.DEFINE_enum(
    "mixed_precision",
    None,
    ["float32", "bfloat16", "float16"],
    "Compute dtype; sets runtime.mixed_precision_dtype.",
)
_MODES = ["train", "train_and_eval", "eval", "continuous_eval"]
_NOT_HERE = ("multi_worker_mirrored", "tpu")


def define_experiment_flags() -> None:
    """Defines the Model Garden's flags, of the modes those that are implemented."""
    tfm_flags.define_flags()
    flags.DEFINE_enum("mode", None, _MODES, "What to run.", allow_override=True)
    flags.register_validator("experiment", _check_experiment)


def _check_experiment(name: Optional[str]) -> bool:
    problem = None if name is None else configuration.experiment_problem(name)
    if problem:
        raise flags.ValidationError(problem)
    return True


def parse_experiment(model_dir: Optional[str] = None) -> cfg.ExperimentConfig:
    """The experiment that the flags ask for.

    Args:
      model_dir: where its `params.yaml` is read as the first config file, if there is one and no
        `--config_file` is given, so that a trained model is evaluated as it was trained; on one
        device where it was trained by several machines or a TPU and no flag says otherwise.

    Raises:
      ValueError: unknown experiment, a key that the config does not have, or a value of the wrong
        type.
    """
    values = flags.FLAGS
    params = configuration.find_experiment(values.experiment)
    saved = os.path.join(model_dir or "", "params.yaml")
    if values.config_file:
        for path in values.config_file:
            configuration.apply(params, configuration.read_file(path), source=path)
    elif model_dir and os.path.exists(saved):
        configuration.apply_saved(params, saved, experiment=values.experiment)
        params.override({"runtime": {"num_gpus": 0}})  # Of the machine that trained.
    parser = train_utils.ExperimentParser(values)
    parser.parse_data_service(parser.parse_runtime(params))
    if values.params_override:
        try:
            overrides = configuration.read_text(values.params_override)
        except ValueError as error:
            raise ValueError(f"--params_override: {error}") from error
        configuration.apply(params, overrides, source="--params_override")
    params.validate()
    distribution = _DISTRIBUTION.value
    if model_dir and params.runtime.distribution_strategy in _NOT_HERE:
        distribution = distribution or "one_device"
    runtime = {
        "distribution_strategy": distribution,
        "num_gpus": _NUM_GPUS.value,
        "mixed_precision_dtype": _PRECISION.value,
    }
    params.override({"runtime": {k: v for k, v in runtime.items() if v is not None}})
    if _NUM_GPUS.value is None and not params.runtime.num_gpus:
        params.override({"runtime": {"num_gpus": _count_gpus(params.runtime)}})
    params.lock()
    return params


def _count_gpus(runtime: cfg.RuntimeConfig) -> int:
    """The GPUs of this machine that a strategy takes where nobody says how many."""
    if runtime.distribution_strategy not in ("one_device", "mirrored"):
        return 0
    seen = len(tf.config.list_physical_devices("GPU"))
    return min(seen, 1) if runtime.distribution_strategy == "one_device" else seen


def parse_size(values: Optional[Sequence[str]]) -> Optional[Tuple[int, int]]:
    """`["640", "960"]` to (640, 960); one value is a square, None stays None.

    Raises:
      ValueError: not one or two positive integers.
    """
    if not values:
        return None
    if len(values) > 2 or not all(value.strip().isdecimal() and int(value) for value in values):
        raise ValueError(
            f"--input_image_size must be height,width in pixels, got {','.join(values)!r}."
        )
    return int(values[0]), int(values[-1])


def check_checkpoint(flag: str, path: str) -> None:
    """Looks for a checkpoint before anything is built.

    Raises:
      ValueError: the path is neither a folder of checkpoints nor the prefix of one.
    """
    prefix = tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path
    if not prefix or not tf.io.gfile.exists(f"{prefix}.index"):
        raise ValueError(
            f"--{flag}={path}: no checkpoint there. Expected a folder that `train` wrote, or a "
            "checkpoint's prefix such as .../ckpt-1000."
        )


def check_init_checkpoint(params: cfg.ExperimentConfig) -> None:
    """Opens what training is to start from before anything is built.

    Raises:
      ValueError: it cannot be read, or is of no known source.
    """
    path = params.task.init_checkpoint
    if path and not path.startswith("keras:"):
        try:
            checkpoints.describe(path)
        except ValueError as error:
            raise ValueError(f"task.init_checkpoint: {error}") from error
