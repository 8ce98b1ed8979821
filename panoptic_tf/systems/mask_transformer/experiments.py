"""Experiments of Mask2Former (arXiv:2112.01527), MaskFormer (arXiv:2107.06278), EoMT.

Published PQ of Mask2Former on COCO val: 51.9 (ResNet-50), 52.6 (ResNet-101), 53.2, 54.6, 55.1 and
57.8 (Swin-T, S, B, L; L pretrained on ImageNet-22k, with 200 queries, for 100 epochs); on
Cityscapes val 62.1, 62.4, 63.9, 64.8, 66.1, 66.6; of MaskFormer on COCO val 46.5, 47.6, 47.7, 49.7,
51.8, 52.7; of EoMT (arXiv:2503.19108) on COCO val at 640x640 46.7, 51.6 and 56.0 (S, B, L).
"""

from __future__ import annotations

import functools
from typing import Any, Dict, List, NamedTuple, Sequence

from official.core import config_definitions as cfg
from official.core import exp_factory

from panoptic_tf.systems import config as base_config
from panoptic_tf.systems import optimization, shapes_experiment, small_experiment
from panoptic_tf.systems.mask_transformer import config
from panoptic_tf.systems.variable_factors import VariableFactors

_BACKBONES: Dict[str, Dict[str, Any]] = {
    "resnet50": {},
    "resnet101": {},
    "swin_tiny": {"drop_path_rate": 0.3},
    "swin_small": {"drop_path_rate": 0.3},
    "swin_base": {"drop_path_rate": 0.3, "window_size": 12},
    "swin_large": {"drop_path_rate": 0.3, "window_size": 12},
}

# No decay of norms, learnt queries, the decoder's vectors of levels, tables of relative positions.
_FACTORS = [
    VariableFactors(
        pattern="/(gamma|beta|query_(positions|features)|relative_position_bias_table)$"
        "|^transformer_decoder/level_embedding$",
        weight_decay=0.0,
    )
]

# The published ranges; there each change comes with probability one half, here always.
_COLORS = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}


class _EncoderSize(NamedTuple):
    """A published EoMT.

    Attributes:
      encoder: its fields of `config.Encoder`.
      epochs: of training.
    """

    encoder: Dict[str, Any]
    epochs: int


_ANNEALING_24 = {
    "annealing_starts": [29_564, 73_910, 118_256],
    "annealing_ends": [59_128, 103_474, 147_820],
}
_ANNEALING_12 = {
    "annealing_starts": [14_782, 29_564, 44_346, 59_128],
    "annealing_ends": [29_564, 44_346, 59_128, 73_910],
}
_ENCODERS = {
    "small": _EncoderSize({"channels": 384, "num_blocks": 12, "num_heads": 6, **_ANNEALING_24}, 24),
    "base": _EncoderSize({"channels": 768, "num_blocks": 12, "num_heads": 12, **_ANNEALING_24}, 24),
    "large": _EncoderSize(
        {
            "channels": 1024,
            "num_blocks": 24,
            "num_heads": 16,
            "num_joint_blocks": 4,
            **_ANNEALING_12,
        },
        12,
    ),
}
_EPOCH = 7_391  # Steps of 16 images of COCO.
# Learning rate of a block, of the next one's.
_BLOCK_DECAY = 0.8


class _Schedule(NamedTuple):
    """How a published model was trained.

    Attributes:
      train_steps: of the whole run.
      batch_size: images of a step.
      drops: steps at which the rate falls to a tenth of what it was; empty: a polynomial of 0.9.
    """

    train_steps: int
    batch_size: int
    drops: List[int]


_COCO_50 = _Schedule(368_750, 16, [327_778, 355_092])
_COCO_100 = _Schedule(737_500, 16, [655_556, 710_184])
_COCO_MASKFORMER = _Schedule(554_400, 64, [369_600])
_CITYSCAPES = _Schedule(90_000, 16, [])
_ADE20K = _Schedule(160_000, 16, [])


