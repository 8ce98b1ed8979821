"""The flags of the commands that take an experiment, and the configuration that they ask for.

They are those of the Model Garden's binaries that something here reads. TensorFlow is imported when
the configuration is made, so that `--help` need not wait for it.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple

from absl import flags

EXPERIMENT = ("experiment", "config_file", "params_override")
"""Flags that name a configuration."""
DEVICES = ("distribution_strategy", "num_gpus", "mixed_precision", "tpu", "tf_data_service")
"""Flags that are arguments of `api.settings.configure`."""


def define_experiment_flags(*, folder: Optional[str] = "Folder of the run.") -> None:
    """Defines the flags of a configuration; `define_device_flags` those of its devices.

    Args:
      folder: what --model_dir is; None leaves the flag out.
    """
    flags.DEFINE_string(
        "experiment",
        None,
        "Name of the experiment; `panoptic-tf experiments` lists them. Default the one that "
        "--config_file or the run's params.yaml names.",
    )
    if folder is not None:
        flags.DEFINE_string("model_dir", None, folder)
    flags.DEFINE_multi_string(
        "config_file", None, "YAML file of values that win over the experiment's; may be repeated."
    )
    flags.DEFINE_string(
        "params_override",
        None,
        "Values that win over the files': key=value,key=value, or YAML, or a file of it.",
    )


def define_device_flags() -> None:
    """Defines the flags of what is computed on."""
    flags.DEFINE_integer(
        "num_gpus",
        None,
        "Number of GPUs; default all that TensorFlow sees; 0 is the CPU.",
        lower_bound=0,
    )
    flags.DEFINE_enum(
        "mixed_precision", None, ["float32", "bfloat16", "float16"], "Dtype of layers."
    )
    flags.DEFINE_enum(
        "distribution_strategy",
        None,
        ["one_device", "mirrored", "multi_worker_mirrored", "tpu"],
        "How to distribute.",
    )
    flags.DEFINE_string("tpu", None, "Name or address of a TPU.")
    flags.DEFINE_string(
        "tf_data_service", None, "Address of a tf.data service that makes the batches."
    )


def experiment_options() -> Dict[str, Any]:
    """What the flags say, as arguments of `api.settings.configure`."""
    values = flags.FLAGS
    return {
        "experiment": values.experiment,
        "config_file": values.config_file,
        "overrides": values.params_override,
        **{name: values[name].value for name in DEVICES},
    }


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
