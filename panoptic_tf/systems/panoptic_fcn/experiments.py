"""Experiments of Panoptic FCN (arXiv:2012.00720).

Published PQ on COCO val, ResNet-50: 41.1 (1x), 43.6 (3x), 41.0, 42.3 and 42.7 (3x at a shortest
side of 400, 512 and 600), 44.2 (3x, enhanced); on COCO test-dev 45.5 (ResNet-101), 47.0 (with
deformable convolutions) and 47.1 (these, enhanced).
"""

from __future__ import annotations

import functools
from typing import Any, Dict, List, NamedTuple, Tuple

from official.core import config_definitions as cfg
from official.core import exp_factory

from panoptic_tf.systems import config as base_config
from panoptic_tf.systems import optimization, shapes_experiment, small_experiment
from panoptic_tf.systems.panoptic_fcn import config

_BACKBONES: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "resnet50": ("resnet50", {}),
    "resnet101": ("resnet101", {}),
    # The 3x3 convolutions of stages 3 to 5 are deformable.
    "dcn101": ("resnet101", {"deformable_stages": [3, 4, 5]}),
}
# The published configuration lists the means of RGB for images that are BGR, and its weights were
# trained so.
_RGB_MEAN = [123.675, 116.28, 103.53]

_SCHEDULES = {"1x": 90_000, "3x": 270_000}


class _Scale(NamedTuple):
    """Sizes of a published configuration.

    Attributes:
      train_side, input_side: the square that images are fitted into.
      scale_min: of the smallest training image to `train_side`.
      num_positives: k of the weighted dice loss.
    """

    train_side: int
    input_side: int
    scale_min: float
    num_positives: int


# By the shortest side of the published configuration. A square fits an image of 4:3 with a shortest
# side of three quarters: 816, 408, 528, 624.
_SCALES = {
    800: _Scale(1088, 1088, 640 / 800, 7),
    400: _Scale(704, 544, 352 / 512, 3),
    512: _Scale(704, 704, 352 / 512, 3),
    600: _Scale(832, 832, 440 / 600, 5),
}


def panoptic_fcn_coco(
    backbone: str, schedule: str = "1x", *, side: int = 800, enhanced: bool = False
) -> cfg.ExperimentConfig:
    """Panoptic FCN on COCO panoptic, in the authors' published configuration.

    `panoptic-tf train --experiment=panoptic_fcn_resnet50_coco --mode=train_and_eval --model_dir=...
    --params_override=task.init_checkpoint=...,task.train_data.input_path=data/train-*,...`

    90,000 steps (1x) or 270,000 (3x) of 16 images, SGD at 0.01 with polynomial decay, gradients
    clipped at 35 by value. Batch norm, stem and first stage are frozen: give trained weights as
    `task.init_checkpoint`, for `dcn101` those of a backbone with the same deformable stages. AP
    needs records with `--instances_json`. Published PQ: see the module.

    Scales differ: images are fitted into a square, so that only those of 4:3 have the published
    shortest side (times 1.02 to 1.04), wider ones a smaller, square ones a larger.

    Args:
      backbone: `resnet50`, `resnet101` or `dcn101`.
      schedule: `1x` or `3x`; the authors trained the smaller sides at 3x only.
      side: published shortest side in evaluation, 800, 600, 512 or 400.
      enhanced: a deformable feature encoder of 256 channels.
    """
    scale = _SCALES[side]
    task = _task(
        backbone,
        "coco_panoptic",
        train_size=[scale.train_side] * 2,
        input_size=[scale.input_side] * 2,
        enhanced=enhanced,
    )
    task.model.output_size = [640, 640]
    task.model.sampler.num_positives = scale.num_positives
    task.train_data.augmentation = base_config.Augmentation(
        scale_min=scale.scale_min, scale_max=1.0
    )
    task.train_data.with_instances = task.validation_data.with_instances = True
    return _experiment(task, train_steps=_SCHEDULES[schedule], batch_size=16, rate=0.01)


def panoptic_fcn_cityscapes(backbone: str, *, enhanced: bool = False) -> cfg.ExperimentConfig:
    """Panoptic FCN on Cityscapes.

    `panoptic-tf train --experiment=panoptic_fcn_resnet50_cityscapes --mode=train_and_eval
    --model_dir=... --params_override=task.init_checkpoint=...,...`

    65,000 steps of 32 crops of 512x1024 at half to twice the scale of 1024x2048. There is no
    published configuration for it; smallest stuff area as in the other systems.
    """
    task = _task(
        backbone,
        "cityscapes_panoptic",
        train_size=[512, 1024],
        input_size=[1024, 2048],
        enhanced=enhanced,
    )
    task.model.postprocessor.stuff_area = 2048
    # A crop is half an image, so fitting it is scale 0.5 of the original.
    task.train_data.augmentation = base_config.Augmentation(scale_min=1.0, scale_max=4.0)
    return _experiment(task, train_steps=65_000, batch_size=32, rate=0.01)


