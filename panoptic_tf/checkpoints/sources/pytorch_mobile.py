"""MobileNetV2, MobileNetV3 and EfficientNet of PyTorch's libraries, as official.vision has them.

Names of torchvision, of the older layout from which torchvision's MobileNetV2 comes, of timm, of
Hugging Face, and of efficientnet_pytorch. The layers behind level 5, which widen the features for a
classifier, are left out.

timm's models that come from TensorFlow (`tf_...`) have the same names as its own, but other
padding, epsilon and normalisation; `config.json` beside the file tells them apart, and else the
name of the file or of its folder.
"""

from __future__ import annotations

import os
import re
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources import beside
from panoptic_tf.checkpoints.sources.inverted_bottlenecks import (
    EFFICIENTNET,
    MOBILENET,
    ROLES,
    numbered_as,
)
from panoptic_tf.checkpoints.sources.settings import HALF, IMAGENET, SWISH_SQUEEZE, settings

_TF_EPSILON = 1e-3
_TORCH_EPSILON = 1e-5
# EfficientNet-lite was trained on (x - 127) / 128.
_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
# google/efficientnet-b*: the model that it was converted from divided by the root of the deviation.
_HUGGING_FACE_EFFICIENTNET = (IMAGENET[0], (0.47853944, 0.4732864, 0.47434163))

# Rules. The names of layers, without "weight" and the like.

_CONV_NORM: names.Rules = (
    (r"^(stem|block/[\d/]+/(?:\d|expand|depthwise|project))/0$", r"\1/conv"),
    (r"^(stem|block/[\d/]+/(?:\d|expand|depthwise|project))/1$", r"\1/norm"),
    *ROLES,
)
# torchvision's segmentation models have the layers of `features` in `backbone`.
_FEATURES = r"^(?:features|backbone)/"

