"""The categories of a data set: the one source of category counts, thing ids, names and colours."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Dict, Mapping, Optional, Sequence, Set, Tuple

from panoptic_tf.datasets import files
from panoptic_tf.datasets.notes import Notes

FILE_NAME = "dataset_info.json"
"""Beside records and in exported models."""

_BUILT_IN_DIR = os.path.join(os.path.dirname(__file__), "categories")
_MAX_ID = 2**31 - 1
"""Ids are below it, so that one more fits 32 bits."""


@dataclasses.dataclass(frozen=True)
class Category:
    """One category.

    Attributes:
      id: contiguous id in tensors, 1..N.
      dataset_id: the id the data set's own files use.
      name: as the data set spells it.
      is_thing: whether its pixels split into instances.
      color: (red, green, blue), 0..255.
    """

    id: int
    dataset_id: int
    name: str
    is_thing: bool
    color: Tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The categories of one data set, in contiguous order; void is 0 and not among them.

    Attributes:
      name: of the data set.
      categories: in the order of their ids.
      unlabelled_id: `dataset_id` of the category that stands for what the annotations leave
        unlabelled, which they do not have themselves; None where that is void.
    """

    name: str
    categories: Tuple[Category, ...]
    unlabelled_id: Optional[int] = None

    @property
    def num_categories(self) -> int:
        """N, void not counted."""
        return len(self.categories)

    @property
    def thing_ids(self) -> Tuple[int, ...]:
        """Contiguous ids of the thing categories, ascending."""
        return tuple(c.id for c in self.categories if c.is_thing)

    @property
    def stuff_ids(self) -> Tuple[int, ...]:
        """Contiguous ids of the stuff categories, ascending."""
        return tuple(c.id for c in self.categories if not c.is_thing)

    @property
    def dataset_ids(self) -> Tuple[int, ...]:
        """The data set's own ids by contiguous id; entry 0 (void) is 0."""
        return (0,) + tuple(c.dataset_id for c in self.categories)

    @property
    def colors(self) -> Tuple[Tuple[int, int, int], ...]:
        """Colours by contiguous id; entry 0 (void) is black."""
        return ((0, 0, 0),) + tuple(c.color for c in self.categories)

    @property
    def names(self) -> Tuple[str, ...]:
        """Names by contiguous id; entry 0 is `void`."""
        return ("void",) + tuple(c.name for c in self.categories)

    def contiguous_ids(self) -> Mapping[int, int]:
        """Maps the data set's own ids to contiguous ids."""
        return {c.dataset_id: c.id for c in self.categories}

    def annotated(self) -> DatasetInfo:
        """The categories that the annotations themselves have: without `unlabelled_id`."""
        own = tuple(c for c in self.categories if c.dataset_id != self.unlabelled_id)
        return dataclasses.replace(self, categories=own, unlabelled_id=None)

    def to_coco(self) -> list[dict[str, Any]]:
        """The `categories` list of a COCO panoptic JSON file."""
        return [
            {
                "id": c.dataset_id,
                "name": c.name,
                "isthing": int(c.is_thing),
                "color": list(c.color),
            }
            for c in self.categories
        ]

    @classmethod
    def from_coco(
        cls,
        categories: Sequence[Mapping[str, Any]],
        *,
        name: str,
        source: str = "categories",
        notes: Optional[Notes] = None,
    ) -> DatasetInfo:
        """Reads the `categories` list of a COCO panoptic JSON file.

        Args:
          categories: dicts with `id` and `name`, and optionally `isthing` (default 1) and `color`,
            which is made up where it is missing or no colour.
          name: name of the data set.
          source: file name for error messages.
          notes: takes what is legal and worth a look.

        Raises:
          ValueError: the list is empty, an id is repeated or is not a positive integer, or a field
            is missing or of the wrong kind.
        """
        notes = Notes() if notes is None else notes
        if not isinstance(categories, (list, tuple)) or not categories:
            raise ValueError(f"{source}: 'categories' must be a non-empty list of categories.")
        seen: Dict[int, str] = {}
        names: Set[str] = set()
        parsed = []
        for position, item in enumerate(categories):
            category = _parse_category(item, position, source, notes)
            if category.dataset_id in seen:
                first, second = files.shown(seen[category.dataset_id]), files.shown(category.name)
                raise ValueError(
                    f"{source}: categories[{position}].id {category.dataset_id} is used twice, "
                    f"for {first} and {second}."
                )
            if category.name in names:
                notes.add("categories have the name of another", _describe(category))
            seen[category.dataset_id] = category.name
            names.add(category.name)
            parsed.append(category)
        parsed.sort(key=lambda c: c.dataset_id)
        numbered = (dataclasses.replace(c, id=i) for i, c in enumerate(parsed, start=1))
        return cls(name=name, categories=tuple(numbered))

    def check_agrees(self, categories: Any, *, source: str) -> None:
        """Checks that another file's `categories` call no id by another name.

        Args:
          categories: of the file; what is missing or malformed claims nothing.
          source: its name, for the error message.

        Raises:
          ValueError: an id has another name, or is a thing in one file and stuff in the other.
        """
        own = {c.dataset_id: c for c in self.categories}
        for item in categories if isinstance(categories, list) else []:
            found = item if isinstance(item, dict) else {}
            dataset_id, name, is_thing = (found.get(key) for key in ("id", "name", "isthing"))
            category = own.get(dataset_id) if type(dataset_id) is int else None
            if category is None:
                continue
            if isinstance(name, str) and name != category.name:
                raise ValueError(
                    f"{source}: category id {dataset_id} is {files.shown(name)}, "
                    f"and {category.name!r} in the categories of {self.name!r}. Give the same id "
                    "the same name in both files."
                )
            if is_thing in (0, 1) and bool(is_thing) != category.is_thing:
                kinds = ("stuff", "a thing")
                raise ValueError(
                    f"{source}: category id {dataset_id} ({category.name!r}) is "
                    f"{kinds[bool(is_thing)]}, and {kinds[category.is_thing]} in the categories of "
                    f"{self.name!r}. Set the same isthing in both files."
                )

    def to_json(self) -> Dict[str, Any]:
        """Plain values, of which `from_json` makes the same."""
        content: Dict[str, Any] = {"name": self.name, "categories": self.to_coco()}
        if self.unlabelled_id is not None:
            content["unlabelled_id"] = self.unlabelled_id
        return content

    @classmethod
    def from_json(cls, content: Any, *, source: str) -> DatasetInfo:
        """Reads what `to_json` returned; further fields are ignored.

        Args:
          content: of a JSON file.
          source: file name for error messages.

        Raises:
          ValueError: a field is missing or malformed.
        """
        if not isinstance(content, dict) or not isinstance(content.get("name"), str):
            raise ValueError(f"{source}: 'name' must be a string beside 'categories'.")
        info = cls.from_coco(content.get("categories", ()), name=content["name"], source=source)
        unlabelled_id = content.get("unlabelled_id")
        stuff = [c.dataset_id for c in info.categories if not c.is_thing]
        if unlabelled_id is not None and unlabelled_id not in stuff:
            raise ValueError(
                f"{source}: unlabelled_id must be the id of a stuff category, got "
                f"{files.shown(unlabelled_id)}."
            )
        return dataclasses.replace(info, unlabelled_id=unlabelled_id)

    def save(self, path: str) -> None:
        """Writes the categories as JSON, atomically."""
        files.write_bytes(path, json.dumps(self.to_json(), indent=1).encode())

    @classmethod
    def load(cls, name_or_path: str) -> DatasetInfo:
        """Loads a built-in data set (`shapes`, `coco_panoptic`, ...) or a `dataset_info.json`.

        Raises:
          ValueError: neither a built-in name nor a readable file, or the file is malformed.
        """
        path = name_or_path
        if name_or_path in built_in_names():
            path = os.path.join(_BUILT_IN_DIR, name_or_path + ".json")
        content = files.read_json(path, expected="a dataset_info.json written by `convert`")
        return cls.from_json(content, source=path)