def mask2former_coco(backbone: str) -> cfg.ExperimentConfig:
    """Mask2Former on COCO panoptic, in the published configuration.

    `panoptic-tf train --experiment=mask2former_resnet50_coco --mode=train_and_eval --model_dir=...
    --params_override=task.init_checkpoint=...,task.train_data.input_path=data/train-*,...`

    368,750 steps (`swin_large` 737,500) of 16 crops of 1024x1024 at a tenth to twice their scale,
    AdamW at 1e-4, the backbone at a tenth of it. The norms of ResNets are frozen: give a trained
    backbone as `task.init_checkpoint`. Published PQ: see the module.

    Scales in evaluation differ: images are fitted into a square, so that only those of 4:3 have the
    published shortest side of 800 (times 1.02), wider ones a smaller, square ones a larger.

    Args:
      backbone: a name of `_BACKBONES`.
    """
    task = _task(
        backbone,
        "coco_panoptic",
        train_size=[1024, 1024],
        input_size=[1088, 1088],
        norm="frozen_batch",
    )
    task.model.output_size = [640, 640]
    task.train_data.augmentation = base_config.Augmentation(scale_min=0.1, scale_max=2.0)
    task.validation_data.with_instances = True
    return _experiment(task, _COCO_100 if backbone == "swin_large" else _COCO_50)


def mask2former_cityscapes(backbone: str) -> cfg.ExperimentConfig:
    """Mask2Former on Cityscapes, in the published configuration.

    `panoptic-tf train --experiment=mask2former_resnet50_cityscapes --mode=train_and_eval
    --model_dir=... --params_override=task.init_checkpoint=...,...`

    90,000 steps of 16 crops of 512x1024 at half to twice the scale of 1024x2048.
    """
    task = _task(
        backbone,
        "cityscapes_panoptic",
        train_size=[512, 1024],
        input_size=[1024, 2048],
        norm="sync_batch",
    )
    # A crop is half an image, so fitting it is scale 0.5 of the original.
    task.train_data.augmentation = base_config.Augmentation(scale_min=1.0, scale_max=4.0, **_COLORS)
    return _experiment(task, _CITYSCAPES)


def mask2former_ade20k(backbone: str) -> cfg.ExperimentConfig:
    """Mask2Former on ADE20K panoptic, in the configuration published for ResNet-50 and Swin-L.

    `panoptic-tf train --experiment=mask2former_resnet50_ade20k --mode=train_and_eval
    --model_dir=... --params_override=task.init_checkpoint=...,...`

    160,000 steps of 16 crops of 640x640. Published PQ on val: 39.7 (ResNet-50).
    """
    task = _task(
        backbone,
        "ade20k_panoptic",
        train_size=[640, 640],
        input_size=[864, 864],
        norm="frozen_batch",
    )
    # Of an image of 4:3, fitted into 640x640, the shortest side is 480; published are 320 to 1280.
    task.train_data.augmentation = base_config.Augmentation(
        scale_min=320 / 480, scale_max=1280 / 480, **_COLORS
    )
    return _experiment(task, _ADE20K)


def maskformer_coco(backbone: str) -> cfg.ExperimentConfig:
    """MaskFormer on COCO panoptic, in the published configuration.

    `panoptic-tf train --experiment=maskformer_resnet50_coco --mode=train_and_eval --model_dir=...
    --params_override=task.init_checkpoint=...,task.train_data.input_path=data/train-*,...`

    554,400 steps of 64 images, AdamW at 1e-4, the backbone at a tenth of it; of Swins everything at
    6e-5, and no encoder in the pixel decoder. For evaluation see `mask2former_coco`; the published
    augmentation also crops half of the images first.

    Args:
      backbone: a name of `_BACKBONES`.
    """
    task = _task(
        backbone,
        "coco_panoptic",
        train_size=[1088, 1088],
        input_size=[1088, 1088],
        norm="frozen_batch",
    )
    task.model.output_size = [640, 640]
    _make_maskformer(task)
    task.train_data.augmentation = base_config.Augmentation(scale_min=480 / 800, scale_max=1.0)
    task.validation_data.with_instances = True
    if backbone.startswith("resnet"):
        return _experiment(task, _COCO_MASKFORMER, weight_decay=1e-4)
    task.model.pixel_decoder.num_layers = 0
    return _experiment(
        task,
        _COCO_MASKFORMER,
        rate=6e-5,
        backbone_factor=1.0,
        weight_decay=0.01,
        warmup_steps=1500,
    )


