"""Panoptic FCN for the trainer."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf
from official.core import task_factory

from panoptic_tf.inputs import pipeline
from panoptic_tf.structures import Tensors
from panoptic_tf.systems import task
from panoptic_tf.systems.panoptic_fcn import config, ideal, losses, network
from panoptic_tf.systems.panoptic_fcn import targets as targets_lib


@task_factory.register_task_cls(config.PanopticFCNTaskConfig)
class PanopticFCNTask(task.PanopticTask):
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
        channels = network.channel_of_category(self.task_config.model, self.dataset_info)
        options["class_weights"] = self.class_weights.of_channels(channels)
        return losses.PanopticFCNLoss(**options)

    def build_target_generator(self) -> pipeline.TargetGenerator:
        """See base class."""
        model = self.task_config.model
        levels = network.head_levels(model)
        options = self.task_config.targets.as_dict()
        scales = [options.pop("min_scales"), options.pop("max_scales")]
        if any(len(of_levels) != len(levels) for of_levels in scales):
            raise ValueError(
                "task.targets.min_scales and max_scales must have one entry for each of levels "
                f"{', '.join(levels)} (task.model.min_level), got {scales[0]} and {scales[1]}."
            )
        return targets_lib.PanopticFCNTargetGenerator(
            thing_ids=self.dataset_info.thing_ids,
            stuff_channel_of_category=network.channel_of_category(model, self.dataset_info),
            num_stuff_channels=len(network.stuff_categories(model, self.dataset_info)),
            levels=levels,
            instance_scales=list(zip(*scales)),
            **options,
        )

    def loss_names(self) -> Tuple[str, ...]:
        """See base class."""
        things = losses.THING_LOSSES if self.dataset_info.thing_ids else ()
        has_stuff = network.stuff_categories(self.task_config.model, self.dataset_info)
        return things + (losses.STUFF_LOSSES if has_stuff else ())

    def float_layers(self) -> Tuple[str, ...]:
        """See base class."""
        return ("centers", "stuff", "offset")

    def ideal_prediction(self, targets: Tensors, image_info: tf.Tensor) -> Tensors:
        """See base class."""
        processor = network.build_postprocessor(self.task_config.model, self.dataset_info)
        return processor(ideal.ideal_outputs(targets), image_info)
