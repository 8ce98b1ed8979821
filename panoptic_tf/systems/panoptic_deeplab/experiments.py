"""Experiments of Panoptic-DeepLab (arXiv:1911.10194) and of its semantic half, DeepLabv3+.

Published PQ: COCO val, R-52 35.5 and Cityscapes val, R-52 60.3 (detectron2's Panoptic-DeepLab);
COCO val ResNet-50 36.8, ResNet-101 38.4, MobileNetV3-L 30.5 (Model Garden); Cityscapes val
ResNet-50 59.8, MobileNetV3-L 55.3 (deeplab2). COCO Xception-71 39.7, things 43.9, stuff 33.2 (the
authors', as the comparison in Panoptic FCN, arXiv:2012.00720, lists it).
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict

from official.core import config_definitions as cfg
from official.core import exp_factory

from panoptic_tf.systems import config as base_config
from panoptic_tf.systems import optimization, shapes_experiment, small_experiment
from panoptic_tf.systems.panoptic_deeplab import config

# The reference's R-52: deep stem, stride in the 3x3, dilations 2, 4, 8 in the last stage.
_R52 = {"name": "resnet52", "norm": "sync_batch", "multi_grid": [1, 2, 4]}

_BACKBONES: Dict[str, Dict[str, Any]] = {
    "resnet50": {"name": "resnet50", "norm": "sync_batch", "multi_grid": [1, 2, 4]},
    "resnet52": _R52,
    "resnet101": {"name": "resnet101", "norm": "sync_batch", "multi_grid": [1, 2, 4]},
    # The epsilon of its published ImageNet weights.
    "xception71": {"name": "xception71", "norm": "sync_batch", "norm_epsilon": 1e-3},
    "mobilenetv3": {"name": "mobilenetv3_large"},
}


def _backbone(name: str) -> base_config.Backbone:
    return base_config.Backbone(output_stride=16, **_BACKBONES[name])


def panoptic_deeplab_coco(backbone: str) -> cfg.ExperimentConfig:
    """Panoptic-DeepLab on COCO panoptic.

    `panoptic-tf train --experiment=panoptic_deeplab_resnet50_coco --mode=train_and_eval
    --model_dir=... --params_override=task.train_data.input_path=data/train-*,...`

    200,000 steps of 64 images, Adam, polynomial decay from 5e-4. `resnet52` carries detectron2's
    published configuration (center NMS 41, all pixels in the cross-entropy ranked over the batch,
    crowds in the semantic target, image pooling over 40x40 cells); PQ 35.5 there.
    """
    task = _task(backbone, "coco_panoptic", train_size=[640, 640], input_size=[640, 640])
    task.model.postprocessor.stuff_area = 4096
    if backbone == "resnet52":
        task.model.aspp_pool_size = [40, 40]
        task.model.postprocessor.nms_kernel = 41
        task.losses.top_k_fraction = 1.0
        _as_detectron2(task)
    # Shortest side 320 to 960 there; the longest side of most images is 4/3 of it.
    task.train_data.augmentation.scale_min = 0.5
    task.train_data.augmentation.scale_max = 1.5
    return _experiment(task, train_steps=200_000, batch_size=64, learning_rate=5e-4)


def panoptic_deeplab_cityscapes(backbone: str) -> cfg.ExperimentConfig:
    """Panoptic-DeepLab on Cityscapes.

    `panoptic-tf train --experiment=panoptic_deeplab_resnet50_cityscapes --mode=train_and_eval
    --model_dir=... --params_override=task.train_data.input_path=data/train-*,...`

    90,000 steps of 32 crops of 512x1024, Adam, polynomial decay from 1e-3. `resnet52` carries
    detectron2's published configuration (sigma 10, cross-entropy ranked over the batch, crowds in
    the semantic target, image pooling over 32x64 cells); PQ 60.3 there.
    """
    task = _task(backbone, "cityscapes_panoptic", train_size=[512, 1024], input_size=[1024, 2048])
    if backbone == "resnet52":
        task.model.aspp_pool_size = [32, 64]
        task.targets.sigma = 10
        _as_detectron2(task)
    # A crop is half an image, so fitting it is scale 0.5 of the original.
    task.train_data.augmentation.scale_min = 1.0
    task.train_data.augmentation.scale_max = 4.0
    return _experiment(task, train_steps=90_000, batch_size=32, learning_rate=1e-3)


def deeplabv3plus(
    panoptic: Callable[[str], cfg.ExperimentConfig], backbone: str
) -> cfg.ExperimentConfig:
    """The semantic half alone of a Panoptic-DeepLab experiment (DeepLabv3+, arXiv:1802.02611).

    `panoptic-tf train --experiment=deeplabv3plus_resnet50_coco --mode=train_and_eval
    --model_dir=...`; reports mIoU and fIoU.
    """
    experiment = panoptic(backbone)
    experiment.task.model.has_instance_branch = False
    experiment.task.evaluation.report_mask_ap = False
    return experiment


def _as_detectron2(task: config.PanopticDeepLabTaskConfig) -> None:
    task.losses.rank_over = "batch"
    task.targets.ignore_crowd_in_semantic = False


def _task(
    backbone: str, dataset: str, *, train_size: list, input_size: list
) -> config.PanopticDeepLabTaskConfig:
    return config.PanopticDeepLabTaskConfig(
        dataset_info=dataset,
        model=config.Model(
            train_size=train_size,
            input_size=input_size,
            backbone=_backbone(backbone),
            norm="sync_batch",
        ),
    )


def _experiment(
    task: config.PanopticDeepLabTaskConfig,
    *,
    train_steps: int,
    batch_size: int,
    learning_rate: float,
) -> cfg.ExperimentConfig:
    task.train_data.global_batch_size = batch_size
    task.validation_data.global_batch_size = 8
    return cfg.ExperimentConfig(
        task=task,
        trainer=optimization.trainer_config(
            train_steps=train_steps,
            optimizer="adam",
            optimizer_options={},
            schedule="polynomial",
            schedule_options={
                "initial_learning_rate": learning_rate,
                "end_learning_rate": 0.0,
                "power": 0.9,
            },
            warmup_steps=1000,
        ),
    )


def panoptic_deeplab_shapes() -> cfg.ExperimentConfig:
    """Panoptic-DeepLab on the embedded data set, for two CPU cores.

    `panoptic-tf train --experiment=panoptic_deeplab_shapes --mode=train_and_eval --model_dir=...
    --params_override=task.train_data.input_path=data/train-*,...`

    What it reaches is in docs/results.md.
    """
    size = list(shapes_experiment.SIZE)
    model = config.Model(
        train_size=size,
        input_size=size,
        backbone=shapes_experiment.build_backbone_config(output_stride=16),
        aspp_dilation_rates=[1, 2, 3],
        aspp_dropout=0.0,
        semantic=config.Branch(
            aspp_channels=64, decoder_channels=48, low_level_channels=[32, 16], head_channels=48
        ),
        instance=config.Branch(
            aspp_channels=48, decoder_channels=32, low_level_channels=[32, 16], head_channels=32
        ),
        use_separable_conv=False,
        postprocessor=config.PostProcessor(top_k=32, stuff_area=64),
    )
    task = config.PanopticDeepLabTaskConfig(
        dataset_info="shapes",
        model=model,
        targets=config.Targets(sigma=4, small_instance_area=256),
        losses=config.Losses(offset_weight=0.1),
    )
    return shapes_experiment.build_experiment(
        task, train_steps=9_000, validation_interval=3000, exclude_from_muon=["predictor"]
    )


def panoptic_deeplab_small() -> cfg.ExperimentConfig:
    """Panoptic-DeepLab with ResNet-18 for data of one's own, on one GPU or a CPU.

    `panoptic-tf train --experiment=panoptic_deeplab_small --model_dir=...
    --params_override=task.dataset_info=data/dataset_info.json,...`

    10,000 steps of 8 images of 512x512, from random weights or a backbone's. There is no published
    PQ; `panoptic-tf init` fits sizes, schedule and thresholds to a data set.
    """
    size = list(small_experiment.SIZE)
    model = config.Model(
        train_size=size,
        input_size=size,
        backbone=small_experiment.build_backbone_config(output_stride=16),
        norm="sync_batch",
        aspp_dropout=0.0,
        semantic=config.Branch(aspp_channels=128, decoder_channels=128, head_channels=128),
        instance=config.Branch(aspp_channels=128, decoder_channels=64, head_channels=32),
        postprocessor=config.PostProcessor(top_k=100),
    )
    task = config.PanopticDeepLabTaskConfig(model=model, losses=config.Losses(offset_weight=0.1))
    return small_experiment.build_experiment(task)


for _name in _BACKBONES:
    for _dataset, _panoptic in (
        ("coco", panoptic_deeplab_coco),
        ("cityscapes", panoptic_deeplab_cityscapes),
    ):
        exp_factory.register_config_factory(f"panoptic_deeplab_{_name}_{_dataset}")(
            functools.partial(_panoptic, _name)
        )
        exp_factory.register_config_factory(f"deeplabv3plus_{_name}_{_dataset}")(
            functools.partial(deeplabv3plus, _panoptic, _name)
        )
exp_factory.register_config_factory("panoptic_deeplab_shapes")(panoptic_deeplab_shapes)
exp_factory.register_config_factory("panoptic_deeplab_small")(panoptic_deeplab_small)
