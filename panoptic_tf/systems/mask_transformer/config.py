"""Config of mask transformers; dataclass defaults are those of Mask2Former (arXiv:2112.01527).

Those of `Encoder` are EoMT-S (arXiv:2503.19108).
"""

import dataclasses
from typing import List

from official.modeling import hyperparams

from panoptic_tf.systems import config


@dataclasses.dataclass
class PixelDecoder(hyperparams.Config):
    """Arguments of the pixel decoders, which document them.

    Attributes:
      name: `deformable` (Mask2Former) or `fpn` (MaskFormer): `DeformablePixelDecoder`,
        `TransformerFPN`.
      num_points: of `deformable`; another value than the default is refused for `fpn`.
      dropout: of `fpn`; another value than the default is refused for `deformable`.
    """

    name: str = "deformable"
    num_layers: int = 6
    num_heads: int = 8
    num_points: int = 4
    hidden_channels: int = 1024
    dropout: float = 0.0


@dataclasses.dataclass
class TransformerDecoder(hyperparams.Config):
    """Arguments of `TransformerDecoder`, which documents them."""

    num_queries: int = 100
    num_layers: int = 9
    num_heads: int = 8
    hidden_channels: int = 2048
    dropout: float = 0.0
    levels: List[str] = dataclasses.field(default_factory=lambda: ["5", "4", "3"])
    masked: bool = True
    learnt_start: bool = True
    cross_attention_first: bool = True
    level_embedding: bool = True


@dataclasses.dataclass
class Encoder(hyperparams.Config):
    """EoMT: arguments of `VisionTransformer` and `QueryHeads`, which document them.

    Attributes:
      masked: whether queries attend inside of their masks in training, as long as the annealing
        wants it. Without, there is one prediction, the last.
    """

    channels: int = 384
    num_blocks: int = 12
    num_heads: int = 6
    patch_size: int = 16
    num_registers: int = 4
    num_joint_blocks: int = 3
    num_queries: int = 200
    masked: bool = True
    annealing_starts: List[int] = dataclasses.field(
        default_factory=lambda: [29_564, 73_910, 118_256]
    )
    annealing_ends: List[int] = dataclasses.field(
        default_factory=lambda: [59_128, 103_474, 147_820]
    )


@dataclasses.dataclass
class PostProcessor(hyperparams.Config):
    """Arguments of `MaskTransformerPostProcessor`, which documents them."""

    score_threshold: float = 0.8
    mask_threshold: float = 0.5
    overlap_threshold: float = 0.8
    void_outside_masks: bool = True
    max_instances: int = 100
    output_detections: bool = True
    output_semantic: bool = True


@dataclasses.dataclass
class Model(config.Model):
    """The network.

    Attributes:
      architecture: `decoders`: a backbone, a pixel decoder and a decoder of queries; `encoder`:
        EoMT, where queries join the last blocks of a vision transformer. What the other one reads
        must keep its default.
      channels: of queries, of the features that they attend to, and of those of the masks.
      mask_stride: pixels per cell of a mask: 4, as published, or 2 or 1, to which a transposed
        convolution takes the features of the pixel decoder. At the start it repeats them.
      semantic_branch: whether the features of the masks classify their cells as well, in training
        only. The published models have no such branch; kMaX-DeepLab (arXiv:2207.04044) has one.
      pixel_decoder, decoder, encoder, postprocessor: see these classes.
    """

    architecture: str = "decoders"
    channels: int = 256
    mask_stride: int = 4
    semantic_branch: bool = False
    pixel_decoder: PixelDecoder = dataclasses.field(default_factory=PixelDecoder)
    decoder: TransformerDecoder = dataclasses.field(default_factory=TransformerDecoder)
    encoder: Encoder = dataclasses.field(default_factory=Encoder)
    postprocessor: PostProcessor = dataclasses.field(default_factory=PostProcessor)

    @property
    def num_queries(self) -> int:
        """Of the architecture."""
        return (self.decoder if self.architecture == "decoders" else self.encoder).num_queries


@dataclasses.dataclass
class Targets(hyperparams.Config):
    """Arguments of `MaskTransformerTargetGenerator`, which documents them."""

    max_segments: int = 100


@dataclasses.dataclass
class Losses(hyperparams.Config):
    """Arguments of `MaskTransformerLoss`, which documents them; weights are the paper's lambdas."""

    mask_loss: str = "points"
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    semantic_weight: float = 1.0
    semantic_top_k_fraction: float = 1.0
    no_object_weight: float = 0.1
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    class_weights: config.ClassWeights = dataclasses.field(default_factory=config.ClassWeights)


@dataclasses.dataclass
class MaskTransformerTaskConfig(config.Task):
    """The task."""

    model: Model = dataclasses.field(default_factory=Model)
    targets: Targets = dataclasses.field(default_factory=Targets)
    losses: Losses = dataclasses.field(default_factory=Losses)