def eomt_coco(size: str) -> cfg.ExperimentConfig:
    """EoMT on COCO panoptic at 640x640, in the published configuration.

    `panoptic-tf train --experiment=eomt_small_coco --mode=train_and_eval --model_dir=...
    --params_override=task.init_checkpoint=...,task.train_data.input_path=data/train-*,...`

    24 epochs (`large` 12) of 16 crops of 640x640 at a tenth to twice their scale, AdamW at 1e-4, of
    which a block of the encoder has 0.8 of the next one's. Published PQ: see the module. It starts
    from DINOv2 with registers.

    The published warm-up holds the encoder at 0 for 500 steps and warms it up over 1,000 more; here
    everything warms up over 1,500. PQ of evaluations before the end of the annealing is that of
    queries whose masks are missed: inference has none.

    Args:
      size: a key of `_ENCODERS`.
    """
    options, epochs = _ENCODERS[size]
    frame = [640, 640]
    task = config.MaskTransformerTaskConfig(
        dataset_info="coco_panoptic",
        model=config.Model(
            architecture="encoder",
            encoder=config.Encoder(**options),
            train_size=frame,
            input_size=frame,
        ),
    )
    task.train_data.augmentation = base_config.Augmentation(scale_min=0.1, scale_max=2.0)
    task.validation_data.with_instances = True
    last = options["num_blocks"] - 1
    rates = {f"block_{i}/": _BLOCK_DECAY ** (last - i) for i in range(last)}
    rates["(patch_embedding|positions|class_token|registers)"] = _BLOCK_DECAY**last
    return _experiment(
        task,
        _Schedule(epochs * _EPOCH, 16, []),
        backbone_factor=1.0,
        factors=[
            VariableFactors(pattern=f"^backbone/{part}", learning_rate=rate)
            for part, rate in rates.items()
        ],
        warmup_steps=1500,
    )


def mask2former_shapes() -> cfg.ExperimentConfig:
    """Mask2Former on the embedded data set, for two CPU cores.

    `panoptic-tf train --experiment=mask2former_shapes --mode=train_and_eval --model_dir=...
    --params_override=task.train_data.input_path=data/train-*,...`

    What it reaches is in docs/results.md.
    """
    size = list(shapes_experiment.SIZE)
    model = config.Model(
        train_size=size,
        input_size=size,
        channels=64,
        mask_stride=2,
        semantic_branch=True,
        backbone=shapes_experiment.build_backbone_config(output_stride=32, num_blocks=[1, 2, 2, 2]),
        pixel_decoder=config.PixelDecoder(num_layers=1, num_heads=4, hidden_channels=128),
        decoder=config.TransformerDecoder(
            num_queries=64,
            num_layers=3,
            num_heads=4,
            hidden_channels=128,
            levels=["4", "3", "2"],  # Things have 12 to 64 pixels.
        ),
        postprocessor=config.PostProcessor(
            score_threshold=0.3,
            overlap_threshold=0.6,
            void_outside_masks=False,  # Every pixel of these images has a segment.
            max_instances=32,
        ),
    )
    task = config.MaskTransformerTaskConfig(
        dataset_info="shapes",
        model=model,
        targets=config.Targets(max_segments=32),
        losses=config.Losses(
            class_weight=3.0,
            semantic_weight=10.0,
            semantic_top_k_fraction=0.2,
            num_points=768,
            oversample_ratio=2.0,
        ),
    )
    return shapes_experiment.build_experiment(
        task,
        train_steps=5_400,
        validation_interval=2700,
        by_variable=_FACTORS,
        exclude_from_muon=["^transformer_decoder/", "^semantic_predictor/"],
    )


