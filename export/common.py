"""What the export binaries share: a trained network and its constants, from flags."""

from __future__ import annotations

import os
from typing import Any, Dict, Tuple

import tensorflow as tf
from absl import flags

from panoptic_tf.experiments import common
from panoptic_tf.systems.task import PanopticTask
from panoptic_tf.training import runner

_CHECKPOINT_PATH = flags.DEFINE_string(
    "checkpoint_path",
    None,
    "A checkpoint's prefix, or a folder of checkpoints, of which the last is taken. A params.yaml "
    "beside it is the configuration, unless --config_file is given.",
)
_INPUT_IMAGE_SIZE = flags.DEFINE_list(
    "input_image_size",
    None,
    "height,width that images are fitted into; default is the experiment's input_size.",
)


def define_flags() -> None:
    """Defines the Model Garden's flags beside those of this module."""
    common.define_experiment_flags()
    flags.mark_flags_as_required(["experiment", "checkpoint_path"])


def load_network() -> Tuple[tf.keras.Model, PanopticTask, Dict[str, Any]]:
    """The inference network with the checkpoint's weights, its task, the export's arguments.

    Raises:
      ValueError: unknown experiment, or the checkpoint does not exist or does not fit.
    """
    checkpoint_path = _CHECKPOINT_PATH.value
    is_folder = os.path.isdir(checkpoint_path)
    folder = checkpoint_path if is_folder else os.path.dirname(checkpoint_path)
    common.check_checkpoint("checkpoint_path", checkpoint_path)
    params = common.parse_experiment(model_dir=folder)
    input_size = common.parse_size(_INPUT_IMAGE_SIZE.value)
    if input_size is not None:
        params = params.replace(task={"model": {"input_size": list(input_size)}})
    task = runner.build_task(params)
    model = runner.load_model(params, task, checkpoint_path=checkpoint_path)
    arguments = runner.export_arguments(params, task)
    return model.inference_network, task, {**arguments, "experiment": flags.FLAGS.experiment}
