"""Config of Panoptic FCN; dataclass defaults are the paper's values (arXiv:2012.00720)."""

import dataclasses
from typing import List

from official.modeling import hyperparams

from panoptic_tf.systems import config


@dataclasses.dataclass
class FeaturePyramid(hyperparams.Config):
    """The FPN: levels 2 to 5 of the backbone and two more by convolutions.

    Attributes:
      filters: channels of every level.
      norm: of its convolutions.
    """

    filters: int = 256
    norm: str = "none"


@dataclasses.dataclass
class PositionHead(hyperparams.Config):
    """Object centers and stuff regions on several levels.

    Attributes:
      num_convs: 3x3 convolutions before the two predictors.
      filters: channels of each.
      norm: of each.
      deformable: whether they are modulated deformable convolutions (arXiv:1811.11168).
      coordinates: whether the head starts with coordinates.
    """

    num_convs: int = 3
    filters: int = 256
    norm: str = "group"
    deformable: bool = True
    coordinates: bool = False


@dataclasses.dataclass
class KernelHead(hyperparams.Config):
    """Kernel weights of every cell of the same levels.

    Attributes:
      num_convs: 3x3 convolutions before the predictor.
      filters: channels of each, and of a kernel before it is embedded.
      norm: of each.
      deformable: whether they are modulated deformable convolutions.
      coordinates: whether the head starts with coordinates (coord_w in the paper).
    """

    num_convs: int = 3
    filters: int = 256
    norm: str = "group"
    deformable: bool = False
    coordinates: bool = True


@dataclasses.dataclass
class FeatureEncoder(hyperparams.Config):
    """The map that kernels are convolved with.

    Attributes:
      feature: what is encoded at stride 4: `semantic_fpn` (the sum of all levels, each ascended by
        convolutions, arXiv:1901.02446), `sum` (levels 2 to 5, resized) or `level_2`.
      semantic_filters: channels of the semantic FPN.
      semantic_norm: of its convolutions.
      num_convs: 3x3 convolutions.
      filters: channels of each, and of an embedded kernel.
      norm: of each.
      deformable: whether they are modulated deformable convolutions.
      coordinates: whether the encoder starts with coordinates (coord_f in the paper).
    """

    feature: str = "semantic_fpn"
    semantic_filters: int = 256
    semantic_norm: str = "group"
    num_convs: int = 3
    filters: int = 64
    norm: str = "none"
    deformable: bool = False
    coordinates: bool = True


@dataclasses.dataclass
class Selector(hyperparams.Config):
    """Arguments of `KernelSelector`, which documents them."""

    center_threshold: float = 0.05
    stuff_threshold: float = 0.05
    top_k: int = 50
    smoothing_sizes: List[int] = dataclasses.field(default_factory=lambda: [3, 3, 3, 5, 5])


@dataclasses.dataclass
class PostProcessor(hyperparams.Config):
    """Arguments of `PanopticFCNPostProcessor`, which documents them."""

    fuse_kernels: bool = True
    similarity_threshold: float = 0.9
    class_aware: bool = True
    matrix_nms: bool = False
    mask_threshold: float = 0.4
    min_score: float = 0.05
    max_instances: int = 100
    score_threshold: float = 0.2
    overlap_threshold: float = 0.5
    stuff_area: int = 4096
    output_detections: bool = True


@dataclasses.dataclass
class Sampler(hyperparams.Config):
    """Arguments of `KernelSampler`, which documents them."""

    num_positives: int = 7
    weighted: bool = True
    trim: bool = True


@dataclasses.dataclass
class Model(config.Model):
    """The network.

    Attributes:
      min_level: finest level of position and kernel head, 2 or 3; level 7 is the coarsest.
      thing_channel: whether all things together are one more class of stuff.
      stuff_pooling: of the kernels of a stuff category on a level: their sum over the number of
        cells of the whole `map`, as published, or of the category's `region`, a mean.
      fpn, position_head, kernel_head, encoder, sampler, selector, postprocessor: see these classes.
    """

    min_level: int = 3
    thing_channel: bool = True
    stuff_pooling: str = "map"
    fpn: FeaturePyramid = dataclasses.field(default_factory=FeaturePyramid)
    position_head: PositionHead = dataclasses.field(default_factory=PositionHead)
    kernel_head: KernelHead = dataclasses.field(default_factory=KernelHead)
    encoder: FeatureEncoder = dataclasses.field(default_factory=FeatureEncoder)
    sampler: Sampler = dataclasses.field(default_factory=Sampler)
    selector: Selector = dataclasses.field(default_factory=Selector)
    postprocessor: PostProcessor = dataclasses.field(default_factory=PostProcessor)


@dataclasses.dataclass
class Targets(hyperparams.Config):
    """Arguments of `PanopticFCNTargetGenerator`, which documents them.

    Attributes:
      min_scales, max_scales: of the heads' levels; together they are its `instance_scales`.
    """

    max_instances: int = 100
    min_scales: List[int] = dataclasses.field(default_factory=lambda: [1, 32, 64, 128, 256])
    max_scales: List[int] = dataclasses.field(default_factory=lambda: [64, 128, 256, 512, 2048])
    center_type: str = "mass"
    min_overlap: float = 0.7
    sigma_factor: float = 3.0


@dataclasses.dataclass
class Losses(hyperparams.Config):
    """Arguments of `PanopticFCNLoss`, which documents them; the weights are the paper's lambdas."""

    position_weight: float = 1.0
    segment_weight: float = 3.0
    alpha: float = 0.25
    gamma: float = 2.0
    class_weights: config.ClassWeights = dataclasses.field(default_factory=config.ClassWeights)


@dataclasses.dataclass
class PanopticFCNTaskConfig(config.Task):
    """The task."""

    model: Model = dataclasses.field(default_factory=Model)
    targets: Targets = dataclasses.field(default_factory=Targets)
    losses: Losses = dataclasses.field(default_factory=Losses)
