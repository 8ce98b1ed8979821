"""What the small experiments of all systems share: ResNet-18, images of 512x512, the schedule.

They are for data of one's own, on one GPU or a CPU, from random weights or from a backbone's
(`task.init_checkpoint` with `task.init_checkpoint_modules=backbone`): no norm is frozen.
`panoptic-tf init` fits them to a data set.
"""

from __future__ import annotations

from typing import Sequence

from official.core import config_definitions as cfg

from panoptic_tf.systems import config as base_config
from panoptic_tf.systems import optimization
from panoptic_tf.systems.variable_factors import VariableFactors

SIZE = (512, 512)
"""(height, width) that images are fitted into."""


def build_backbone_config(output_stride: int) -> base_config.Backbone:
    """ResNet-18 whose norm takes its statistics from all replicas."""
    return base_config.Backbone(name="resnet18", norm="sync_batch", output_stride=output_stride)


def build_experiment(
    task: cfg.TaskConfig,
    *,
    train_steps: int = 10_000,
    learning_rate: float = 1e-3,
    by_variable: Sequence[VariableFactors] = (),
) -> cfg.ExperimentConfig:
    """An experiment of batches of 8 images, AdamW and averaged weights.

    Args:
      task: of a system; its data configs are filled in.
      train_steps: of the whole run.
      learning_rate: after the warm-up.
      by_variable: see `optimization.OptimizationConfig`.
    """
    task.train_data.augmentation = base_config.Augmentation(
        scale_min=0.7, scale_max=1.4, brightness=0.1, contrast=0.2, saturation=0.2, hue=0.05
    )
    task.train_data.global_batch_size = 8
    task.validation_data.global_batch_size = 4
    return cfg.ExperimentConfig(
        runtime=cfg.RuntimeConfig(distribution_strategy="one_device"),
        task=task,
        trainer=optimization.averaged_adamw_config(
            train_steps=train_steps,
            learning_rate=learning_rate,
            warmup_steps=500,
            steps_per_loop=50,
            validation_interval=2500,
            by_variable=by_variable,
        ),
    )
