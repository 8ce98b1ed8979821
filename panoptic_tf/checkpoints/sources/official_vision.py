"""Checkpoints of official.vision's classification trainings, for its backbones behind our names."""

from __future__ import annotations

from typing import Any, Dict

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources import beside, object_paths
from panoptic_tf.checkpoints.sources.settings import IMAGENET, settings

# Without `params.yaml`: what its trainings of ResNets set, and what they have by default.
_RESNET_EPSILON = 1e-5
_EPSILON = 1e-3


def _describe(checkpoint: StoredCheckpoint) -> Description:
    """As `params.yaml` of the training says, which lies beside the checkpoint."""
    task = beside.read_yaml(checkpoint, "params.yaml").get("task") or {}
    model = task.get("model") or {}
    norm_activation = model.get("norm_activation") or {}
    options: Dict[str, Any] = {}
    backbone = model.get("backbone") or {}
    ratio = (backbone.get("efficientnet") or {}).get("se_ratio")
    if backbone.get("type") == "efficientnet" and ratio is not None:
        options["se_ratio"] = ratio
    is_resnet = any("/_shortcut/" in name for name in checkpoint.arrays)
    epsilon = norm_activation.get("norm_epsilon", _RESNET_EPSILON if is_resnet else _EPSILON)
    return Description(settings(IMAGENET, norm_epsilon=epsilon, padding="same", **options))


names.register_source(
    object_paths.OfficialSource(
        title="a classification checkpoint of official.vision",
        signature=(object_paths.SIGNATURE,),
        rules=(),
        style="keras",
        describe=_describe,
    )
)