def panoptic_fcn_shapes() -> cfg.ExperimentConfig:
    """Panoptic FCN on the embedded data set, for two CPU cores.

    `panoptic-tf train --experiment=panoptic_fcn_shapes --mode=train_and_eval --model_dir=...
    --params_override=task.train_data.input_path=data/train-*,...`

    What it reaches is in docs/results.md.
    """
    size = list(shapes_experiment.SIZE)
    model = config.Model(
        train_size=size,
        input_size=size,
        backbone=shapes_experiment.build_backbone_config(output_stride=32),
        fpn=config.FeaturePyramid(filters=64, norm="batch"),
        position_head=config.PositionHead(num_convs=1, filters=64),
        kernel_head=config.KernelHead(num_convs=1, filters=64),
        encoder=config.FeatureEncoder(semantic_filters=64, filters=32, norm="batch"),
        min_level=2,
        # Images are small, and few wrong cells are a stuff region soon. Both thresholds were chosen
        # on the validation images, by an early form of the network.
        selector=config.Selector(
            stuff_threshold=0.35, top_k=32, smoothing_sizes=[3, 3, 3, 3, 3, 3]
        ),
        postprocessor=config.PostProcessor(max_instances=32, score_threshold=0.15, stuff_area=64),
    )
    task = config.PanopticFCNTaskConfig(
        dataset_info="shapes",
        model=model,
        targets=config.Targets(
            max_instances=32,
            # Boxes are 10 to 80 pixels large.
            min_scales=[1, 16, 32, 64, 96, 160],
            max_scales=[24, 48, 80, 128, 192, 2048],
        ),
    )
    return shapes_experiment.build_experiment(
        task,
        train_steps=8_000,
        validation_interval=4000,
        exclude_from_muon=["predictor", "^position_head/(centers|stuff)/"],
    )


def panoptic_fcn_small() -> cfg.ExperimentConfig:
    """Panoptic FCN with ResNet-18 for data of one's own, on one GPU or a CPU.

    `panoptic-tf train --experiment=panoptic_fcn_small --model_dir=...
    --params_override=task.dataset_info=data/dataset_info.json,...`

    10,000 steps of 8 images of 512x512, from random weights or a backbone's. There is no published
    PQ; `panoptic-tf init` fits sizes, schedule and thresholds to a data set.
    """
    size = list(small_experiment.SIZE)
    model = config.Model(
        train_size=size,
        input_size=size,
        backbone=small_experiment.build_backbone_config(output_stride=32),
        fpn=config.FeaturePyramid(filters=128, norm="sync_batch"),
        position_head=config.PositionHead(num_convs=2, filters=128, deformable=False),
        kernel_head=config.KernelHead(num_convs=2, filters=128),
        encoder=config.FeatureEncoder(semantic_filters=128, norm="sync_batch"),
    )
    return small_experiment.build_experiment(config.PanopticFCNTaskConfig(model=model))


def _task(
    backbone: str, dataset: str, *, train_size: List[int], input_size: List[int], enhanced: bool
) -> config.PanopticFCNTaskConfig:
    name, options = _BACKBONES[backbone]
    encoder = config.FeatureEncoder()
    if enhanced:
        encoder = config.FeatureEncoder(filters=256, deformable=True)
    return config.PanopticFCNTaskConfig(
        dataset_info=dataset,
        model=config.Model(
            train_size=train_size,
            input_size=input_size,
            encoder=encoder,
            backbone=base_config.Backbone(
                name=name,
                norm="frozen_batch",
                frozen_stages=2,
                stride_in_1x1=True,
                **options,
            ),
        ),
        normalization=base_config.Normalization(
            mean=_RGB_MEAN, std=[1.0, 1.0, 1.0], channel_order="BGR"
        ),
        weight_decay=1e-4,
    )


def _experiment(
    task: config.PanopticFCNTaskConfig, *, train_steps: int, batch_size: int, rate: float
) -> cfg.ExperimentConfig:
    task.train_data.global_batch_size = batch_size
    task.validation_data.global_batch_size = 8
    return cfg.ExperimentConfig(
        task=task,
        trainer=optimization.trainer_config(
            train_steps=train_steps,
            optimizer="sgd",
            optimizer_options={"momentum": 0.9, "clipvalue": 35.0},
            schedule="polynomial",
            schedule_options={
                "initial_learning_rate": rate,
                "end_learning_rate": 0.0,
                "power": 0.9,
            },
            warmup_steps=1000,
        ),
    )


for _name in _BACKBONES:
    _coco = functools.partial(panoptic_fcn_coco, _name)
    _cityscapes = functools.partial(panoptic_fcn_cityscapes, _name)
    _register = exp_factory.register_config_factory
    _register(f"panoptic_fcn_{_name}_coco")(_coco)
    _register(f"panoptic_fcn_{_name}_coco_3x")(functools.partial(_coco, "3x"))
    for _side in (400, 512, 600):
        _register(f"panoptic_fcn_{_name}_coco_{_side}")(functools.partial(_coco, side=_side))
        _register(f"panoptic_fcn_{_name}_coco_{_side}_3x")(
            functools.partial(_coco, "3x", side=_side)
        )
    _register(f"panoptic_fcn_{_name}_enhanced_coco_3x")(
        functools.partial(_coco, "3x", enhanced=True)
    )
    _register(f"panoptic_fcn_{_name}_cityscapes")(_cityscapes)
    _register(f"panoptic_fcn_{_name}_enhanced_cityscapes")(
        functools.partial(_cityscapes, enhanced=True)
    )
_register("panoptic_fcn_shapes")(panoptic_fcn_shapes)
_register("panoptic_fcn_small")(panoptic_fcn_small)
