"""Panoptic FPN, Mask R-CNN and Semantic FPN for the trainer."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf
from official.core import task_factory

from panoptic_tf.inputs import pipeline
from panoptic_tf.structures import Tensors
from panoptic_tf.systems import task
from panoptic_tf.systems.panoptic_fpn import config, ideal, instance_branch, losses, network
from panoptic_tf.systems.panoptic_fpn import targets as targets_lib

_UPDATES = ("combined", "alternating")


@task_factory.register_task_cls(config.PanopticFPNTaskConfig)
class PanopticFPNTask(task.PanopticTask):
    """See `task.PanopticTask`."""

    def build_networks(self) -> Tuple[tf.keras.Model, tf.keras.Model]:
        """See base class."""
        return network.build_networks(
            self.task_config.model,
            self.dataset_info,
            max_instances=self.task_config.targets.max_instances,
        )

    def build_loss(self) -> task.Loss:
        """See base class."""
        options = self.task_config.losses.as_dict()
        updates = options.pop("updates")
        if updates not in _UPDATES:
            raise ValueError(
                f"task.losses.updates must be one of {', '.join(_UPDATES)}, got {updates!r}."
            )
        channels = network.channel_of_category(self.task_config.model, self.dataset_info)
        options["class_weights"] = self.class_weights.of_channels(channels)
        return losses.PanopticFPNLoss(**options)

    def build_target_generator(self) -> pipeline.TargetGenerator:
        """See base class."""
        model = self.task_config.model
        has_instances = network.has_instance_branch(model, self.dataset_info)
        return targets_lib.PanopticFPNTargetGenerator(
            thing_ids=self.dataset_info.thing_ids if has_instances else (),
            channel_of_category=network.channel_of_category(model, self.dataset_info),
            anchors=instance_branch.build_anchors(model, model.train_size),
            **self.task_config.targets.as_dict(),
        )

    def loss_names(self) -> Tuple[str, ...]:
        """See base class."""
        model, names = self.task_config.model, ()
        if network.has_instance_branch(model, self.dataset_info):
            names += losses.INSTANCE_LOSSES
        if network.has_semantic_branch(model, self.dataset_info):
            names += losses.SEMANTIC_LOSSES
        return names

    def loss_factors(self, step: tf.Tensor) -> Tensors:
        """See base class."""
        if self.task_config.losses.updates == "combined":
            return {}
        is_semantic = tf.cast(step % 2, tf.float32)
        return {
            name: is_semantic if name in losses.SEMANTIC_LOSSES else 1.0 - is_semantic
            for name in self.loss_names()
        }

    def float_layers(self) -> Tuple[str, ...]:
        """See base class."""
        return (*super().float_layers(), "objectness", "deltas", "classes")

    def ideal_prediction(self, targets: Tensors, image_info: tf.Tensor) -> Tensors:
        """See base class."""
        model = self.task_config.model
        categories = network.semantic_categories(model, self.dataset_info)
        processor = network.build_postprocessor(
            model, self.dataset_info, categories=[*categories, 0]
        )
        outputs = ideal.ideal_outputs(
            targets, num_channels=len(categories), mask_size=2 * model.roi.mask_pool_size
        )
        return processor(outputs, image_info)
