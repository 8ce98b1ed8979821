"""Other categories for a data set of whatever format: merged, renamed, dropped, recoloured.

The map is a YAML (or JSON) file:

    categories:
    - {name: vehicle, from: [car, truck, bus], isthing: 1, color: [0, 0, 142]}
    - {name: road, from: [road, parking]}
    - {name: person}
    void: [sky]
    others: error

- `categories` are those of the result, their ids 1..N in this order. `from` names categories of the
  source; default the one of the same name. `isthing` defaults to theirs, where they agree; `color`
  to that of the first.
- `void` names categories whose pixels become void.
- `others`: what becomes of categories that the file does not name: `error` (default), `void`, or
  `keep`, behind the others as they are.

What becomes of segments and instances: see `recategorizing`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from panoptic_tf.datasets import files, json_fields, manifest, yaml_files
from panoptic_tf.datasets.checks import LoadedAnnotation
from panoptic_tf.datasets.dataset_info import Category, DatasetInfo
from panoptic_tf.datasets.importers.source import Source
from panoptic_tf.datasets.recategorizing import CategoryMap, remap

OTHERS = ("error", "void", "keep")
"""What becomes of categories that a map does not name."""

_EXPECTED = "a map of categories, as docs/data.md describes it"
_MOST_COMPARED = 100
"""Characters of a name that others are compared with."""

_KEYS = ("categories", "void", "others")
_CATEGORY_KEYS = ("name", "from", "isthing", "color")


def apply(path: str, source: Source) -> Source:
    """Gives a source the categories of a map.

    Args:
      path: the file.
      source: what an importer returned.

    Returns:
      The same images with other categories; the map is in the fingerprint.

    Raises:
      ValueError: the file is malformed or does not fit the source; the message names file and
        field.
    """
    category_map = read(path, source.dataset_info)
    description = {**source.description, "map": os.path.abspath(path)}
    # How many of them are left shows when they are read.
    description.pop("num_instances", None)
    return dataclasses.replace(
        source,
        dataset_info=category_map.dataset_info,
        read=functools.partial(_read, read=source.read, category_map=category_map),
        fingerprint={**source.fingerprint, "map_sha256": manifest.sha256_of_file(path)},
        description=description,
    )


def read(path: str, source_info: DatasetInfo) -> CategoryMap:
    """Reads a map.

    Args:
      path: the file.
      source_info: the categories of the source.

    Raises:
      ValueError: malformed, or it does not fit the source; the message names file and field.
    """
    content = yaml_files.read_object(path, expected=_EXPECTED)
    _check_keys(path, content, _KEYS)
    others = content.get("others", OTHERS[0])
    if others not in OTHERS:
        raise ValueError(
            f"{path}: others must be one of {', '.join(OTHERS)}, got {files.shown(others)}."
        )
    names = _Names(path, source_info)
    items = content.get("categories", [])
    if not isinstance(items, list):
        raise ValueError(f"{path}: categories must be a list of categories; expected {_EXPECTED}.")
    results = [_parse(path, position, item, names) for position, item in enumerate(items)]
    if content.get("void") is not None:
        names.take_all(f"{path}: void", content["void"])
    left = names.left()
    if others == "keep":
        results += [(category, [category]) for category in left]
    elif left and others == "error":
        raise ValueError(
            f"{path}: does not name {len(left)} categories of {source_info.name!r}: "
            f"{files.shorten(', '.join(repr(c.name) for c in left), most=300)}. Name them under "
            "'categories' or 'void', or set others to void or keep."
        )
    _check_names(path, [category.name for category, _ in results])
    numbered = [
        dataclasses.replace(category, id=number, dataset_id=number)
        for number, (category, _) in enumerate(results, start=1)
    ]
    new_ids = {
        old.dataset_id: number for number, (_, olds) in enumerate(results, start=1) for old in olds
    }
    return CategoryMap(source_info, DatasetInfo(source_info.name, tuple(numbered)), new_ids)


def _read(
    image: Any, *, read: Callable[[Any], LoadedAnnotation], category_map: CategoryMap
) -> LoadedAnnotation:
    """`Source.read` of the result."""
    return remap(read(image), category_map)


class _Names:
    """The categories of the source by name, each of which a map uses once."""

    def __init__(self, path: str, info: DatasetInfo):
        self._info = info
        self._by_name: Dict[str, List[Category]] = {}
        for category in info.categories:
            self._by_name.setdefault(category.name.strip(), []).append(category)
        self._used: Dict[str, str] = {}

    def take_all(self, field: str, names: Any) -> List[Category]:
        """The categories of a list of names."""
        if not isinstance(names, list) or not names:
            raise ValueError(f"{field} must be a list of names, got {files.shown(names)}.")
        found = []
        for position, name in enumerate(names):
            found += self.take(f"{field}[{position}]", name)
        return found

    def take(self, field: str, name: Any) -> List[Category]:
        """The categories of a name; of two that have it both."""
        name = _name(field, name)
        if name not in self._by_name:
            near = difflib.get_close_matches(name[:_MOST_COMPARED], self._by_name, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{field} {files.shown(name)} is no category of {self._info.name!r}.{hint}"
            )
        if name in self._used:
            raise ValueError(f"{field} {name!r} is used already, by {self._used[name]}.")
        self._used[name] = field
        return self._by_name[name]

    def left(self) -> List[Category]:
        """The categories that no name was taken of, in the order of the source."""
        return [c for c in self._info.categories if c.name.strip() not in self._used]


def _parse(path: str, position: int, item: Any, names: _Names) -> Tuple[Category, List[Category]]:
    """A category of the result, its ids not set, and those of the source that it is made of."""
    field = f"{path}: categories[{position}]"
    json_fields.require_object(field, item)
    _check_keys(field, item, _CATEGORY_KEYS)
    name = _name(f"{field}.name", item.get("name"))
    if "from" in item:
        olds = names.take_all(f"{field}.from", item["from"])
    else:
        olds = names.take(f"{field}.name", name)
    kinds = {old.is_thing for old in olds}
    if "isthing" in item:
        kinds = {json_fields.flag(f"{field}.isthing", item["isthing"])}
    if len(kinds) > 1:
        raise ValueError(
            f"{field}.isthing is missing, and its categories are both things and stuff. Set it to "
            "0 or 1."
        )
    color = _color(f"{field}.color", item["color"]) if "color" in item else olds[0].color
    return Category(0, 0, name, kinds.pop(), color), olds


def _name(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not files.is_printable(value):
        raise ValueError(
            f"{field} must be a name, got {files.shown(value)}. Put it in quotes where YAML reads "
            "something else."
        )
    return value.strip()


def _color(field: str, value: Any) -> Tuple[int, int, int]:
    is_color = isinstance(value, list) and len(value) == 3
    if not is_color or not all(json_fields.is_integer(v) and 0 <= v <= 255 for v in value):
        raise ValueError(
            f"{field} must be red, green and blue of 0..255, got {files.shown(value)}."
        )
    red, green, blue = value
    return red, green, blue


def _check_keys(field: str, content: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            raise ValueError(
                f"{field} has an unknown field {files.shown(key)}; known are {', '.join(known)}."
            )


def _check_names(path: str, names: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"{path}: categories must name one at least; expected {_EXPECTED}.")
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ValueError(
                f"{path}: two categories of the result are called {name!r}; others: keep may have "
                "kept one of them."
            )
