"""Checkpoints that this package wrote: every variable has its name beside it."""

from __future__ import annotations

import os
from typing import Any, Dict, Mapping

import tensorflow as tf
import yaml

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint

# A training saves more beside the model, such as its step.
_ITEMS = ("model/", "backbone/")
_SETTINGS = (
    *("normalization.channel_order", "normalization.mean", "normalization.std"),
    "model.backbone.stride_in_1x1",
)


class _OwnSource(Source):
    """Translates by the names that variables had when they were saved."""

    def fits(self, checkpoint: StoredCheckpoint) -> bool:
        """See base class."""
        found = checkpoint.metadata.get("variable_names", {}).values()
        return any(name.startswith("backbone/") for name in found)

    def translate(self, checkpoint: StoredCheckpoint) -> Translation:
        """See base class."""
        return {
            path: Translated(name, checkpoint.arrays[name].read)
            for name, path in checkpoint.metadata["variable_names"].items()
            if name.startswith(_ITEMS)
        }


def _describe(checkpoint: StoredCheckpoint) -> Description:
    """What the `params.yaml` of the training says, where it lies beside the checkpoint."""
    path = os.path.join(os.path.dirname(checkpoint.path), "params.yaml")
    if not tf.io.gfile.exists(path):
        return Description()
    with tf.io.gfile.GFile(path) as file:
        try:
            task = (yaml.safe_load(file.read()) or {}).get("task", {})
        except (yaml.YAMLError, AttributeError):
            return Description()
    found: Dict[str, Any] = {key: _look_up(task, key) for key in _SETTINGS}
    return Description({key: value for key, value in found.items() if value is not None})


def _look_up(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


names.register_source(
    _OwnSource(title="a checkpoint of panoptic_tf", signature=(), rules=(), describe=_describe)
)
