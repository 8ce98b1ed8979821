"""Panoptic-DeepLab and DeepLabv3+ for the trainer."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf
from official.core import task_factory

from panoptic_tf.inputs import pipeline
from panoptic_tf.structures import Prediction, Tensors
from panoptic_tf.systems import task
from panoptic_tf.systems.panoptic_deeplab import config, ideal, losses, network
from panoptic_tf.systems.panoptic_deeplab import targets as targets_lib


@task_factory.register_task_cls(config.PanopticDeepLabTaskConfig)
class PanopticDeepLabTask(task.PanopticTask):
    """See `task.PanopticTask`."""

    def build_networks(self) -> Tuple[tf.keras.Model, tf.keras.Model]:
        """See base class."""
        return network.build_networks(self.task_config.model, self.dataset_info)

    def build_loss(self) -> task.Loss:
        """See base class."""
        options = self.task_config.losses.as_dict()
        channels = range(self.dataset_info.num_categories + 1)
        options["class_weights"] = self.class_weights.of_channels(channels)
        return losses.PanopticDeepLabLoss(
            align_corners=self.task_config.model.align_corners, **options
        )

    def build_target_generator(self) -> pipeline.TargetGenerator:
        """See base class."""
        return targets_lib.PanopticDeepLabTargetGenerator(**self.task_config.targets.as_dict())

    def loss_names(self) -> Tuple[str, ...]:
        """See base class."""
        if self.task_config.model.has_instance_branch:
            return ("loss/semantic", "loss/center", "loss/offset")
        return ("loss/semantic",)

    def ideal_prediction(self, targets: Tensors, image_info: tf.Tensor) -> Tensors:
        """See base class."""
        model = self.task_config.model
        processor = network.build_postprocessor(model, self.dataset_info)
        stride = 2 ** int(model.low_level_features[-1])
        ignored = self.dataset_info.num_categories + 1
        outputs = ideal.ideal_outputs(
            targets,
            stride=stride,
            num_categories=ignored - 1,
            align_corners=model.align_corners,
        )
        if not model.has_instance_branch:
            outputs = {"semantic_logits": outputs["semantic_logits"]}
        prediction = processor(outputs, image_info)
        masks = {Prediction.CATEGORY_MASK, Prediction.SEMANTIC_MASK} & set(prediction)
        return {
            key: tf.where(value == ignored, 0, value) if key in masks else value
            for key, value in prediction.items()
        }
