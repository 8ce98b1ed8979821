"""Model Garden's panoptic models and Mask R-CNN: their backbones.

Their heads compute what no network here does. Panoptic-DeepLab has one head for centers and
offsets, biases before norms, no activation between a fusion's two convolutions, no norm between
those of ASPP, whose second is dilated as well, a squeeze in every block of its ResNet, and 201
categories. Panoptic FPN normalises the pyramid, each level of the RPN, the box head, which has four
convolutions, and the mask head, and its P6 is a convolution. So a file is a start for training with
`task.init_checkpoint_modules=backbone`; the heads are listed where all of it is asked for.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

import tensorflow as tf

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources import object_paths
from panoptic_tf.checkpoints.sources.settings import IMAGENET, settings

_BACKBONE = r"^backbone/layer_with_weights-\d+/"
_EPSILON = 1e-3
_RESNETS = {16: "resnet50", 33: "resnet101", 50: "resnet152"}
_MOBILENETS = {11: "mobilenetv3_small", 15: "mobilenetv3_large", 17: "mobilenetv2"}
# Options of the dilated ResNet in the published configuration.
_DILATED: Dict[str, Any] = {"stem_type": "v1", "se_ratio": 0.25, "multigrid": [1, 2, 4]}


class _ModelGardenSource(Source):
    """Translates the backbone as official.vision's are; what else there is keeps its name."""

    def translate_for(
        self, checkpoint: StoredCheckpoint, network: Optional[tf.Module]
    ) -> Translation:
        """See base class."""
        backbones = object_paths.OfficialSource(title=self.title, signature=(), rules=())
        found = backbones.translate_for(checkpoint, network)
        ignored = re.compile("|".join(self.ignored))
        for name, array in checkpoint.arrays.items():
            if not name.startswith("backbone/") and not ignored.search(name):
                found[name] = Translated(name, array.read)
        return found


def _describe(checkpoint: StoredCheckpoint) -> Description:
    mobilenet = _MOBILENETS.get(_count_blocks(checkpoint, "_conv1/depthwise_kernel"))
    resnet = _RESNETS.get(_count_blocks(checkpoint, "_conv3/kernel"))
    stem = checkpoint.arrays.get("backbone/layer_with_weights-0/kernel")
    if mobilenet:
        return _described(mobilenet)
    if not resnet or not stem:
        return Description(settings(IMAGENET, norm_epsilon=_EPSILON))
    if stem.shape[0] == 7:
        return _described(f"official_{resnet}")
    return _described(f"dilated_{resnet}", **_DILATED)


def _described(backbone: str, **options: Any) -> Description:
    found = settings(IMAGENET, norm_epsilon=_EPSILON, padding="same", **options)
    return Description({**found, "model.backbone.name": backbone})


def _count_blocks(checkpoint: StoredCheckpoint, leaf: str) -> int:
    pattern = re.compile(rf"{_BACKBONE}{leaf}$")
    return sum(1 for name in checkpoint.arrays if pattern.search(name))


for _title, _head in (
    ("Model Garden's Panoptic-DeepLab", r"^semantic_decoder/"),
    ("Model Garden's Panoptic FPN or Mask R-CNN", r"^detection_head/"),
):
    names.register_source(
        _ModelGardenSource(
            title=_title,
            signature=(_BACKBONE, _head),
            rules=(),
            ignored=(r"^model/", r"^(global_step|.*optimizer.*)(/|$)", r"_OPTIMIZER_SLOT"),
            style="keras",
            describe=_describe,
        )
    )
