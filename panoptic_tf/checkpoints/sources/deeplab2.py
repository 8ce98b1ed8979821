"""deeplab2's Panoptic-DeepLab: ResNet-50 and its beta, MobileNetV3 Large and Small.

Checkpoints of its trainings (or of its ImageNet trainings: the encoder alone) name variables by
their path from what was saved: `encoder`, `semantic_decoder`, `instance_decoder`, and of each head
its last layer and what is before that.

What the weights do not tell, the published names do: folders are called
`resnet50_os16_panoptic_deeplab_coco_train` and the like. `os32` means other dilation than `os16`,
which is assumed where neither is there; the MobileNets' two were trained with different epsilon.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional

import numpy as np

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredArray, StoredCheckpoint
from panoptic_tf.checkpoints.sources.inverted_bottlenecks import (
    MOBILENET,
    numbered_as,
)
from panoptic_tf.checkpoints.sources.settings import HALF, settings

# Names.

_HEADS = {
    "semantic_head": "semantic/semantic_head",
    "instance_center_head": "instance/center_head",
    "instance_regression_head": "instance/offset_head",
}
_BRANCH = r"^(semantic|instance)_decoder/"

_DECODERS: names.Rules = (
    # Unlike the other heads'.
    (r"^semantic_last_layer/", "semantic_head_last_layer/"),
    *((rf"^{theirs}_last_layer/", f"{ours}/predictor/") for theirs, ours in _HEADS.items()),
    *(
        (rf"^{theirs}_without_last_layer/_conv1_bn_act/", f"{ours}/conv/separable/")
        for theirs, ours in _HEADS.items()
    ),
    (_BRANCH + r"_aspp/_aspp_conv(\d)/_conv_bn_act/", r"\1/decoder/aspp/branch_\2/"),
    (_BRANCH + r"_aspp/_aspp_pool/_conv_bn_act/", r"\1/decoder/aspp/pool/"),
    (_BRANCH + r"_aspp/_proj_conv_bn_act/", r"\1/decoder/aspp/project/"),
    (_BRANCH + r"_aspp/_conv_bn_act/", r"\1/decoder/aspp/branch_0/"),
    # Levels 3 and 2, in this order.
    *((rf"{_BRANCH}_low_level_conv{i}/", rf"\1/decoder/project_{4 - i}/") for i in (1, 2)),
    *(
        (rf"{_BRANCH}_fusion_conv{i}/_conv1_bn_act/", rf"\1/decoder/fuse_{4 - i}/separable/")
        for i in (1, 2)
    ),
    (r"/_(depthwise|pointwise)/", r"/\1/"),
)
_LEAVES: names.Rules = ((r"/_batch_norm/", "/norm/"), (r"/_(?:depthwise_)?conv/", "/conv/"))

_RESNET: names.Rules = (
    (r"^encoder/_stem/_conv(\d)_bn(?:_act)?/", r"backbone/stem/conv\1/"),
    (r"^encoder/_stem/", "backbone/stem/conv1/"),
    # Counted from 1 there.
    *((rf"^encoder/_stage(\d)/_block{i + 1}/", rf"backbone/res\1_{i}/") for i in range(6)),
    (r"^(backbone/res\d_\d)/_conv(\d)_bn(?:_act)?/", r"\1/conv\2/"),
    (r"^(backbone/res\d_\d)/_shortcut/", r"\1/shortcut/"),
    *_DECODERS,
    *_LEAVES,
)
_SQUEEZE = r"/_squeeze_excitation/_se_(reduce|expand)/"
_MOBILENET: names.Rules = (
    (r"^encoder/_blocks/0/", "backbone/stem/"),
    # The last, of Small or Large, is a convolution.
    (r"^encoder/_blocks/(?:12|16)/_conv/", "backbone/conv2dbn_block_1/conv2d/"),
    (r"^encoder/_blocks/(?:12|16)/_batch_norm/", "backbone/conv2dbn_block_1/batch_normalization/"),
    (rf"^encoder/_blocks/(\d+){_SQUEEZE}", r"backbone/block/\1/squeeze/\2/"),
    (r"^encoder/_blocks/(\d+)/_conv(\d)_bn(?:_act)?/", r"backbone/block/\1/\2/"),
    *_DECODERS,
    *_LEAVES,
)
_IGNORED = (r"^global_step$", r"optimizer/", r"^encoder/_(?:classifier|final|fc)")

# Arrays.

# Of these the first is void's, which nothing teaches.
_COCO_CHANNELS = 134
_FUSED = re.compile(
    r"^(?P<decoder>.*/decoder)/fuse_(?P<level>\d)/separable/"
    r"(depthwise/norm/\w+|(?P<kernel>depthwise/conv/depthwise_kernel|pointwise/conv/kernel))$"
)


def _without_void(values: np.ndarray) -> np.ndarray:
    return values[..., 1:] if values.shape[-1] == _COCO_CHANNELS else values


def _low_level_first(translation: Translation) -> Translation:
    """Our fusions concatenate low-level features and those above, deeplab2's the other way."""
    found = dict(translation)
    for path, translated in translation.items():
        match = _FUSED.match(path)
        if match:
            low_level = translation.get(f"{match['decoder']}/project_{match['level']}/norm/beta")
            if low_level:
                # Input channels of kernels [h, w, C, D].
                axis = 2 if match["kernel"] else 0
                found[path] = _last_channels_first(translated, low_level, axis)
    return found


