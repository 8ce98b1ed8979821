"""What the shapes experiments share: the small backbone, the data, optimiser and schedule."""

from __future__ import annotations

from typing import Sequence

from official.core import config_definitions as cfg

from panoptic_tf.systems import config as base_config
from panoptic_tf.systems import optimization
from panoptic_tf.systems.variable_factors import VariableFactors

SIZE = (128, 128)
"""(height, width) of the images."""


def build_backbone_config(
    output_stride: int, num_blocks: Sequence[int] = (2, 2, 2, 2)
) -> base_config.Backbone:
    """A residual network of about a million parameters."""
    return base_config.Backbone(
        name="resnet",
        output_stride=output_stride,
        options={
            "block": "basic",
            "num_blocks": list(num_blocks),
            "widths": [32, 64, 96, 128],
            "stem": "deep",
            "stem_width": 16,
        },
    )


def build_experiment(
    task: cfg.TaskConfig,
    *,
    train_steps: int,
    validation_interval: int,
    exclude_from_muon: Sequence[str],
    by_variable: Sequence[VariableFactors] = (),
) -> cfg.ExperimentConfig:
    """An experiment in bfloat16, with Muon and averaged weights.

    Args:
      task: of a system; its data configs are filled in.
      train_steps: of the whole run.
      validation_interval: steps between evaluations.
      exclude_from_muon: regular expressions for the kernels that AdamW is for, which are those of
        predictors.
      by_variable: see `optimization.averaged_adamw_config`.
    """
    # All images of this data set have one scale.
    task.train_data.augmentation = base_config.Augmentation(
        scale_min=1.0, scale_max=1.0, flip_vertically=True
    )
    task.train_data.global_batch_size = 16
    task.train_data.cache = True
    task.train_data.shuffle_buffer_size = 2000
    task.validation_data.global_batch_size = 16
    return cfg.ExperimentConfig(
        runtime=cfg.RuntimeConfig(
            distribution_strategy="one_device", mixed_precision_dtype="bfloat16"
        ),
        task=task,
        trainer=optimization.averaged_adamw_config(
            train_steps=train_steps,
            learning_rate=2e-3,
            warmup_steps=300,
            steps_per_loop=100,
            validation_interval=validation_interval,
            by_variable=by_variable,
            muon_options={
                "rms_rate": 2.5,
                "momentum": 0.9,
                "exclude_from_muon": list(exclude_from_muon),
            },
        ),
    )
