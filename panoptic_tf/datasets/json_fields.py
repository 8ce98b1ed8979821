"""Fields of untrusted JSON files: each function returns what it asks for, or names the field."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from panoptic_tf.datasets import files
from panoptic_tf.datasets.coco_writer import ImageId


def read_object(path: str, keys: Sequence[str], *, expected: str) -> Mapping[str, Any]:
    """Reads a JSON file that is an object of lists.

    Args:
      path: the file.
      keys: entries that must be lists.
      expected: what the file should be, for the error message.

    Raises:
      ValueError: not JSON, not an object, or an entry is missing or no list.
    """
    content = files.read_json(path, expected=expected)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {expected}, got a {type(content).__name__}.")
    require_lists(path, content, keys, expected=expected)
    return content


def require_lists(
    path: str, content: Mapping[str, Any], keys: Sequence[str], *, expected: str
) -> None:
    """Raises ValueError where one of the entries is missing or no list."""
    for key in keys:
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path}: '{key}' must be a list; expected {expected}.")


def require_object(field: str, item: Any) -> None:
    """Raises ValueError if the item is not an object."""
    if not isinstance(item, dict):
        raise ValueError(f"{field} must be an object, got {type(item).__name__}.")


def image_id(field: str, value: Any) -> ImageId:
    """An id of the data set: an integer or a text."""
    if is_integer(value) or (isinstance(value, str) and value):
        return value
    raise ValueError(f"{field} must be an integer or a non-empty string, got {files.shown(value)}.")


def flag(field: str, value: Any) -> bool:
    """A flag as COCO writes it."""
    if value not in (0, 1):
        raise ValueError(f"{field} must be 0 or 1, got {files.shown(value)}.")
    return bool(value)


def is_integer(value: Any) -> bool:
    """Whether it is an int, which a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def integer(field: str, value: Any, *, low: int, high: int = 2**31 - 1) -> int:
    """A whole number; 12.0 is one, as some writers put areas and boxes so."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not is_integer(value) or not low <= value <= high:
        raise ValueError(f"{field} must be an integer of {low}..{high}, got {files.shown(value)}.")
    return value
