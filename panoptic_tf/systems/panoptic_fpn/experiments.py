"""Experiments of Panoptic FPN (arXiv:1901.02446), and of its halves alone.

`panoptic_fpn_*` has both branches, `mask_rcnn_*` (arXiv:1703.06870) finds instances only,
`semantic_fpn_*` labels pixels only. Published PQ on COCO val: ResNet-50 39.4 (1x) and 41.5 (3x),
ResNet-101 43.0 (3x) (detectron2); the paper has 39.0 and 40.3, and on Cityscapes val 57.7 and 58.1.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List

from official.core import config_definitions as cfg
from official.core import exp_factory

from panoptic_tf.systems import config as base_config
from panoptic_tf.systems import optimization, shapes_experiment, small_experiment
from panoptic_tf.systems.panoptic_fpn import config

# Weights of ResNet-50 and 101 stride in the first 1x1 convolution and take BGR that is centered
# only; those of ResNeXt stride in the 3x3 and take BGR divided by the standard deviation.
_RESNET = {"stride_in_1x1": True}
_RESNEXT = {"stride_in_1x1": False}
_BACKBONES: Dict[str, Dict[str, Any]] = {
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "resnext50": _RESNEXT,
    "resnext101": _RESNEXT,
    "resnext101_64x4d": _RESNEXT,
    "resnext152": _RESNEXT,
}
_BGR_MEAN = [103.53, 116.28, 123.675]
_BGR_STD = [57.375, 57.12, 58.395]

_SCHEDULES = {"1x": (90_000, [60_000, 80_000]), "3x": (270_000, [210_000, 250_000])}


def panoptic_fpn_coco(backbone: str, schedule: str = "1x") -> cfg.ExperimentConfig:
    """Panoptic FPN on COCO panoptic, in detectron2's published configuration.

    `panoptic-tf train --experiment=panoptic_fpn_resnet50_coco --mode=train_and_eval --model_dir=...
    --params_override=task.init_checkpoint=...,task.train_data.input_path=data/train-*,...`

    90,000 steps (1x) or 270,000 (3x) of 16 images, SGD at 0.02. Batch norm, stem and first stage
    are frozen: give trained weights as `task.init_checkpoint`. PQ there: ResNet-50 39.4 (1x), 41.5
    (3x), ResNet-101 43.0 (3x); its AP needs records with `--instances_json`.

    Scales differ: images are fitted into 1088x1088, so that the shortest side of one of 4:3 is 816
    (800 there), of 3:2 725 (800), of 16:9 612 (750), of a square one 1088 (800).
    """
    task = _task(backbone, "coco_panoptic", train_size=[1088, 1088], input_size=[1088, 1088])
    task.model.output_size = [640, 640]
    task.train_data.augmentation = base_config.Augmentation(scale_min=0.8, scale_max=1.0)
    task.train_data.with_instances = task.validation_data.with_instances = True
    steps, boundaries = _SCHEDULES[schedule]
    return _experiment(task, train_steps=steps, boundaries=boundaries, batch_size=16, rate=0.02)


def panoptic_fpn_cityscapes(backbone: str) -> cfg.ExperimentConfig:
    """Panoptic FPN on Cityscapes.

    `panoptic-tf train --experiment=panoptic_fpn_resnet50_cityscapes --mode=train_and_eval
    --model_dir=... --params_override=task.init_checkpoint=...,...`

    65,000 steps of 32 crops of 512x1024 at scales from a quarter to the whole of 1024x2048, SGD at
    0.01, as the paper trains; PQ there 57.7 (ResNet-50) and 58.1 (ResNet-101).
    """
    task = _task(backbone, "cityscapes_panoptic", train_size=[512, 1024], input_size=[1024, 2048])
    task.model.postprocessor.stuff_area = 2048
    task.losses.semantic_weight = 1.0
    # A crop is half an image, so fitting it is scale 0.5 of the original.
    task.train_data.augmentation = base_config.Augmentation(scale_min=1.0, scale_max=4.0)
    boundaries = [40_000, 55_000]
    return _experiment(task, train_steps=65_000, boundaries=boundaries, batch_size=32, rate=0.01)


def panoptic_fpn_shapes() -> cfg.ExperimentConfig:
    """Panoptic FPN on the embedded data set, for two CPU cores.

    `panoptic-tf train --experiment=panoptic_fpn_shapes --mode=train_and_eval --model_dir=...
    --params_override=task.train_data.input_path=data/train-*,...`

    What it reaches is in docs/results.md.
    """
    size = list(shapes_experiment.SIZE)
    model = config.Model(
        train_size=size,
        input_size=size,
        backbone=shapes_experiment.build_backbone_config(output_stride=32),
        fpn=config.FeaturePyramid(filters=64, norm="batch"),
        rpn=config.RegionProposal(
            anchor_scale=4.0,
            pre_nms_top_k_train=100,
            pre_nms_top_k=100,
            post_nms_top_k_train=100,
            post_nms_top_k=100,
        ),
        roi=config.RegionHeads(
            sampling_ratio=2,
            box_fc_dims=[256, 256],
            mask_filters=[64, 64],
            sampler=config.Sampler(count=64),
        ),
        semantic=config.SemanticBranch(filters=64, thing_classes="all"),
        postprocessor=config.PostProcessor(max_detections=32, stuff_area=64),
    )
    task = config.PanopticFPNTaskConfig(
        dataset_info="shapes",
        model=model,
        targets=config.Targets(max_instances=32, rpn_count=64),
        losses=config.Losses(semantic_weight=1.0),
    )
    return shapes_experiment.build_experiment(
        task,
        train_steps=7_000,
        validation_interval=3500,
        exclude_from_muon=["predictor", "objectness", "deltas", "^box/classes/"],
    )


def panoptic_fpn_small() -> cfg.ExperimentConfig:
    """Panoptic FPN with ResNet-18 for data of one's own, on one GPU or a CPU.

    `panoptic-tf train --experiment=panoptic_fpn_small --model_dir=...
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
        rpn=config.RegionProposal(
            pre_nms_top_k_train=500,
            pre_nms_top_k=300,
            post_nms_top_k_train=500,
            post_nms_top_k=300,
        ),
        roi=config.RegionHeads(
            sampling_ratio=2,
            box_fc_dims=[512, 512],
            mask_filters=[128, 128],
            sampler=config.Sampler(count=128),
        ),
        semantic=config.SemanticBranch(thing_classes="all"),
    )
    task = config.PanopticFPNTaskConfig(model=model, losses=config.Losses(semantic_weight=1.0))
    return small_experiment.build_experiment(task)


def mask_rcnn(panoptic: Callable[[], cfg.ExperimentConfig]) -> cfg.ExperimentConfig:
    """The instance half alone of a Panoptic FPN experiment (Mask R-CNN, arXiv:1703.06870).

    `panoptic-tf train --experiment=mask_rcnn_resnet50_coco --mode=train_and_eval --model_dir=...`;
    reports AP of masks and boxes.
    """
    experiment = panoptic()
    experiment.task.model.has_semantic_branch = False
    return experiment


def semantic_fpn(panoptic: Callable[[], cfg.ExperimentConfig]) -> cfg.ExperimentConfig:
    """The semantic half alone of a Panoptic FPN experiment, with a class for every category.

    `panoptic-tf train --experiment=semantic_fpn_resnet50_coco --mode=train_and_eval
    --model_dir=...`; reports mIoU and fIoU.
    """
    experiment = panoptic()
    experiment.task.model.has_instance_branch = False
    experiment.task.model.semantic.thing_classes = "all"
    experiment.task.losses.semantic_weight = 1.0
    experiment.task.evaluation.report_mask_ap = False
    for data in (experiment.task.train_data, experiment.task.validation_data):
        data.with_instances = False
    return experiment


def _task(
    backbone: str, dataset: str, *, train_size: List[int], input_size: List[int]
) -> config.PanopticFPNTaskConfig:
    options = _BACKBONES[backbone]
    std = _BGR_STD if options is _RESNEXT else [1.0, 1.0, 1.0]
    return config.PanopticFPNTaskConfig(
        dataset_info=dataset,
        model=config.Model(
            train_size=train_size,
            input_size=input_size,
            backbone=base_config.Backbone(
                name=backbone, norm="frozen_batch", frozen_stages=2, **options
            ),
        ),
        normalization=base_config.Normalization(mean=_BGR_MEAN, std=std, channel_order="BGR"),
        weight_decay=1e-4,
    )


def _experiment(
    task: config.PanopticFPNTaskConfig,
    *,
    train_steps: int,
    boundaries: List[int],
    batch_size: int,
    rate: float,
) -> cfg.ExperimentConfig:
    task.train_data.global_batch_size = batch_size
    task.validation_data.global_batch_size = 8
    return cfg.ExperimentConfig(
        task=task,
        trainer=optimization.trainer_config(
            train_steps=train_steps,
            optimizer="sgd",
            optimizer_options={"momentum": 0.9},
            schedule="stepwise",
            schedule_options={"boundaries": boundaries, "values": [rate, rate / 10, rate / 100]},
            warmup_steps=1000,
        ),
    )


def _register(suffix: str, panoptic: Callable[[], cfg.ExperimentConfig]) -> None:
    """A Panoptic FPN experiment and its two halves."""
    for system, build in (
        ("panoptic_fpn", panoptic),
        ("mask_rcnn", functools.partial(mask_rcnn, panoptic)),
        ("semantic_fpn", functools.partial(semantic_fpn, panoptic)),
    ):
        exp_factory.register_config_factory(f"{system}_{suffix}")(build)


for _name in _BACKBONES:
    _register(f"{_name}_coco", functools.partial(panoptic_fpn_coco, _name))
    _register(f"{_name}_coco_3x", functools.partial(panoptic_fpn_coco, _name, "3x"))
    _register(f"{_name}_cityscapes", functools.partial(panoptic_fpn_cityscapes, _name))
_register("shapes", panoptic_fpn_shapes)
_register("small", panoptic_fpn_small)
