"""detectron2: Panoptic FPN and Mask R-CNN, Panoptic-DeepLab, and the ImageNet backbones of its zoo.

The latter come under three namings: Caffe2's (MSRA's R-50 and R-101, FAIR's X-101 and X-152),
detectron2's own (DeepLab's R-52 and R-103, those converted from torchvision), and torchvision's,
which is a source of its own.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredArray, StoredCheckpoint
from panoptic_tf.checkpoints.sources.settings import IMAGENET, settings

# What a frozen norm adds to the variance, which these weights have folded into scale and shift.
_EPSILON = 1e-5
_BOX_POOL_SIZE = 7

_BGR = {
    "normalization.channel_order": "BGR",
    "normalization.mean": [103.53, 116.28, 123.675],
    "model.backbone.norm_epsilon": _EPSILON,
}
CAFFE_SETTINGS: Dict[str, Any] = {
    **_BGR,
    "normalization.std": [1.0, 1.0, 1.0],
    "model.backbone.stride_in_1x1": True,
}
"""MSRA's ResNets: BGR, centered only, stride in the first 1x1."""
RESNEXT_SETTINGS: Dict[str, Any] = {
    **_BGR,
    "normalization.std": [57.375, 57.12, 58.395],
    "model.backbone.stride_in_1x1": False,
}
"""FAIR's ResNeXts and those with group norm: BGR divided by the deviation, stride in the 3x3."""
RGB_SETTINGS: Dict[str, Any] = {
    **settings(IMAGENET, norm_epsilon=_EPSILON),
    "model.backbone.stride_in_1x1": False,
}
"""PyTorch's ResNets and DeepLab's: RGB divided by the standard deviation, stride in the 3x3."""

# "backbone/bottom_up/stem/conv1" -> "backbone/stem/conv1/conv"; also without the prefixes.
RESNET: names.Rules = (
    (r"^(?:backbone/)?(?:bottom_up/)?(stem/conv\d)", r"backbone/\1"),
    (r"^(?:backbone/)?(?:bottom_up/)?res(\d)/(\d+)/", r"backbone/res\1_\2/"),
    (r"^(backbone/res\d_\d+/conv2)_offset$", r"\1/conv/offset"),
    (r"^(backbone/(?:stem|res\d_\d+)/(?:conv\d|shortcut))$", r"\1/conv"),
)
"""A ResNet of detectron2, alone or as a part of a model."""
FPN: names.Rules = (
    *RESNET,
    (r"^backbone/fpn_(lateral|output)(\d)", r"fpn/\1_\2"),
    (r"^backbone/top_block/p(\d)", r"fpn/output_\1"),
    (r"^(fpn/\w+_\d)$", r"\1/conv"),
)
"""Backbone and pyramid of detectron2."""


def semantic_fpn(theirs: str, ours: str) -> names.Rules:
    """Rules of a semantic branch on an FPN: every second of a level's modules upsamples."""
    return (
        (rf"^{theirs}/p(\d)/0", rf"{ours}/level_\1_0"),
        (rf"^{theirs}/p(\d)/2", rf"{ours}/level_\1_1"),
        (rf"^{theirs}/p(\d)/4", rf"{ours}/level_\1_2"),
        (rf"^{theirs}/predictor", f"{ours}/predictor"),
        (rf"^({ours}/(?:level_\d_\d|predictor))$", r"\1/conv"),
    )


_PANOPTIC_FPN: names.Rules = (
    *FPN,
    *semantic_fpn("sem_seg_head", "semantic"),
    (r"^proposal_generator/rpn_head/", "rpn/"),
    (r"^rpn/objectness_logits", "rpn/objectness"),
    (r"^rpn/anchor_deltas", "rpn/deltas"),
    (r"^(rpn/\w+)$", r"\1/conv"),
    (r"^roi_heads/box_head/", "box/"),
    (r"^roi_heads/box_predictor/cls_score", "box/classes"),
    (r"^roi_heads/box_predictor/bbox_pred", "box/deltas"),
    (r"^roi_heads/mask_head/mask_fcn(\d)", r"mask/conv\1"),
    (r"^(mask/conv\d)$", r"\1/conv"),
    (r"^roi_heads/mask_head/", "mask/"),
)

