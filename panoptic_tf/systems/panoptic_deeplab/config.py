"""Config of Panoptic-DeepLab; dataclass defaults are the paper's values (arXiv:1911.10194)."""

import dataclasses
from typing import List, Optional

from official.modeling import hyperparams

from panoptic_tf.systems import config


@dataclasses.dataclass
class Branch(hyperparams.Config):
    """ASPP, decoder and head of one of the two branches.

    Attributes:
      aspp_channels: of ASPP's branches and output.
      decoder_channels: of both decoder stages.
      low_level_channels: of the projected 1/8 and 1/4 features, in the order they are used.
      head_channels: of the heads' last hidden layer.
    """

    aspp_channels: int = 256
    decoder_channels: int = 256
    low_level_channels: List[int] = dataclasses.field(default_factory=lambda: [64, 32])
    head_channels: int = 256


def _instance_branch() -> Branch:
    return Branch(decoder_channels=128, head_channels=32)


def _backbone() -> config.Backbone:
    return config.Backbone(output_stride=16)


@dataclasses.dataclass
class PostProcessor(hyperparams.Config):
    """Arguments of `PanopticDeepLabPostProcessor`, which documents them."""

    center_threshold: float = 0.1
    nms_kernel: int = 7
    top_k: int = 200
    stuff_area: int = 2048


@dataclasses.dataclass
class Model(config.Model):
    """The network.

    Attributes:
      low_level_features: levels of the backbone that the decoder adds, deepest first.
      aspp_dilation_rates: of ASPP at output stride 16.
      aspp_pool_size: window of ASPP's image pooling in cells; None is the whole map.
      aspp_pool_norm: norm of ASPP's image pooling.
      aspp_dropout: after ASPP.
      use_separable_conv: 5x5 depthwise-separable convolutions, else pairs of plain 3x3.
      aspp_keeps_plain_conv: plain 3x3 convolutions in ASPP even where the rest is separable.
      center_keeps_plain_conv: the same in the center head.
      align_corners: bilinear resizing aligns the corners' pixels, else the maps' borders; wants
        sizes of images that are a multiple of the output stride plus one.
      norm: of everything after the backbone.
      norm_momentum, norm_epsilon: of that; see `backbones.factory.build_backbone`.
      semantic: the semantic branch.
      instance: the instance branch.
      has_instance_branch: without it the network is DeepLabv3+.
      postprocessor: see `PanopticDeepLabPostProcessor`.
    """

    train_size: List[int] = dataclasses.field(default_factory=lambda: [640, 640])
    input_size: List[int] = dataclasses.field(default_factory=lambda: [640, 640])
    backbone: config.Backbone = dataclasses.field(default_factory=_backbone)
    low_level_features: List[str] = dataclasses.field(default_factory=lambda: ["3", "2"])
    aspp_dilation_rates: List[int] = dataclasses.field(default_factory=lambda: [6, 12, 18])
    aspp_pool_size: Optional[List[int]] = None
    aspp_pool_norm: str = "none"
    aspp_dropout: float = 0.1
    use_separable_conv: bool = True
    aspp_keeps_plain_conv: bool = False
    center_keeps_plain_conv: bool = True
    align_corners: bool = False
    norm: str = "batch"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    semantic: Branch = dataclasses.field(default_factory=Branch)
    instance: Branch = dataclasses.field(default_factory=_instance_branch)
    has_instance_branch: bool = True
    postprocessor: PostProcessor = dataclasses.field(default_factory=PostProcessor)


@dataclasses.dataclass
class Losses(hyperparams.Config):
    """Arguments of `PanopticDeepLabLoss`, which documents them."""

    semantic_weight: float = 1.0
    center_weight: float = 200.0
    offset_weight: float = 0.01
    top_k_fraction: float = 0.2
    rank_over: str = "image"
    class_weights: config.ClassWeights = dataclasses.field(default_factory=config.ClassWeights)


@dataclasses.dataclass
class Targets(hyperparams.Config):
    """Arguments of `PanopticDeepLabTargetGenerator`, which documents them."""

    sigma: int = 8
    small_instance_area: int = 4096
    small_instance_weight: float = 3.0
    ignore_stuff_in_offset: bool = True
    ignore_crowd_in_semantic: bool = True
    learn_crowds: bool = False


@dataclasses.dataclass
class PanopticDeepLabTaskConfig(config.Task):
    """The task."""

    model: Model = dataclasses.field(default_factory=Model)
    targets: Targets = dataclasses.field(default_factory=Targets)
    losses: Losses = dataclasses.field(default_factory=Losses)
