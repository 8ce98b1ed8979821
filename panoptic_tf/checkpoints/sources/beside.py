"""What lies beside a file of weights: a library's description of the model."""

from __future__ import annotations

import json
import os
from typing import Any, Dict

import tensorflow as tf

from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint


def read_json(checkpoint: StoredCheckpoint, name: str) -> Dict[str, Any]:
    """The object in a file beside a checkpoint; empty where there is none that can be read."""
    path = os.path.join(os.path.dirname(checkpoint.path), name)
    if not tf.io.gfile.exists(path):
        return {}
    with tf.io.gfile.GFile(path) as file:
        try:
            found = json.loads(file.read())
        except ValueError:
            return {}
    return found if isinstance(found, dict) else {}
