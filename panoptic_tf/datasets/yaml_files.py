"""Reads untrusted YAML: plain values, neither aliases, which a small file can nest to a huge one,
nor objects.
"""

from __future__ import annotations

from typing import Any, Dict

import yaml

from panoptic_tf.datasets import files

_MAX_DEPTH = 20


def read_object(path: str, *, expected: str) -> Dict[Any, Any]:
    """Reads a YAML file that is an object.

    Args:
      path: the file.
      expected: what the file should be, for the error message.

    Raises:
      ValueError: the file cannot be read, is not YAML, or is no object.
    """
    parsed = read(path, expected=expected)
    if not isinstance(parsed, dict):
        raise ValueError(
            f"{path}: must be an object, got {files.shown(parsed)}; expected {expected}."
        )
    return parsed


def read(path: str, *, expected: str) -> Any:
    """Reads a YAML file of any content.

    Args:
      path: the file.
      expected: what the file should be, for the error message.

    Raises:
      ValueError: the file cannot be read or is not YAML.
    """
    content = files.read_bytes(path, expected=expected)
    try:
        _check_events(content)
        parsed = yaml.safe_load(content)
        repr(parsed)  # Fails on integers that no message can show.
    except Exception as error:  # PyYAML raises what it meets: KeyError of `!!bool x`.
        reason = files.shorten(" ".join(str(error).split()), most=200)
        raise ValueError(f"{path} is not YAML ({reason}); expected {expected}.") from error
    return parsed


def _check_events(content: bytes) -> None:
    """Refuses aliases and deep nesting, before anything is built."""
    depth = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"the alias *{event.anchor} is not read")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
