"""ResNet, ResNeXt and wide ResNet as torchvision, timm and Hugging Face name them."""

from __future__ import annotations

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source
from panoptic_tf.checkpoints.sources import detectron2

_TORCHVISION: names.Rules = (
    (r"^(?:backbone/)?conv1$", "stem/conv1/conv"),
    (r"^(?:backbone/)?bn1$", "stem/conv1/norm"),
    (r"^(?:backbone/)?layer1/", "res2_"),
    (r"^(?:backbone/)?layer2/", "res3_"),
    (r"^(?:backbone/)?layer3/", "res4_"),
    (r"^(?:backbone/)?layer4/", "res5_"),
    (r"/conv(\d)$", r"/conv\1/conv"),
    (r"^(res.*)/bn(\d)$", r"\1/conv\2/norm"),
    (r"/downsample/0$", "/shortcut/conv"),
    (r"/downsample/1$", "/shortcut/norm"),
    # The stem has it twice now.
    (r"/conv/conv$", "/conv"),
    (r"^(?=stem/|res\d_)", "backbone/"),
)

HUGGING_FACE: names.Rules = (
    (r"^(?:resnet/)?embedder/embedder/", "stem/conv1/"),
    (r"^(?:resnet/)?encoder/stages/0/layers/", "res2_"),
    (r"^(?:resnet/)?encoder/stages/1/layers/", "res3_"),
    (r"^(?:resnet/)?encoder/stages/2/layers/", "res4_"),
    (r"^(?:resnet/)?encoder/stages/3/layers/", "res5_"),
    (r"/layer/0/", "/conv1/"),
    (r"/layer/1/", "/conv2/"),
    (r"/layer/2/", "/conv3/"),
    (r"/convolution$", "/conv"),
    (r"/normalization$", "/norm"),
    (r"^(?=stem/|res\d_)", "backbone/"),
)

_SETTINGS = detectron2.RGB_SETTINGS

names.register_source(
    Source(
        title="a ResNet of torchvision or timm",
        signature=(r"^(backbone\.)?conv1\.weight$", r"^(backbone\.)?layer4\.0\.conv2\.weight$"),
        rules=_TORCHVISION,
        # torchvision's segmentation models have heads of another kind beside the backbone.
        ignored=(r"^(fc|classifier|aux_classifier)\.",),
        describe=lambda checkpoint: Description(_SETTINGS),
    )
)
names.register_source(
    Source(
        title="a ResNet of Hugging Face",
        signature=(
            r"embedder\.embedder\.convolution\.weight$",
            r"encoder\.stages\.3\.layers\.0\.layer\.0\.",
        ),
        rules=HUGGING_FACE,
        ignored=(r"^classifier\.",),
        describe=lambda checkpoint: Description(_SETTINGS),
    )
)