def _last_channels_first(translated: Translated, low_level: Translated, axis: int) -> Translated:
    """As many as the projected low-level features have."""

    def read() -> np.ndarray:
        return np.roll(translated.read(), low_level.read().shape[0], axis=axis)

    return Translated(translated.source_name, read)


def _complete_mobilenet(translation: Translation) -> Translation:
    return numbered_as(MOBILENET)(_low_level_first(translation))


# What a file is.

_SETTINGS: Dict[str, Any] = {
    "model.align_corners": True,
    "model.aspp_pool_norm": "sync_batch",
    "model.aspp_keeps_plain_conv": True,
    "model.center_keeps_plain_conv": False,
    "model.instance.low_level_channels": [32, 16],
    "model.postprocessor.top_k": 400,
}
_BY_DATASET: Mapping[str, Mapping[str, Any]] = {
    "coco": {
        "model.train_size": [641, 641],
        "model.input_size": [641, 641],
        "model.postprocessor.nms_kernel": 41,
    },
    "cityscapes": {
        "model.train_size": [1025, 2049],
        # A crop is as large as an image, which the experiment's is half of.
        "train_data.augmentation.scale_min": 0.5,
        "train_data.augmentation.scale_max": 2.0,
        "model.input_size": [1025, 2049],
        "model.postprocessor.nms_kernel": 13,
    },
}
_DILATION_RATES = {16: [6, 12, 18], 32: [3, 6, 9]}
_EPSILON = 1e-3
_MOBILENET_OS16 = {"norm_epsilon": 1e-5, "nms_kernel": 7}


def _describe_resnet(checkpoint: StoredCheckpoint) -> Description:
    suffix = "_beta" if "encoder/_stem/_conv1_bn_act/_conv/kernel" in checkpoint.arrays else ""
    return _description(
        checkpoint,
        "resnet50",
        _EPSILON,
        {
            "model.backbone.name": f"deeplab2_resnet50{suffix}",
            "model.backbone.multi_grid": [1, 1, 1],
        },
    )


def _describe_mobilenet(checkpoint: StoredCheckpoint) -> Description:
    size = "large" if "encoder/_blocks/16/_conv/kernel" in checkpoint.arrays else "small"
    more: Dict[str, Any] = {"model.backbone.name": f"deeplab2_mobilenetv3_{size}"}
    if _output_stride(checkpoint) == 32:
        return _description(checkpoint, "mobilenetv3", _EPSILON, more)
    more["model.postprocessor.nms_kernel"] = _MOBILENET_OS16["nms_kernel"]
    return _description(checkpoint, "mobilenetv3", _MOBILENET_OS16["norm_epsilon"], more)


def _description(
    checkpoint: StoredCheckpoint, backbone: str, norm_epsilon: float, more: Mapping[str, Any]
) -> Description:
    dataset = _dataset(checkpoint.arrays)
    stride = _output_stride(checkpoint)
    found = {
        **settings(HALF, norm_epsilon=norm_epsilon),
        **_SETTINGS,
        **_BY_DATASET.get(dataset or "", {}),
        "model.norm_epsilon": norm_epsilon,
        "model.backbone.output_stride": stride,
        "model.aspp_dilation_rates": _DILATION_RATES[stride],
        **more,
    }
    experiments: List[str] = [f"panoptic_deeplab_{backbone}_{dataset}"] if dataset else []
    return Description(found, tuple(experiments))


def _output_stride(checkpoint: StoredCheckpoint) -> int:
    """As the names of the published folders and files have it."""
    found = re.findall(r"(?:^|[^a-z])os(16|32)(?:[^0-9]|$)", checkpoint.path)
    return int(found[-1]) if found else 16


def _dataset(arrays: Mapping[str, StoredArray]) -> Optional[str]:
    bias = arrays.get("semantic_last_layer/bias")
    channels = bias.shape[0] if bias else 0
    return {_COCO_CHANNELS: "coco", 19: "cityscapes"}.get(channels)


_LAYOUTS = ((r"^semantic/semantic_head/predictor/", _without_void),)

names.register_source(
    Source(
        title="deeplab2's Panoptic-DeepLab with ResNet-50",
        # Wide ResNets have no third convolution in stage 2, those with attention no second in 5.
        signature=(
            r"^encoder/_stem/",
            r"^encoder/_stage2/_block3/_conv3_bn/_conv/kernel$",
            r"^encoder/_stage5/_block3/_conv2_bn_act/_conv/kernel$",
        ),
        rules=_RESNET,
        layouts=_LAYOUTS,
        ignored=_IGNORED,
        style="keras",
        complete=_low_level_first,
        describe=_describe_resnet,
    )
)
names.register_source(
    Source(
        title="deeplab2's Panoptic-DeepLab with MobileNetV3",
        signature=(r"^encoder/_blocks/0/_conv/", r"^encoder/_blocks/1/_conv2_bn_act/"),
        rules=_MOBILENET,
        layouts=_LAYOUTS,
        ignored=_IGNORED,
        style="keras",
        complete=_complete_mobilenet,
        describe=_describe_mobilenet,
    )
)