_PANOPTIC_DEEPLAB: names.Rules = (
    *RESNET,
    (r"^sem_seg_head/", "semantic/"),
    (r"^ins_embed_head/", "instance/"),
    (r"/decoder/res5/project_conv/project", "/decoder/aspp/project"),
    (r"/decoder/res5/project_conv/convs/4/1", "/decoder/aspp/pool"),
    (r"/decoder/res5/project_conv/convs/(\d)", r"/decoder/aspp/branch_\1"),
    (r"/decoder/res(\d)/project_conv", r"/decoder/project_\1"),
    (r"/decoder/res(\d)/fuse_conv/", r"/decoder/fuse_\1/"),
    (r"^semantic/head/", "semantic/semantic_head/conv/"),
    (r"^semantic/predictor", "semantic/semantic_head/predictor"),
    (r"^instance/(center|offset)_head/", r"instance/\1_head/conv/"),
    (r"^instance/(center|offset)_predictor", r"instance/\1_head/predictor"),
    # Two plain convolutions, or a depthwise and a pointwise one.
    (r"(fuse_\d|_head/conv)/0", r"\1/conv1"),
    (r"(fuse_\d|_head/conv)/1", r"\1/conv2"),
    (r"(fuse_\d|_head/conv)/(depthwise|pointwise)", r"\1/separable/\2"),
    (r"((?:branch|project)_\d|/pool|aspp/project|conv\d|depthwise|pointwise)$", r"\1/conv"),
    # The backbone's have it twice now.
    (r"/conv/conv$", "/conv"),
)

_CAFFE2: names.Rules = (
    (r"^(?:res_)?conv1_", "stem/conv1_"),
    (r"^res(\d)_(\d+)_branch2([abc])_", r"res\1_\2/conv\3_"),
    (r"^res(\d)_(\d+)_branch1_", r"res\1_\2/shortcut_"),
    (r"/conva_", "/conv1_"),
    (r"/convb_", "/conv2_"),
    (r"/convc_", "/conv3_"),
    (r"_w$", "/conv/kernel"),
    (r"_[bg]n_(?:s|gamma)$", "/norm/gamma"),
    (r"_[bg]n_(?:b|beta)$", "/norm/beta"),
    (r"_bn_(?:rm|running_mean)$", "/norm/moving_mean"),
    (r"_bn_(?:riv|running_var)$", "/norm/moving_variance"),
    (r"^(?=stem/|res\d_)", "backbone/"),
)

_NOT_WEIGHTS = (r"^pixel_(mean|std)$", r"anchor_generator", r"^(fc1000|pred|fc)[._]")


def _complete_statistics(translation: Translation) -> Translation:
    """Adds mean 0 and variance 1 - epsilon where scale and shift have taken the statistics up.

    Group norm has none.
    """
    found = dict(translation)
    for path, gamma in translation.items():
        layer, _, leaf = path.rpartition("/")
        is_folded = f"{layer}/moving_mean" not in translation and "_gn_" not in gamma.source_name
        if leaf == "gamma" and is_folded:
            found[f"{layer}/moving_mean"] = _constant_like(gamma, 0.0)
            found[f"{layer}/moving_variance"] = _constant_like(gamma, 1.0 - _EPSILON)
    return found


def _constant_like(other: Translated, value: float) -> Translated:
    return Translated(
        other.source_name, lambda: np.full_like(other.read(), value, dtype=np.float32)
    )


# What a file is.


def _depth(arrays: Mapping[str, StoredArray], stage: str) -> int:
    """50, 101 or 152 by the blocks of stage 4, whose names start with `stage`; 0 for others."""
    blocks = {name[len(stage) :].split(".")[0] for name in arrays if name.startswith(stage)}
    return {6: 50, 23: 101, 36: 152}.get(len(blocks), 0)


def _is_grouped(arrays: Mapping[str, StoredArray], prefix: str) -> bool:
    first, second = (arrays.get(f"{prefix}res2.0.conv{i}.weight") for i in (1, 2))
    return bool(first and second and second.shape[1] < first.shape[0])


def _outputs(arrays: Mapping[str, StoredArray], name: str) -> Optional[int]:
    return arrays[name].shape[0] if name in arrays else None