_TORCHVISION_V2: names.Rules = (
    (_FEATURES + r"0/([01])$", r"stem/\1"),
    (_FEATURES + r"1/conv/0/([01])$", r"block/1/depthwise/\1"),
    (_FEATURES + r"1/conv/1$", r"block/1/project/0"),
    (_FEATURES + r"1/conv/2$", r"block/1/project/1"),
    (_FEATURES + r"(\d+)/conv/0/([01])$", r"block/\1/expand/\2"),
    (_FEATURES + r"(\d+)/conv/1/([01])$", r"block/\1/depthwise/\2"),
    (_FEATURES + r"(\d+)/conv/2$", r"block/\1/project/0"),
    (_FEATURES + r"(\d+)/conv/3$", r"block/\1/project/1"),
    *_CONV_NORM,
)
# Activations are counted too: convolutions at 0, 3 and 6, norms at 1, 4 and 7.
_FLAT_V2: names.Rules = (
    (r"^features/0/([01])$", r"stem/\1"),
    (r"^features/(\d+)/conv/([01])$", r"block/\1/0/\2"),
    (r"^features/(\d+)/conv/3$", r"block/\1/1/0"),
    (r"^features/(\d+)/conv/4$", r"block/\1/1/1"),
    (r"^features/(\d+)/conv/6$", r"block/\1/2/0"),
    (r"^features/(\d+)/conv/7$", r"block/\1/2/1"),
    *_CONV_NORM,
)
# MobileNetV3 counts the blocks through, EfficientNet by stage; positions are those in the block.
_TORCHVISION_BLOCKS: names.Rules = (
    (_FEATURES + r"0/([01])$", r"stem/\1"),
    (_FEATURES + r"(\d+(?:/\d+)?)/block/\d/fc1$", r"block/\1/squeeze/reduce"),
    (_FEATURES + r"(\d+(?:/\d+)?)/block/\d/fc2$", r"block/\1/squeeze/expand"),
    (_FEATURES + r"(\d+(?:/\d+)?)/block/(\d)/([01])$", r"block/\1/\2/\3"),
    *_CONV_NORM,
)
# Norms are counted from 1; `conv_pw` is after the depthwise one where there is no `conv_pwl`, which
# makes no difference to its number among the others.
_TIMM: names.Rules = (
    (r"^conv_stem$", "stem/conv"),
    (r"^bn1$", "stem/norm"),
    (r"^blocks/(\d+/\d+)/bn(\d)$", r"block/\1/\2/norm"),
    (r"^blocks/(\d+/\d+)/conv_pw$", r"block/\1/expand/conv"),
    (r"^blocks/(\d+/\d+)/conv_dw$", r"block/\1/depthwise/conv"),
    (r"^blocks/(\d+/\d+)/conv_pwl$", r"block/\1/project/conv"),
    (r"^blocks/(\d+/\d+)/se/conv_(reduce|expand)$", r"block/\1/squeeze/\2"),
    *ROLES,
)
_HUGGING_FACE_V2: names.Rules = (
    (r"^(?:mobilenet_v2/)?", ""),
    (r"/convolution$", "/0"),
    (r"/normalization$", "/1"),
    (r"^conv_stem/first_conv/", "stem/"),
    # The first block is in the stem, so that layer 0 is the second.
    (r"^conv_stem/", "block/0/0/"),
    (r"^layer/(\d+)/", r"block/1/\1/"),
    (r"^(block/[\d/]+)/expand_1x1/", r"\1/expand/"),
    (r"^(block/[\d/]+)/conv_3x3/", r"\1/depthwise/"),
    (r"^(block/[\d/]+)/reduce_1x1/", r"\1/project/"),
    *_CONV_NORM,
)
_HUGGING_FACE_EFFICIENTNET_RULES: names.Rules = (
    (r"^(?:efficientnet/)?", ""),
    (r"^embeddings/convolution$", "stem/conv"),
    (r"^embeddings/batchnorm$", "stem/norm"),
    (r"^encoder/blocks/(\d+)/squeeze_excite/", r"block/\1/squeeze/"),
    (r"^encoder/blocks/(\d+)/expansion/expand_", r"block/\1/expand/"),
    (r"^encoder/blocks/(\d+)/depthwise_conv/depthwise_", r"block/\1/depthwise/"),
    (r"^encoder/blocks/(\d+)/projection/project_", r"block/\1/project/"),
    (r"/bn$", "/norm"),
    *ROLES,
)
_EFFICIENTNET_PYTORCH: names.Rules = (
    (r"^_conv_stem$", "stem/conv"),
    (r"^_bn0$", "stem/norm"),
    (r"^_blocks/(\d+)/_(expand|depthwise|project)_conv$", r"block/\1/\2/conv"),
    (r"^_blocks/(\d+)/_bn(\d)$", r"block/\1/\2/norm"),
    (r"^_blocks/(\d+)/_se_(reduce|expand)$", r"block/\1/squeeze/\2"),
    *ROLES,
)

# What a file is.

Describe = Callable[[StoredCheckpoint], Description]


def _fixed(normalization: Sequence[Sequence[float]], **more: Any) -> Describe:
    """The same settings for every file."""
    return lambda checkpoint: Description(settings(normalization, **more))


def _describe_torchvision_efficientnet(checkpoint: StoredCheckpoint) -> Description:
    # b5, b6 and b7 have five blocks or more in stage 2, and TensorFlow's epsilon.
    is_large = any(name.startswith("features.2.4.") for name in checkpoint.arrays)
    epsilon = _TF_EPSILON if is_large else _TORCH_EPSILON
    return Description(
        settings(IMAGENET, norm_epsilon=epsilon, padding="symmetric", **SWISH_SQUEEZE)
    )


def _describe_timm(
    tensorflow: Sequence[Sequence[float]], options: Optional[Mapping[str, Any]] = None
) -> Describe:
    """Of timm's own or of those from TensorFlow, whose normalisation is given."""

    def describe(checkpoint: StoredCheckpoint) -> Description:
        config = beside.read_json(checkpoint, "config.json")
        is_tensorflow = _timm_architecture(checkpoint, config).startswith("tf_")
        published = config.get("pretrained_cfg", {})
        default = tensorflow if is_tensorflow else IMAGENET
        normalization = published.get("mean", default[0]), published.get("std", default[1])
        return Description(
            settings(
                normalization,
                norm_epsilon=_TF_EPSILON if is_tensorflow else _TORCH_EPSILON,
                padding="same" if is_tensorflow else "symmetric",
                **(options or {}),
            )
        )

    return describe


