"""What trained weights want of the config: how images are normalised, where blocks stride."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from official.modeling import hyperparams


def differing(task_config: hyperparams.Config, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """The settings that the config has otherwise; those that it does not know are left out.

    Args:
      task_config: of a task.
      settings: values by key, as `{"normalization.channel_order": "BGR"}`.
    """
    found = {}
    for key, wanted in settings.items():
        value: Any = task_config
        for part in key.split("."):
            value = getattr(value, part, None)
        if value is not None and _plain(value) != _plain(wanted):
            found[key] = wanted
    return found


def nested(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`, which `replace` takes."""
    found: Dict[str, Any] = {}
    for key, value in settings.items():
        *parents, leaf = key.split(".")
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return found


def as_overrides(settings: Mapping[str, Any]) -> str:
    """The value of `--params_override` that sets them."""
    return ",".join(f"task.{key}={_written(value)}" for key, value in settings.items())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    values: List[Any] = _plain(value)
    return f"[{','.join(map(str, values))}]" if isinstance(values, list) else str(value)
