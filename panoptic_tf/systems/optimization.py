"""Optimisers and schedules that the experiments share."""

from typing import Any, Dict, Optional

from official.core import config_definitions as cfg
from official.modeling import optimization


def trainer_config(
    *,
    train_steps: int,
    optimizer: str,
    optimizer_options: Dict[str, Any],
    schedule: str,
    schedule_options: Dict[str, Any],
    warmup_steps: int = 0,
    ema: Optional[Dict[str, Any]] = None,
    steps_per_loop: int = 100,
    checkpoint_interval: int = 1000,
    validation_interval: int = 10000,
) -> cfg.TrainerConfig:
    """A trainer config with one optimiser and one schedule of `official.modeling.optimization`.

    Args:
      train_steps: of the whole run.
      optimizer: `adam_experimental`, `adamw_experimental`, `sgd`, ...
      optimizer_options: its fields; `global_clipnorm` clips gradients.
      schedule: `polynomial`, `cosine`, `stepwise` or `constant`.
      schedule_options: its fields; `decay_steps` is `train_steps` where that is a field.
      warmup_steps: of a linear warm-up from 0.
      ema: fields of the exponential moving average of the weights, None: no average.
      steps_per_loop: steps between two looks at the loss.
      checkpoint_interval: steps between checkpoints.
      validation_interval: steps between evaluations.
    """
    if schedule in ("polynomial", "cosine"):
        schedule_options = {"decay_steps": train_steps, **schedule_options}
    settings = {
        "optimizer": {"type": optimizer, optimizer: optimizer_options},
        "learning_rate": {"type": schedule, schedule: schedule_options},
        "warmup": {
            "type": "linear",
            "linear": {"warmup_steps": warmup_steps, "warmup_learning_rate": 0},
        },
    }
    if not warmup_steps:
        del settings["warmup"]
    if ema is not None:
        settings["ema"] = ema
    return cfg.TrainerConfig(
        train_steps=train_steps,
        steps_per_loop=steps_per_loop,
        summary_interval=steps_per_loop,
        checkpoint_interval=checkpoint_interval,
        validation_interval=validation_interval,
        optimizer_config=optimization.OptimizationConfig(settings),
    )