def mask2former_small() -> cfg.ExperimentConfig:
    """Mask2Former with ResNet-18 for data of one's own, on one GPU or a CPU.

    `panoptic-tf train --experiment=mask2former_small --model_dir=...
    --params_override=task.dataset_info=data/dataset_info.json,...`

    10,000 steps of 8 images of 512x512, from random weights or a backbone's. There is no published
    PQ, and it was not trained yet.
    """
    size = list(small_experiment.SIZE)
    model = config.Model(
        train_size=size,
        input_size=size,
        channels=128,
        backbone=small_experiment.build_backbone_config(output_stride=32),
        pixel_decoder=config.PixelDecoder(num_layers=3, num_heads=4, hidden_channels=512),
        decoder=config.TransformerDecoder(num_layers=6, num_heads=4, hidden_channels=512),
    )
    return small_experiment.build_experiment(
        config.MaskTransformerTaskConfig(model=model), learning_rate=5e-4, by_variable=_FACTORS
    )


def _task(
    backbone: str, dataset: str, *, train_size: List[int], input_size: List[int], norm: str
) -> config.MaskTransformerTaskConfig:
    is_large = backbone == "swin_large"
    return config.MaskTransformerTaskConfig(
        dataset_info=dataset,
        model=config.Model(
            train_size=train_size,
            input_size=input_size,
            decoder=config.TransformerDecoder(num_queries=200 if is_large else 100),
            backbone=base_config.Backbone(
                name=backbone,
                # Of ResNets; others have norms of their own.
                norm=norm if backbone.startswith("resnet") else "batch",
                options=_BACKBONES[backbone],
            ),
        ),
    )


def _make_maskformer(task: config.MaskTransformerTaskConfig) -> None:
    """Turns Mask2Former into MaskFormer."""
    task.model.pixel_decoder = config.PixelDecoder(name="fpn", hidden_channels=2048, dropout=0.1)
    task.model.decoder = config.TransformerDecoder(
        num_layers=6,
        dropout=0.1,
        levels=["5"],
        masked=False,
        learnt_start=False,
        cross_attention_first=False,
        level_embedding=False,
    )
    task.model.postprocessor.void_outside_masks = False
    task.losses = config.Losses(
        mask_loss="whole", class_weight=1.0, mask_weight=20.0, dice_weight=1.0
    )


def _experiment(
    task: config.MaskTransformerTaskConfig,
    schedule: _Schedule,
    *,
    rate: float = 1e-4,
    backbone_factor: float = 0.1,
    weight_decay: float = 0.05,
    warmup_steps: int = 0,
    factors: Sequence[VariableFactors] = tuple(_FACTORS),
) -> cfg.ExperimentConfig:
    factors = list(factors)
    if backbone_factor != 1.0:
        factors.append(VariableFactors(pattern="^backbone/", learning_rate=backbone_factor))
    task.train_data.global_batch_size = schedule.batch_size
    task.validation_data.global_batch_size = 8
    kind, options = (
        "polynomial",
        {"initial_learning_rate": rate, "end_learning_rate": 0.0, "power": 0.9},
    )
    if schedule.drops:
        values = [rate * 0.1**i for i in range(len(schedule.drops) + 1)]
        kind, options = "stepwise", {"boundaries": schedule.drops, "values": values}
    return cfg.ExperimentConfig(
        task=task,
        trainer=optimization.trainer_config(
            train_steps=schedule.train_steps,
            optimizer="adamw",
            optimizer_options=optimization.adamw_options(
                weight_decay=weight_decay, clip_norm=0.01, epsilon=1e-8
            ),
            schedule=kind,
            schedule_options=options,
            warmup_steps=warmup_steps,
            by_variable=factors,
        ),
    )


_register = exp_factory.register_config_factory
for _name in _BACKBONES:
    _register(f"mask2former_{_name}_coco")(functools.partial(mask2former_coco, _name))
    _register(f"mask2former_{_name}_cityscapes")(functools.partial(mask2former_cityscapes, _name))
    _register(f"mask2former_{_name}_ade20k")(functools.partial(mask2former_ade20k, _name))
    _register(f"maskformer_{_name}_coco")(functools.partial(maskformer_coco, _name))
for _name in _ENCODERS:
    _register(f"eomt_{_name}_coco")(functools.partial(eomt_coco, _name))
_register("mask2former_shapes")(mask2former_shapes)
_register("mask2former_small")(mask2former_small)