def _timm_architecture(checkpoint: StoredCheckpoint, config: Mapping[str, Any]) -> str:
    """`tf_efficientnet_b0` and the like; what is not told has no `tf_`."""
    if "architecture" in config:
        return str(config["architecture"])
    folder, name = os.path.split(checkpoint.path)
    for part in (name, os.path.basename(folder)):
        found = re.search(r"(?:^|[^a-z])(tf_(?:efficientnet|mobilenet)\w*)", part)
        if found:
            return found[1]
    return ""


def _hugging_face_settings(
    checkpoint: StoredCheckpoint, default: Sequence[Sequence[float]], **more: Any
) -> Dict[str, Any]:
    images = beside.read_json(checkpoint, "preprocessor_config.json")
    normalization = images.get("image_mean", default[0]), images.get("image_std", default[1])
    return settings(normalization, **more)


def _describe_hugging_face_v2(checkpoint: StoredCheckpoint) -> Description:
    config = beside.read_json(checkpoint, "config.json")
    return Description(
        _hugging_face_settings(
            checkpoint,
            HALF,
            norm_epsilon=config.get("layer_norm_eps", _TF_EPSILON),
            padding="same" if config.get("tf_padding", True) else "symmetric",
        )
    )


def _describe_hugging_face_efficientnet(checkpoint: StoredCheckpoint) -> Description:
    config = beside.read_json(checkpoint, "config.json")
    return Description(
        _hugging_face_settings(
            checkpoint,
            _HUGGING_FACE_EFFICIENTNET,
            norm_epsilon=config.get("batch_norm_eps", _TF_EPSILON),
            padding="same",
            **SWISH_SQUEEZE,
        )
    )


# Sources. Of two that fit a file the first counts.

_TORCHVISION_IGNORED = (r"^(classifier|aux_classifier)\.",)
_TIMM_SIGNATURE = (r"^conv_stem\.weight$", r"^blocks\.0\.0\.conv_dw\.weight$")
_TIMM_IGNORED = (r"^(conv_head|bn2|norm_head|classifier)\.",)
# The last stage is a convolution for the classifier, and at another place in either.
_TIMM_V3_HEADS = {"Large": 6, "Small": 5}

