"""Mask transformers for the trainer."""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf
from official.core import task_factory

from panoptic_tf.inputs import pipeline
from panoptic_tf.structures import Tensors
from panoptic_tf.systems import task
from panoptic_tf.systems.mask_transformer import config, ideal, losses, network, targets


@task_factory.register_task_cls(config.MaskTransformerTaskConfig)
class MaskTransformerTask(task.PanopticTask):
    """See `task.PanopticTask`."""

    def build_networks(self) -> Tuple[tf.keras.Model, tf.keras.Model]:
        """See base class."""
        return network.build_networks(self.task_config.model, self.dataset_info)

    def build_loss(self) -> task.Loss:
        """See base class.

        Raises:
          ValueError: there may be more segments than queries.
        """
        queries = self.task_config.model.num_queries
        segments = self.task_config.targets.max_segments
        if segments > queries:
            raise ValueError(
                f"task.targets.max_segments ({segments}) must not be larger than "
                f"the network's num_queries ({queries}): each segment gets a query of its own."
            )
        options = self.task_config.losses.as_dict()
        categories = range(self.dataset_info.num_categories + 1)
        options["class_weights"] = self.class_weights.of_channels(list(categories))
        return losses.MaskTransformerLoss(**options)

    def build_target_generator(self) -> pipeline.TargetGenerator:
        """See base class."""
        return targets.MaskTransformerTargetGenerator(**self.task_config.targets.as_dict())

    def loss_names(self) -> Tuple[str, ...]:
        """See base class."""
        names = ("loss/class", "loss/mask", "loss/dice")
        return (*names, "loss/semantic") if self.task_config.model.semantic_branch else names

    def float_layers(self) -> Tuple[str, ...]:
        """See base class."""
        heads = ("class_predictor", "mask_embedding_2")
        if self.task_config.model.architecture == "encoder":
            return heads
        return (*heads, "mask_features", "offset")

    def ideal_prediction(self, targets: Tensors, image_info: tf.Tensor) -> Tensors:
        """See base class."""
        processor = network.build_postprocessor(self.task_config.model, self.dataset_info)
        outputs = ideal.ideal_outputs(
            targets,
            num_classes=self.dataset_info.num_categories,
            mask_stride=self.task_config.model.mask_stride,
        )
        return processor(outputs, image_info)
