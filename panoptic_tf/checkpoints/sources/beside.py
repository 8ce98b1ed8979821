"""What lies beside a file of weights: a library's description of the model."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict

import tensorflow as tf
import yaml

from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint


def read_json(checkpoint: StoredCheckpoint, name: str) -> Dict[str, Any]:
    """The object in a file beside a checkpoint; empty where there is none that can be read."""
    return _read(checkpoint, name, json.loads)


def read_yaml(checkpoint: StoredCheckpoint, name: str) -> Dict[str, Any]:
    """The mapping in a file beside a checkpoint; empty where there is none that can be read."""
    return _read(checkpoint, name, yaml.safe_load)


def _read(checkpoint: StoredCheckpoint, name: str, parse: Callable[[str], Any]) -> Dict[str, Any]:
    path = os.path.join(os.path.dirname(checkpoint.path), name)
    if not tf.io.gfile.exists(path):
        return {}
    with tf.io.gfile.GFile(path) as file:
        try:
            found = parse(file.read())
        except (ValueError, yaml.YAMLError, RecursionError):
            return {}
    return found if isinstance(found, dict) else {}