for _source in (
    Source(
        title="a MobileNetV2 of torchvision",
        signature=(r"^(features|backbone)\.2\.conv\.0\.0\.weight$",),
        rules=_TORCHVISION_V2,
        ignored=(*_TORCHVISION_IGNORED, r"^(features|backbone)\.18\."),
        complete=numbered_as(MOBILENET),
        describe=_fixed(IMAGENET, norm_epsilon=_TORCH_EPSILON, padding="symmetric"),
    ),
    Source(
        title="a MobileNetV2 of PyTorch's older layout",
        signature=(r"^features\.0\.0\.weight$", r"^features\.2\.conv\.6\.weight$"),
        rules=_FLAT_V2,
        ignored=(*_TORCHVISION_IGNORED, r"^(features\.18|conv)\."),
        complete=numbered_as(MOBILENET),
        describe=_fixed(IMAGENET, norm_epsilon=_TORCH_EPSILON, padding="symmetric"),
    ),
    Source(
        title="a MobileNetV3 of torchvision",
        signature=(
            r"^(features|backbone)\.1\.block\.0\.0\.weight$",
            r"^(features|backbone)\.4\.block\.2\.fc1\.weight$",
        ),
        rules=_TORCHVISION_BLOCKS,
        # The last of `features` is the only one without `block`, but for the first.
        ignored=(*_TORCHVISION_IGNORED, r"^(features|backbone)\.1[0-9]\.[01]\."),
        complete=numbered_as(MOBILENET, is_hard_gated=True),
        describe=_fixed(IMAGENET, norm_epsilon=_TF_EPSILON, padding="symmetric"),
    ),
    Source(
        title="an EfficientNet of torchvision",
        # EfficientNetV2 has no squeeze in its first stage.
        signature=(r"^features\.1\.0\.block\.1\.fc1\.weight$",),
        rules=_TORCHVISION_BLOCKS,
        ignored=(*_TORCHVISION_IGNORED, r"^features\.8\."),
        complete=numbered_as(EFFICIENTNET),
        describe=_describe_torchvision_efficientnet,
    ),
    *(
        Source(
            title=f"a MobileNetV3 {size} of timm",
            signature=(*_TIMM_SIGNATURE, rf"^blocks\.{head}\.0\.conv\.", r"\.se\.conv_reduce\."),
            rules=_TIMM,
            ignored=(*_TIMM_IGNORED, rf"^blocks\.{head}\."),
            complete=numbered_as(MOBILENET, is_hard_gated=True),
            describe=_describe_timm(HALF),
        )
        for size, head in _TIMM_V3_HEADS.items()
    ),
    Source(
        title="an EfficientNet of timm",
        signature=(*_TIMM_SIGNATURE, r"^blocks\.0\.0\.se\.conv_reduce\."),
        rules=_TIMM,
        ignored=_TIMM_IGNORED,
        complete=numbered_as(EFFICIENTNET),
        describe=_describe_timm(IMAGENET, SWISH_SQUEEZE),
    ),
    Source(
        title="an EfficientNet-lite of timm",
        # MobileNetV2 has three blocks there.
        signature=(*_TIMM_SIGNATURE, r"^blocks\.5\.3\.conv_pwl\."),
        rules=_TIMM,
        ignored=_TIMM_IGNORED,
        complete=numbered_as(EFFICIENTNET),
        describe=_describe_timm(HALF),
    ),
    Source(
        title="a MobileNetV2 of timm",
        signature=(*_TIMM_SIGNATURE, r"^blocks\.1\.0\.conv_pwl\."),
        rules=_TIMM,
        ignored=_TIMM_IGNORED,
        complete=numbered_as(MOBILENET),
        describe=_describe_timm(HALF),
    ),
    Source(
        title="a MobileNetV2 of Hugging Face",
        signature=(r"conv_stem\.first_conv\.convolution\.", r"layer\.0\.expand_1x1\."),
        rules=_HUGGING_FACE_V2,
        ignored=(r"^(mobilenet_v2\.)?conv_1x1\.", r"^(classifier|segmentation_head)\."),
        complete=numbered_as(MOBILENET),
        describe=_describe_hugging_face_v2,
    ),
    Source(
        title="an EfficientNet of Hugging Face",
        signature=(
            r"embeddings\.convolution\.weight$",
            r"encoder\.blocks\.0\.depthwise_conv\.depthwise_conv\.",
        ),
        rules=_HUGGING_FACE_EFFICIENTNET_RULES,
        ignored=(r"^(efficientnet\.)?encoder\.top_", r"^classifier\."),
        complete=numbered_as(EFFICIENTNET),
        describe=_describe_hugging_face_efficientnet,
    ),
    Source(
        title="an EfficientNet of efficientnet_pytorch",
        signature=(r"^_conv_stem\.weight$", r"^_blocks\.0\._se_reduce\."),
        rules=_EFFICIENTNET_PYTORCH,
        ignored=(r"^_(conv_head|bn1|fc)\.",),
        complete=numbered_as(EFFICIENTNET),
        describe=_fixed(IMAGENET, norm_epsilon=_TF_EPSILON, padding="same", **SWISH_SQUEEZE),
    ),
    Source(
        title="an EfficientNet-lite of efficientnet_pytorch",
        signature=(r"^_conv_stem\.weight$", r"^_blocks\.0\._depthwise_conv\."),
        rules=_EFFICIENTNET_PYTORCH,
        ignored=(r"^_(conv_head|bn1|fc)\.",),
        complete=numbered_as(EFFICIENTNET),
        describe=_fixed(_LITE, norm_epsilon=_TF_EPSILON, padding="same"),
    ),
):
    names.register_source(_source)
