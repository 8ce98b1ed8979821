"""What the export commands share: which checkpoint, and how it is configured."""

from __future__ import annotations

from typing import Any, Dict

from absl import flags

from panoptic_tf.experiments import common

_CHECKPOINT_PATH = flags.DEFINE_string(
    "checkpoint_path",
    None,
    "A checkpoint's prefix, or a folder of checkpoints, of which the last is taken. A params.yaml "
    "beside it is the configuration, unless --config_file is given.",
    required=True,
)
_INPUT_IMAGE_SIZE = flags.DEFINE_list(
    "input_image_size",
    None,
    "height,width that images are fitted into; default is the experiment's input_size.",
)


def define_flags() -> None:
    """Defines the flags of an experiment beside those of this module."""
    common.define_experiment_flags(folder=None)
    common.define_device_flags()


def define_part() -> flags.FlagHolder:
    """Defines --part, of formats that may leave post-processing out."""
    return flags.DEFINE_enum(
        "part",
        "whole",
        ["whole", "network", "semantic"],
        "whole: with post-processing. network: what the heads give, of static shapes, for "
        "delegates and compilers. semantic: the semantic logits alone, which MediaPipe's "
        "ImageSegmenter takes from a .tflite file.",
    )


def options() -> Dict[str, Any]:
    """What the flags say, as arguments of the functions of `api.exporting`."""
    return {
        "path": _CHECKPOINT_PATH.value,
        "input_size": common.parse_size(_INPUT_IMAGE_SIZE.value),
        **common.experiment_options(),
    }
