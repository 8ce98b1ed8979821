"""Config of Panoptic FPN; dataclass defaults are the paper's values (arXiv:1901.02446)."""

import dataclasses
from typing import List

from official.modeling import hyperparams

from panoptic_tf.systems import config


@dataclasses.dataclass
class FeaturePyramid(hyperparams.Config):
    """The FPN between backbone and branches.

    Attributes:
      filters: channels of every level.
      sharing: `shared`, both branches read the same channels, or `split`, each has half of them for
        itself (table 3d).
      norm: of its convolutions.
    """

    filters: int = 256
    sharing: str = "shared"
    norm: str = "none"


@dataclasses.dataclass
class RegionProposal(hyperparams.Config):
    """RPN (arXiv:1506.01497) on levels 2 to 6.

    Attributes:
      anchor_scale: side of a square anchor in strides of its level.
      aspect_ratios: height / width.
      pre_nms_top_k_train, pre_nms_top_k: anchors per level before NMS, in training and inference.
      post_nms_top_k_train, post_nms_top_k: proposals per image after it.
      nms_threshold: IoU above which the lower of two proposals goes.
    """

    anchor_scale: float = 8.0
    aspect_ratios: List[float] = dataclasses.field(default_factory=lambda: [0.5, 1.0, 2.0])
    pre_nms_top_k_train: int = 2000
    pre_nms_top_k: int = 1000
    post_nms_top_k_train: int = 1000
    post_nms_top_k: int = 1000
    nms_threshold: float = 0.7


@dataclasses.dataclass
class Sampler(hyperparams.Config):
    """Arguments of `sampling.ROISampler`, which documents them."""

    count: int = 512
    positive_fraction: float = 0.25
    iou_threshold: float = 0.5
    trim_positives: bool = True


@dataclasses.dataclass
class RegionHeads(hyperparams.Config):
    """Box and mask head of Mask R-CNN (arXiv:1703.06870).

    Attributes:
      sampling_ratio: samples per ROI align cell and axis; 0 adapts to the size of the region.
      box_pool_size: cells of ROI align per side for the box head.
      box_fc_dims: hidden units of the box head's dense layers.
      box_weights: (wy, wx, wh, ww) of the box coding.
      mask_pool_size: cells of ROI align per side for the mask head; masks have twice as many.
      mask_filters: channels of each of the mask head's convolutions.
      sampler: regions that train.
    """

    sampling_ratio: int = 0
    box_pool_size: int = 7
    box_fc_dims: List[int] = dataclasses.field(default_factory=lambda: [1024, 1024])
    box_weights: List[float] = dataclasses.field(default_factory=lambda: [10.0, 10.0, 5.0, 5.0])
    mask_pool_size: int = 14
    mask_filters: List[int] = dataclasses.field(default_factory=lambda: [256, 256, 256, 256])
    sampler: Sampler = dataclasses.field(default_factory=Sampler)


@dataclasses.dataclass
class SemanticBranch(hyperparams.Config):
    """The semantic branch (section 3.2).

    Attributes:
      filters: channels.
      norm: of its convolutions.
      thing_classes: `other`, one class for the pixels of all things, or `all`, a class for each.
    """

    filters: int = 128
    norm: str = "group"
    thing_classes: str = "other"


@dataclasses.dataclass
class PostProcessor(hyperparams.Config):
    """Arguments of detection and of `PanopticFPNPostProcessor`, which documents the last five.

    Attributes:
      detection_threshold: score above which a class of a proposal is a detection; AP counts those
        above 0.05.
      nms_threshold: IoU above which the lower of two detections of a class goes.
      max_detections: per image.
    """

    detection_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    score_threshold: float = 0.5
    overlap_threshold: float = 0.5
    stuff_area: int = 4096
    output_detections: bool = True
    resizes_in_two_steps: bool = True


@dataclasses.dataclass
class Model(config.Model):
    """The network.

    Attributes:
      fpn, rpn, roi, semantic, postprocessor: see these classes.
      has_instance_branch: without it the network is Semantic FPN.
      has_semantic_branch: without it the network is Mask R-CNN.
    """

    fpn: FeaturePyramid = dataclasses.field(default_factory=FeaturePyramid)
    rpn: RegionProposal = dataclasses.field(default_factory=RegionProposal)
    roi: RegionHeads = dataclasses.field(default_factory=RegionHeads)
    semantic: SemanticBranch = dataclasses.field(default_factory=SemanticBranch)
    has_instance_branch: bool = True
    has_semantic_branch: bool = True
    postprocessor: PostProcessor = dataclasses.field(default_factory=PostProcessor)


@dataclasses.dataclass
class Targets(hyperparams.Config):
    """Arguments of `PanopticFPNTargetGenerator`, which documents them."""

    max_instances: int = 100
    rpn_count: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_negative_iou: float = 0.3
    rpn_positive_iou: float = 0.7


@dataclasses.dataclass
class Losses(hyperparams.Config):
    """Arguments of `PanopticFPNLoss`, which documents them, and how updates combine them.

    Attributes:
      instance_weight, semantic_weight: lambda_i and lambda_s.
      updates: `combined`, every step has all losses, or `alternating`, even steps have the instance
        losses and odd steps the semantic loss (table 3c); momentum and weight decay still move
        what a step has no loss for.
    """

    instance_weight: float = 1.0
    semantic_weight: float = 0.5
    updates: str = "combined"
    class_weights: config.ClassWeights = dataclasses.field(default_factory=config.ClassWeights)


@dataclasses.dataclass
class PanopticFPNTaskConfig(config.Task):
    """The task."""

    model: Model = dataclasses.field(default_factory=Model)
    targets: Targets = dataclasses.field(default_factory=Targets)
    losses: Losses = dataclasses.field(default_factory=Losses)
