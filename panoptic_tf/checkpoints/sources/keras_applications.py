"""ResNet, MobileNetV2, MobileNetV3 and EfficientNet of tf.keras.applications.

What is read is the `.h5` file of the weights (with or without top), or `keras:NAME`. Convolutions
of ResNet have biases before their norm: the running mean takes them up. The normalisation within
EfficientNet and MobileNetV3 becomes that of the images.

Keras's Xception (arXiv:1610.02357) is not the aligned one, and neither ResNetV2 nor the
minimalistic MobileNetV3 is a network here: these are recognised, and refused.
"""

from __future__ import annotations

import string
from typing import Any, Dict, Tuple

import numpy as np

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.sources import detectron2
from panoptic_tf.checkpoints.sources.inverted_bottlenecks import (
    EFFICIENTNET,
    MOBILENET,
    ROLES,
    numbered_as,
)
from panoptic_tf.checkpoints.sources.refused import RefusedSource
from panoptic_tf.checkpoints.sources.settings import HALF, IMAGENET, SWISH_SQUEEZE, settings

_EPSILON = 1e-3
_RESNET_SETTINGS: Dict[str, Any] = {
    **detectron2.CAFFE_SETTINGS,
    "normalization.mean": [103.939, 116.779, 123.68],
    "model.backbone.norm_epsilon": 1.001e-5,
}
# Of ResNet-152.
_MOST_BLOCKS = 36

_RESNET: names.Rules = (
    (r"^conv1_(conv|bn)/", r"stem/conv1_\1/"),
    # Blocks are counted from 1.
    *((rf"^conv(\d)_block{i + 1}_", rf"res\1_{i}_") for i in range(_MOST_BLOCKS)),
    (r"^(res\d_\d+)_0_(conv|bn)/", r"\1/shortcut_\2/"),
    (r"^(res\d_\d+)_([123])_(conv|bn)/", r"\1/conv\2_\3/"),
    (r"_conv/(\w+)$", r"/conv/\1"),
    (r"_bn/(\w+)$", r"/norm/\1"),
    (r"^", "backbone/"),
)
_MOBILENET_V2: names.Rules = (
    (r"^Conv1/", "stem/conv/"),
    (r"^bn_Conv1/", "stem/norm/"),
    (r"^expanded_conv_", "block_0_"),
    (r"^block_(\d+)_(expand|depthwise|project)_BN/", r"block/\1/\2/norm/"),
    (r"^block_(\d+)_(expand|depthwise|project)/", r"block/\1/\2/conv/"),
    *ROLES,
)
_MOBILENET_V3: names.Rules = (
    (r"^Conv/BatchNorm/", "stem/norm/"),
    (r"^Conv/", "stem/conv/"),
    (r"^expanded_conv/", "expanded_conv_0/"),
    (r"^expanded_conv_(\d+)/(expand|depthwise|project)/BatchNorm/", r"block/\1/\2/norm/"),
    (r"^expanded_conv_(\d+)/(expand|depthwise|project)/", r"block/\1/\2/conv/"),
    (r"^expanded_conv_(\d+)/squeeze_excite/Conv/", r"block/\1/squeeze/reduce/"),
    (r"^expanded_conv_(\d+)/squeeze_excite/Conv_1/", r"block/\1/squeeze/expand/"),
    *ROLES,
)
_EFFICIENTNET: names.Rules = (
    (r"^stem_conv/", "stem/conv/"),
    (r"^stem_bn/", "stem/norm/"),
    # block2b -> block/2/1
    *(
        (rf"^block(\d+){letter}_", rf"block/\1/{i}/")
        for i, letter in enumerate(string.ascii_lowercase)
    ),
    (r"^(block/[\d/]+)/se_(reduce|expand)/", r"\1/squeeze/\2/"),
    (r"^(block/[\d/]+)/(expand|project)_conv/", r"\1/\2/conv/"),
    (r"^(block/[\d/]+)/(expand|project)_bn/", r"\1/\2/norm/"),
    (r"^(block/[\d/]+)/dwconv/", r"\1/depthwise/conv/"),
    (r"^(block/[\d/]+)/bn/", r"\1/depthwise/norm/"),
    *ROLES,
)
_TOPS = (r"^(predictions|probs|fc1000|Logits)/",)


def _fold_biases(translation: Translation) -> Translation:
    """Takes the biases of convolutions out of the means that the norms after them subtract."""
    found = dict(translation)
    for path in translation:
        layer, _, leaf = path.rpartition("/conv/")
        if leaf == "bias" and f"{layer}/norm/moving_mean" in found:
            bias = found.pop(path)
            mean = found[f"{layer}/norm/moving_mean"]
            found[f"{layer}/norm/moving_mean"] = _difference(mean, bias)
    return found


