"""What follows the length of a training and its batch size, where only they are changed.

The steps of a schedule and of its warm-up stay the same share of the training; the learning rate
stays proportional to the batch (linear scaling rule, arXiv:1706.02677, section 2.1).
"""

from __future__ import annotations

from typing import AbstractSet, Any, Dict, List, Set, Tuple

from official.core import config_definitions as cfg

from panoptic_tf.systems import weight_settings

_STEPS = "trainer.train_steps"
_BATCH = "task.train_data.global_batch_size"
_RATE = "trainer.optimizer_config.learning_rate"
_WARMUP = "trainer.optimizer_config.warmup"
_FIELDS_OF_STEPS = ("decay_steps", "total_decay_steps", "boundaries")
_FIELDS_OF_RATE = ("learning_rate", "initial_learning_rate", "end_learning_rate", "values")


def follow(
    before: cfg.ExperimentConfig,
    after: cfg.ExperimentConfig,
    *,
    changed: AbstractSet[str],
    fixed: AbstractSet[str] = frozenset(),
) -> Tuple[Dict[str, Any], List[str]]:
    """What else has to change after `trainer.train_steps` or the batch size of training has.

    Args:
      before: the experiment before a user's file or override.
      after: with it.
      changed: the keys that it sets, such as `trainer.train_steps`; they are left as they are.
      fixed: other keys to leave as they are; see `set_apart`.

    Returns:
      Values by key, and one line for each cause that says what follows it.
    """
    values: Dict[str, Any] = {}
    notes = []
    for cause, keys in _followers(after).items():
        old, new = _value(before, cause), _value(after, cause)
        if not (_is_positive(old) and _is_positive(new)) or old == new:
            continue
        if cause == _BATCH and not changed.isdisjoint(keys):
            continue  # Its rates are of this batch.
        own = {}
        for key in keys:
            value = _value(after, key)
            if value and key not in changed and key not in fixed and value == _value(before, key):
                own[key] = _scaled(value, new, old, is_whole=cause == _STEPS)
        if own:
            shown = ", ".join(f"{key} {_value(after, key)} -> {own[key]}" for key in own)
            notes.append(f"{cause} {old} -> {new}, and with it {shown}. Set these to keep them.")
        values.update(own)
    return values, notes


def set_apart(params: cfg.ExperimentConfig, changed: AbstractSet[str]) -> Set[str]:
    """Keys that a file or override sets without the one they follow; later ones leave them alone.

    Args:
      params: the experiment with it.
      changed: the keys that it sets.
    """
    followers = _followers(params)
    return {key for cause in followers for key in followers[cause] if cause not in changed} & set(
        changed
    )


def misfits(params: cfg.ExperimentConfig) -> List[str]:
    """What does not fit the length of the training, one line each; none of it is an error."""
    steps, found = params.trainer.train_steps, []
    if steps < 1:  # An error of its own.
        return []
    for key in _followers(params)[_STEPS]:
        value, reason = _value(params, key), ""
        if not value or key.startswith(f"{_RATE}.exponential."):  # Whose steps have no end.
            continue
        if isinstance(value, list):
            reason = "not all of them are reached" if max(value) >= steps else ""
        elif key.startswith(_WARMUP):
            reason = "all of it is warm-up" if value >= steps else ""
        elif value != steps:
            reason = "it does not reach its end" if value > steps else "then the rate stays"
        if reason:
            found.append(f"{key} is {value} and {_STEPS} {steps}: {reason}.")
    for name, what in (("checkpoint", "checkpoint"), ("validation", "evaluation")):
        interval = getattr(params.trainer, f"{name}_interval")
        if interval and interval > steps:
            found.append(
                f"trainer.{name}_interval is {interval} and {_STEPS} {steps}: the only {what} is "
                "at the end."
            )
    return found


def _followers(params: cfg.ExperimentConfig) -> Dict[str, List[str]]:
    """The keys of the schedule in use, by the key that they follow."""
    rate = f"{_RATE}.{_value(params, f'{_RATE}.type')}"
    warmup = f"{_WARMUP}.{_value(params, f'{_WARMUP}.type')}"
    return {
        _STEPS: [*(f"{rate}.{name}" for name in _FIELDS_OF_STEPS), f"{warmup}.warmup_steps"],
        _BATCH: [f"{rate}.{name}" for name in _FIELDS_OF_RATE],
    }


def _value(params: cfg.ExperimentConfig, key: str) -> Any:
    return weight_settings.value_of(params, key)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _scaled(value: Any, numerator: int, denominator: int, *, is_whole: bool) -> Any:
    if isinstance(value, list):
        return [_scaled(v, numerator, denominator, is_whole=is_whole) for v in value]
    if is_whole:
        return max(1, round(value * numerator / denominator))
    return float(f"{value * numerator / denominator:.6g}")
