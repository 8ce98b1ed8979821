"""Checkpoints of official.vision's classification trainings, for its backbones behind our names."""

from __future__ import annotations

import os
from typing import Any, Dict, Mapping

import tensorflow as tf
import yaml

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources import object_paths
from panoptic_tf.checkpoints.sources.inverted_bottlenecks import IMAGENET, settings

# Without `params.yaml`: what its trainings of ResNets set, and what they have by default.
_RESNET_EPSILON = 1e-5
_EPSILON = 1e-3


def _describe(checkpoint: StoredCheckpoint) -> Description:
    """As `params.yaml` of the training says, which lies beside the checkpoint."""
    model = _params(checkpoint).get("model") or {}
    norm_activation = model.get("norm_activation") or {}
    options: Dict[str, Any] = {}
    backbone = model.get("backbone") or {}
    ratio = (backbone.get("efficientnet") or {}).get("se_ratio")
    if backbone.get("type") == "efficientnet" and ratio is not None:
        options["se_ratio"] = ratio
    is_resnet = any("/_shortcut/" in name for name in checkpoint.arrays)
    epsilon = norm_activation.get("norm_epsilon", _RESNET_EPSILON if is_resnet else _EPSILON)
    return Description(settings(IMAGENET, norm_epsilon=epsilon, padding="same", **options))


def _params(checkpoint: StoredCheckpoint) -> Mapping[str, Any]:
    path = os.path.join(os.path.dirname(checkpoint.path), "params.yaml")
    if not tf.io.gfile.exists(path):
        return {}
    with tf.io.gfile.GFile(path) as file:
        try:
            return (yaml.safe_load(file.read()) or {}).get("task") or {}
        except (yaml.YAMLError, AttributeError):
            return {}


names.register_source(
    object_paths.OfficialSource(
        title="a classification checkpoint of official.vision",
        signature=(object_paths.SIGNATURE,),
        rules=(),
        style="keras",
        describe=_describe,
    )
)