def _describe_fpn(checkpoint: StoredCheckpoint) -> Description:
    arrays, prefix = checkpoint.arrays, "backbone.bottom_up."
    depth, grouped = _depth(arrays, f"{prefix}res4."), _is_grouped(arrays, prefix)
    backbone = f"{'resnext' if grouped else 'resnet'}{depth}"
    classes = _outputs(arrays, "roi_heads.box_predictor.cls_score.weight")
    stuff = _outputs(arrays, "sem_seg_head.predictor.weight")
    if (
        "roi_heads.box_head.fc1.weight" not in arrays
        or "backbone.fpn_lateral2.norm.weight" in arrays
    ):
        return Description()  # Of another configuration, which the file does not tell.
    systems: Dict[Any, str] = {(81, 54): "panoptic_fpn", (81, None): "mask_rcnn"}
    system = systems.get((classes, stuff))
    experiments: List[str] = []
    if system and depth:
        experiments = [f"{system}_{backbone}_coco{suffix}" for suffix in ("", "_3x")]
        # Of R-101 and the ResNeXts the zoo has the long schedule only.
        experiments = experiments if depth == 50 else experiments[::-1]
    return Description(RESNEXT_SETTINGS if grouped else CAFFE_SETTINGS, tuple(experiments))


def _describe_deeplab(checkpoint: StoredCheckpoint) -> Description:
    arrays = checkpoint.arrays
    categories = _outputs(arrays, "sem_seg_head.predictor.weight")
    dataset = {133: "coco", 19: "cityscapes"}.get(categories or 0)
    backbone = {50: "resnet52", 101: "resnet103"}.get(_depth(arrays, "backbone.res4."))
    settings = {
        **RGB_SETTINGS,
        "model.use_separable_conv": "sem_seg_head.head.depthwise.weight" in arrays,
    }
    experiments: Tuple[str, ...] = ()
    if dataset and backbone == "resnet52":
        experiments = (f"panoptic_deeplab_{backbone}_{dataset}",)
    return Description(settings, experiments)


def _describe_caffe2(checkpoint: StoredCheckpoint) -> Description:
    arrays = checkpoint.arrays
    first, second = (arrays[f"res2_0_branch2{letter}_w"] for letter in "ab")
    if "conv1_gn_s" in arrays:
        return Description({**RESNEXT_SETTINGS, "model.backbone.norm": "group"})
    is_grouped = second.shape[1] < first.shape[0]
    return Description(RESNEXT_SETTINGS if is_grouped else CAFFE_SETTINGS)


names.register_source(
    Source(
        title="detectron2's Panoptic-DeepLab",
        signature=(r"^ins_embed_head\.", r"^sem_seg_head\.", r"^backbone\."),
        rules=_PANOPTIC_DEEPLAB,
        ignored=_NOT_WEIGHTS,
        describe=_describe_deeplab,
    )
)
names.register_source(
    Source(
        title="detectron2's Panoptic FPN or Mask R-CNN",
        signature=(r"^backbone\.bottom_up\.stem", r"^backbone\.fpn_", r"^roi_heads\.box_head\."),
        rules=_PANOPTIC_FPN,
        layouts=(
            (r"^(rpn/deltas/conv|box/deltas)/", names.deltas_to_ours),
            (r"^box/fc1/kernel$", names.flattened_to_ours(_BOX_POOL_SIZE)),
        ),
        ignored=_NOT_WEIGHTS,
        describe=_describe_fpn,
    )
)
names.register_source(
    Source(
        title="Caffe2's ResNet or ResNeXt of detectron2's zoo",
        signature=(r"^conv1_w$", r"^res2_0_branch2a_w$"),
        rules=_CAFFE2,
        layouts=((r"kernel$", names.kernel_to_ours),),
        # Biases of convolutions are zero there: what follows has its own.
        ignored=(*_NOT_WEIGHTS, r"(^conv1|branch(1|2[abc]))_b$", r"_momentum$"),
        style="keras",
        complete=_complete_statistics,
        describe=_describe_caffe2,
    )
)
names.register_source(
    Source(
        title="a ResNet in detectron2's names (DeepLab's or torchvision's)",
        signature=(r"^stem\.conv1\.weight$", r"^res2\.0\.conv1\.weight$"),
        rules=RESNET,
        ignored=(*_NOT_WEIGHTS, r"^stem\.fc\."),
        describe=lambda checkpoint: Description(RGB_SETTINGS),
    )
)