def check_beside(records: str, info: DatasetInfo, *, advice: str = "") -> None:
    """What lies beside records as their categories must be the model's.

    Args:
      records: path or pattern of the records; where nothing lies beside them, nothing is checked.
      info: the model's categories.
      advice: ends the error message; `{path}` in it is the file.

    Raises:
      ValueError: other ids, names, or things.
    """
    path = os.path.join(os.path.dirname(records), FILE_NAME)
    if not os.path.exists(path):
        return
    found = DatasetInfo.load(path)
    own, others = (
        [(c.dataset_id, c.name, c.is_thing) for c in i.categories] for i in (info, found)
    )
    if own == others:
        return
    different = next((c for c in others if c not in own), others[0])
    raise ValueError(
        f"{path} has {found.num_categories} categories that are not the {info.num_categories} of "
        f"the model ({info.name}); the first that differs is {different[1]!r}. "
        + advice.format(path=path)
    )


def built_in_names() -> Tuple[str, ...]:
    """Names that `DatasetInfo.load` knows without a file of yours."""
    return tuple(sorted(f[:-5] for f in os.listdir(_BUILT_IN_DIR) if f.endswith(".json")))


def _parse_category(item: Any, position: int, source: str, notes: Notes) -> Category:
    field = f"{source}: categories[{position}]"
    if not isinstance(item, Mapping):
        raise ValueError(f"{field} must be an object, got {type(item).__name__}.")
    dataset_id = item.get("id")
    if type(dataset_id) is not int or not 0 <= dataset_id < _MAX_ID:
        raise ValueError(
            f"{field}.id must be an integer of 0..{_MAX_ID - 1}, got {files.shown(dataset_id)}."
        )
    name = item.get("name")
    if not isinstance(name, str) or not name or not files.is_printable(name):
        raise ValueError(f"{field}.name must be a non-empty string, got {files.shown(name)}.")
    is_thing = item.get("isthing")
    if is_thing is None:
        is_thing = 1
    if is_thing not in (0, 1):
        raise ValueError(f"{field}.isthing must be 0 or 1, got {files.shown(is_thing)}.")
    category = Category(0, dataset_id, name, bool(is_thing), _default_color(dataset_id))
    color = item.get("color")
    if isinstance(color, (list, tuple)) and _is_color(color):
        return dataclasses.replace(category, color=tuple(color))
    if color is not None:
        notes.add("colours are not three integers of 0..255; others are used", _describe(category))
    return category


def _describe(category: Category) -> str:
    return f"id {category.dataset_id} ({category.name!r})"


def _is_color(color: Sequence[Any]) -> bool:
    return len(color) == 3 and all(type(v) is int and 0 <= v <= 255 for v in color)


def _default_color(dataset_id: int) -> Tuple[int, int, int]:
    """A colour that differs from its neighbours', for data sets that bring none."""
    red, green, blue = (64 + (dataset_id * step) % 192 for step in (67, 113, 179))
    return red, green, blue