def _difference(mean: Translated, bias: Translated) -> Translated:
    return Translated(mean.source_name, lambda: mean.read() - bias.read())


def _describe_efficientnet(checkpoint: StoredCheckpoint) -> Description:
    """The images' normalisation is in the weights: of 0..1, mean and variance."""
    arrays = {
        name.rpartition("/")[2]: array
        for name, array in checkpoint.arrays.items()
        if name.startswith("normalization")
    }
    normalization = IMAGENET
    if "mean" in arrays and "variance" in arrays:
        mean, std = _flat(arrays["mean"].read()), np.sqrt(_flat(arrays["variance"].read()))
        if np.allclose(np.square(std), IMAGENET[1], atol=1e-4):
            # The published weights have the deviation in place of the variance; the network that
            # they are for divides by its root once more.
            std = np.square(std)
        normalization = _plain(mean), _plain(std)
    return Description(
        settings(normalization, norm_epsilon=_EPSILON, padding="same", **SWISH_SQUEEZE)
    )


def _flat(values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values.astype(np.float64).reshape(-1), (3,))


def _plain(values: np.ndarray) -> Tuple[float, ...]:
    return tuple(float(value) for value in values)


for _source in (
    RefusedSource(
        title="a .weights.h5 of Keras",
        signature=(r"^(_layer_checkpoint_dependencies|layers)/\w+/vars/0$",),
        rules=(),
        style="keras",
        reason=(
            "its layers are only numbered and cannot be identified. Load it in the program that "
            "wrote it, and save it with model.save_weights('name.h5')."
        ),
    ),
    RefusedSource(
        title="a ResNetV2 of Keras",
        signature=(r"^conv2_block1_preact_bn/gamma$",),
        rules=(),
        style="keras",
        reason=(
            "its blocks normalise before they convolve (arXiv:1603.05027), as no network here "
            "does. Take ResNet50, ResNet101 or ResNet152."
        ),
    ),
    Source(
        title="a ResNet of Keras",
        signature=(r"^conv1_bn/gamma$", r"^conv2_block1_1_conv/kernel$"),
        rules=_RESNET,
        ignored=_TOPS,
        style="keras",
        complete=_fold_biases,
        describe=lambda checkpoint: Description(_RESNET_SETTINGS),
    ),
    Source(
        title="a MobileNetV2 of Keras",
        signature=(r"^Conv1/kernel$", r"^block_1_expand_BN/gamma$"),
        rules=_MOBILENET_V2,
        ignored=(*_TOPS, r"^Conv_1(_bn)?/"),
        style="keras",
        complete=numbered_as(MOBILENET),
        describe=lambda checkpoint: Description(
            settings(HALF, norm_epsilon=_EPSILON, padding="same")
        ),
    ),
    Source(
        title="a MobileNetV3 of Keras",
        signature=(r"^Conv/BatchNorm/gamma$", r"^expanded_conv_3/squeeze_excite/Conv/kernel$"),
        rules=_MOBILENET_V3,
        ignored=(*_TOPS, r"^Conv_[12]/"),
        style="keras",
        complete=numbered_as(MOBILENET, is_hard_gated=True),
        describe=lambda checkpoint: Description(
            settings(HALF, norm_epsilon=_EPSILON, padding="same")
        ),
    ),
    RefusedSource(
        title="a minimalistic MobileNetV3 of Keras",
        signature=(r"^Conv/BatchNorm/gamma$", r"^expanded_conv_3/depthwise/depthwise_kernel$"),
        rules=(),
        style="keras",
        reason=(
            "it has neither squeeze-and-excitation nor 5x5 kernels nor hard swish, which the "
            "MobileNetV3 here has. Take the one with minimalistic=False."
        ),
    ),
    Source(
        title="an EfficientNet of Keras",
        signature=(r"^block1a_dwconv/depthwise_kernel$", r"^block1a_se_reduce/kernel$"),
        rules=_EFFICIENTNET,
        # Numbered through the process where a model was built before.
        ignored=(*_TOPS, r"^normalization(_\d+)?/", r"^top_(conv|bn)/"),
        style="keras",
        complete=numbered_as(EFFICIENTNET),
        describe=_describe_efficientnet,
    ),
    RefusedSource(
        title="an Xception of Keras",
        signature=(r"^block1_conv1/kernel$", r"^block14_sepconv2/pointwise_kernel$"),
        rules=(),
        style="keras",
        reason=(
            "it is the original one (arXiv:1610.02357), whose blocks pool, and whose depthwise "
            "convolutions have no norm of their own. The Xceptions here are the aligned ones of "
            "DeepLab (arXiv:1802.02611): take timm's xception41, xception65 or xception71."
        ),
    ),
):
    names.register_source(_source)
