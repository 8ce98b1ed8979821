"""What a path of a trained model holds, and the network of a checkpoint."""

from __future__ import annotations

import os

import tensorflow as tf

from panoptic_tf.serving import onnx_runner
from panoptic_tf.training.run_folder import PARAMS_FILE
from panoptic_tf.training.run_folder import latest_checkpoint as latest

SAVED_MODEL, TFLITE, ONNX, CHECKPOINT = "saved_model", "tflite", "onnx", "checkpoint"


def kind_of(path: str) -> str:
    """What is there: a SavedModel or its versions, a file, a checkpoint or a run's folder.

    Any file not named .onnx is taken for a .tflite file, which need not be named so.

    Raises:
      ValueError: none of them.
    """
    is_folder = tf.io.gfile.isdir(path)
    if not is_folder and path.endswith(onnx_runner.SUFFIX):
        return ONNX
    if not is_folder and (path.endswith(".tflite") or tf.io.gfile.exists(path)):
        return TFLITE
    if latest(path) is not None:  # A run's folder, which may hold an export too.
        return CHECKPOINT
    if is_folder:
        versions = [n for n in tf.io.gfile.listdir(path) if n.rstrip("/").isdecimal()]
        found = [os.path.join(path, name, "saved_model.pb") for name in ("", *versions)]
        if any(map(tf.io.gfile.exists, found)):
            return SAVED_MODEL
    raise ValueError(
        f"{path}: no checkpoint, SavedModel or .tflite file there. Expected a run's folder, a "
        "checkpoint's prefix such as .../ckpt-1000, a SavedModel's folder, or a .tflite or .onnx "
        "file."
    )


def check_checkpoint(name: str, path: str) -> None:
    """Looks for a checkpoint before anything is built.

    Raises:
      ValueError: the path is neither a folder of checkpoints nor the prefix of one.
    """
    if latest(path) is None:
        raise ValueError(
            f"--{name}={path}: no checkpoint there. Expected a folder that `train` wrote, or a "
            "checkpoint's prefix such as .../ckpt-1000."
        )


def folder_of(checkpoint_path: str) -> str:
    """The folder whose params.yaml is of a checkpoint: its own or, without one, that above."""
    is_folder = tf.io.gfile.isdir(checkpoint_path)
    own = checkpoint_path if is_folder else os.path.dirname(checkpoint_path) or "."
    above = os.path.dirname(os.path.abspath(own)) if "://" not in own else os.path.dirname(own)
    has_params = [tf.io.gfile.exists(os.path.join(f, PARAMS_FILE)) for f in (own, above)]
    return above if has_params == [False, True] else own
