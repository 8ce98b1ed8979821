"""What the binaries share: the experiment that the flags ask for."""

from __future__ import annotations

import os
from typing import Optional, Sequence, Tuple

from absl import flags
from official.common import flags as tfm_flags
from official.core import config_definitions as cfg
from official.core import train_utils

import panoptic_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)
from panoptic_tf import systems  # noqa: F401  (registers tasks and experiments)

_DISTRIBUTION = flags.DEFINE_enum(
    "distribution_strategy",
    None,
    ["one_device", "mirrored", "multi_worker_mirrored", "tpu"],
    "How to distribute; sets runtime.distribution_strategy.",
)
_NUM_GPUS = flags.DEFINE_integer("num_gpus", None, "Number of GPUs; sets runtime.num_gpus.")
_PRECISION = flags.DEFINE_enum(
    "mixed_precision",
    None,
    ["float32", "bfloat16", "float16"],
    "Compute dtype; sets runtime.mixed_precision_dtype.",
)
_NOT_HERE = ("multi_worker_mirrored", "tpu")


def define_experiment_flags() -> None:
    """Defines the Model Garden's flags."""
    tfm_flags.define_flags()


def parse_experiment(model_dir: Optional[str] = None) -> cfg.ExperimentConfig:
    """The experiment that the flags ask for.

    Args:
      model_dir: where its `params.yaml` is read as the first config file, if there is one and no
        `--config_file` is given, so that a trained model is evaluated as it was trained; on one
        device where it was trained by several machines or a TPU and no flag says otherwise.

    Raises:
      ValueError: unknown experiment, or a key that the config does not have.
    """
    values = flags.FLAGS
    if model_dir and not values.config_file:
        saved = os.path.join(model_dir, "params.yaml")
        if os.path.exists(saved):
            values.config_file = [saved]
    try:
        params = train_utils.parse_configuration(values, lock_return=False, print_return=False)
    except LookupError as error:
        raise ValueError(f"config of {values.experiment!r}: {error.args[0]}") from error
    distribution = _DISTRIBUTION.value
    if model_dir and params.runtime.distribution_strategy in _NOT_HERE:
        distribution = distribution or "one_device"
    runtime = {
        "distribution_strategy": distribution,
        "num_gpus": _NUM_GPUS.value,
        "mixed_precision_dtype": _PRECISION.value,
    }
    params.override({"runtime": {k: v for k, v in runtime.items() if v is not None}})
    params.lock()
    return params


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
