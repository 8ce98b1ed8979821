"""What trained weights want of the config: how images are normalised, where blocks stride."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from official.modeling import hyperparams

_OPTIONS = "backbone.options."
_DEFAULTS = {
    "model.backbone.options.padding": "same",
    "model.backbone.options.window_size": 7,
}


def differing(task_config: hyperparams.Config, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """The settings that the config has otherwise; those that it does not know are left out.

    Options of a backbone may be absent, which is their default where that is known here, else
    another value than any.

    Args:
      task_config: of a task.
      settings: values by key, as `{"normalization.channel_order": "BGR"}`.
    """
    found = {}
    for key, wanted in settings.items():
        value = value_of(task_config, key)
        value = _DEFAULTS.get(key) if value is None else value
        is_known = value is not None or _OPTIONS in key
        if is_known and value != _plain(wanted):
            found[key] = wanted
    return found


def value_of(task_config: hyperparams.Config, key: str) -> Any:
    """What a config has for a key; None where it does not know it."""
    value: Any = task_config
    for part in key.split("."):
        value = getattr(value, part, None)
    return _plain(value)


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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
