"""Panoptic FCN of its authors: R50 at all sizes, enhanced, and with a deformable backbone."""

from __future__ import annotations

from typing import Any, Dict, Tuple

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources import detectron2

_RULES: names.Rules = (
    *detectron2.FPN,
    *detectron2.semantic_fpn("semantic_fpn", "semantic_fpn"),
    (r"^(position|kernel)_head/\1_head/\1_head_head_(\d)", r"\1_head/stack/conv\2"),
    (r"^feature_encoder/encode_head/encode_head_head_(\d)", r"feature_encoder/stack/conv\1"),
    # A deformable convolution has a convolution for its offsets beside it.
    (r"/offset_mask_conv$", "/conv/offset"),
    (r"/dcnv2/norm$", "/norm"),
    (r"/dcnv2$", "/conv"),
    (r"^(\w+/stack/conv\d)$", r"\1/conv"),
    (r"^position_head/out_inst", "position_head/centers"),
    (r"^position_head/out_sem", "position_head/stuff"),
    (r"^kernel_head/out_conv", "kernel_head/predictor"),
    (r"^(thing|stuff)_generator/embed_extractor", r"\1_embedding"),
)

# The published configuration gives the means of RGB to images that are BGR.
_SETTINGS: Dict[str, Any] = {
    **detectron2.CAFFE_SETTINGS,
    "normalization.mean": [123.675, 116.28, 103.53],
}
_SIDES = ("", "_400", "_512", "_600")


def _describe(checkpoint: StoredCheckpoint) -> Description:
    arrays = checkpoint.arrays
    is_deformable = any(".conv2_offset." in name for name in arrays)
    is_deep = any(".res4.22." in name for name in arrays)
    is_enhanced = any(name.startswith("feature_encoder.") and ".dcnv2." in name for name in arrays)
    backbone = {(False, False): "resnet50", (True, False): "resnet101", (True, True): "dcn101"}.get(
        (is_deep, is_deformable)
    )
    is_coco = (
        arrays["position_head.out_inst.weight"].shape[0] == 80
        and arrays["position_head.out_sem.weight"].shape[0] == 54
    )
    if backbone is None or not is_coco:
        return Description(_SETTINGS)
    return Description(_SETTINGS, _experiments(backbone, is_enhanced))


def _experiments(backbone: str, is_enhanced: bool) -> Tuple[str, ...]:
    """Weights do not say for which size of images they were trained."""
    if is_enhanced:
        return (f"panoptic_fcn_{backbone}_enhanced_coco_3x",)
    return tuple(
        f"panoptic_fcn_{backbone}_coco{side}{schedule}"
        for side in _SIDES
        for schedule in ("_3x", "")
    )


names.register_source(
    Source(
        title="the authors' Panoptic FCN",
        signature=(r"^position_head\.out_inst\.", r"^backbone\.bottom_up\.stem"),
        rules=_RULES,
        layouts=((r"^(thing|stuff)_embedding/kernel$", names.pointwise_to_dense),),
        ignored=(r"^pixel_(mean|std)$",),
        describe=_describe,
    )
)
