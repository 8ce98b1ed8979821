"""Checks values for an experiment's config against its keys and their types."""

from __future__ import annotations

import collections.abc
import difflib
import math
import typing
from typing import Any, Dict, Iterator, Mapping, Tuple

from official.modeling import hyperparams

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_MAX_SHOWN_KEYS = 12


def find_problems(config: hyperparams.Config, values: Mapping[str, Any]) -> Iterator[str]:
    """What keeps `config.override(values)` from making sense, one line each.

    Args:
      config: of an experiment.
      values: by key, nested as the config is.
    """
    return _problems_of_keys(config, values, (), config)


def fits(config: hyperparams.Config, values: Mapping[str, Any]) -> bool:
    """Whether there is no problem."""
    return next(find_problems(config, values), None) is None


def count_equal(config: hyperparams.Config, values: Mapping[str, Any]) -> int:
    """How many of the values the config has already."""
    count = 0
    for key, value in values.items():
        current = getattr(config, key, None)
        if isinstance(value, Mapping) and isinstance(current, hyperparams.Config):
            count += count_equal(current, value)
        else:
            count += current == value
    return count


def _problems_of_keys(config, values, path: Tuple[str, ...], root) -> Iterator[str]:
    types = _types(config)
    if not types:  # Takes any keys.
        return
    for key, value in values.items():
        name = ".".join((*path, str(key)))
        if key not in types:
            yield f"there is no key {name}.{_suggestion(name, root)}"
            continue
        current, wanted = config.__dict__[key], types[key]
        if isinstance(value, Mapping) and _is_config(wanted, current):
            nested = current or config._get_subconfig_type(key)()
            yield from _problems_of_keys(nested, value, (*path, key), root)
        elif not _fits(value, wanted) and not (value is None and current is None):
            yield f"{name} {_wish(name, current, wanted)}, got {value!r}.{_hint(value, wanted)}"
        else:
            yield from _problems_of_value(config, key, name, value)


def _problems_of_value(config, key: str, name: str, value: Any) -> Iterator[str]:
    """What the type alone does not say."""
    if isinstance(config, hyperparams.OneOfConfig) and key == "type":
        if "/" not in str(value) and not _can_select(config, value):
            choices = [n for n in _types(config) if n != "type" and _can_select(config, n)]
            yield f"{name} must be one of {', '.join(choices)}, got {value!r}."
    elif key.endswith("_size") and isinstance(value, list):
        is_optional = not value and type(config)().__dict__[key] == []
        if not is_optional and (len(value) != 2 or min(value) < 1):
            yield f"{name} must be [height, width] in pixels, got {value}."


def _can_select(config: hyperparams.OneOfConfig, name: Any) -> bool:
    try:
        config.replace(type=name).get()
    except ValueError:
        return False
    return True


def _types(config: hyperparams.Config) -> Dict[str, Any]:
    return type(config)._get_annotations()


def _is_config(wanted: Any, current: Any) -> bool:
    kinds = (wanted, *typing.get_args(wanted))
    is_declared = any(isinstance(k, type) and issubclass(k, hyperparams.Config) for k in kinds)
    return is_declared or isinstance(current, hyperparams.Config)


def _fits(value: Any, wanted: Any) -> bool:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Union:
        return any(_fits(value, one) for one in arguments)
    if wanted is type(None):
        return value is None
    if wanted is float:
        return type(value) in (int, float) and not math.isnan(value)
    if wanted in (bool, int, str):
        return type(value) is wanted
    if origin is tuple and arguments[-1:] != (...,):
        return isinstance(value, (list, tuple)) and (
            len(value) == len(arguments) and all(map(_fits, value, arguments))
        )
    if origin in (list, tuple, collections.abc.Sequence):
        return isinstance(value, (list, tuple)) and all(_fits(v, arguments[0]) for v in value)
    if origin is dict or isinstance(wanted, type) and issubclass(wanted, hyperparams.Config):
        return isinstance(value, Mapping)
    return True


def _wish(name: str, current: Any, wanted: Any) -> str:
    if isinstance(current, hyperparams.Config):
        example = next(iter(_types(current)), None)
        return f"holds keys with values{f', such as {name}.{example}' if example else ''}"
    if isinstance(current, (list, tuple)) and current:
        return f"must be {_words(wanted)} such as {current}"
    return f"must be {_words(wanted)}"


def _words(wanted: Any) -> str:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Union:
        return " or ".join(map(_words, arguments))
    if origin in (list, tuple, collections.abc.Sequence):
        return f"a list of {_MANY.get(arguments[0], 'values')}"
    return _WORDS.get(wanted, "keys with values")


def _hint(value: Any, wanted: Any) -> str:
    """How the value is written in YAML so that it has the wanted type."""
    if type(value) is float and math.isfinite(value) and _fits(round(value), wanted):
        return f" Write {round(value)}." if value.is_integer() else ""
    if type(value) in (int, float) and _fits(str(value), wanted):
        return f" Quote it: '{value}'."
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return ""
    return f" Write {number}." if _fits(number, wanted) else ""


def _suggestion(name: str, config: hyperparams.Config) -> str:
    names = list(_names(config))
    parent, _, last = name.rpartition(".")
    beside = {n.rpartition(".")[2]: n for n in names if n.rpartition(".")[0] == parent}
    close = [other for other in names if other.rpartition(".")[2] == last]
    close = close or [beside[n] for n in difflib.get_close_matches(last, beside, n=1)]
    close = close or difflib.get_close_matches(name, names, n=1, cutoff=0.85)
    if close:
        return f" Did you mean {' or '.join(close[:3])}?"
    shown = list(beside)[:_MAX_SHOWN_KEYS]
    return f" There are {', '.join(shown)}{', ...' if len(beside) > len(shown) else ''}."


def _names(config: hyperparams.Config, path: Tuple[str, ...] = ()) -> Iterator[str]:
    for key in _types(config):
        yield ".".join((*path, key))
        value = config.__dict__[key]
        if isinstance(value, hyperparams.Config):
            yield from _names(value, (*path, key))
