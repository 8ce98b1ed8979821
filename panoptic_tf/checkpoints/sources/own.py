"""Checkpoints that this package wrote: every variable has its name beside it."""

from __future__ import annotations

import re
from typing import Mapping

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources import beside

# A training saves more beside the model, such as its step.
_ITEMS = ("model/", "backbone/")
# Sizes, and what a training does with the weights, are no property of theirs.
_NOT_SETTINGS = re.compile(r"^model\.(\w+_size|backbone\.(norm|norm_momentum|frozen_stages))$")


class _OwnSource(Source):
    """Translates by the names that variables had when they were saved.

    Where a training kept averages of the weights, they are taken, as in its evaluation.
    """

    def fits(self, checkpoint: StoredCheckpoint) -> bool:
        """See base class."""
        found = checkpoint.metadata.get("variable_names", {}).values()
        return any(name.startswith("backbone/") for name in found)

    def translate(self, checkpoint: StoredCheckpoint) -> Translation:
        """See base class."""
        averages = checkpoint.metadata["averages"]
        return {
            path: Translated(name, averages.get(name, checkpoint.arrays[name]).read)
            for name, path in checkpoint.metadata["variable_names"].items()
            if name.startswith(_ITEMS)
        }


def _describe(checkpoint: StoredCheckpoint) -> Description:
    """What the `params.yaml` of the training says, where it lies beside the checkpoint."""
    task = beside.read_yaml(checkpoint, "params.yaml").get("task") or {}
    model = task.get("model") or {}
    backbone = model.pop("backbone", None) or {}
    found = {
        **{f"normalization.{k}": v for k, v in (task.get("normalization") or {}).items()},
        **{f"model.{k}": v for k, v in model.items() if not isinstance(v, Mapping)},
        **{f"model.backbone.{k}": v for k, v in backbone.items() if k != "options"},
        **{f"model.backbone.options.{k}": v for k, v in (backbone.get("options") or {}).items()},
    }
    settings = {k: v for k, v in found.items() if v is not None and not _NOT_SETTINGS.search(k)}
    return Description(settings)


names.register_source(
    _OwnSource(title="a checkpoint of panoptic_tf", signature=(), rules=(), describe=_describe)
)
