"""The files of a folder as recognition sees them: their names, and what its JSON files hold."""

from __future__ import annotations

import collections
import functools
import itertools
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Set

from panoptic_tf.datasets import files

_MAX_FILES = 500_000
_MAX_DEPTH = 4
_MAX_JSON_FILES = 50

LABELME, PANOPTIC, INSTANCES, BOXES = "labelme", "panoptic", "instances", "boxes"
"""Kinds of JSON files: one image's shapes, and COCO's three."""


class JsonFile(NamedTuple):
    """What a JSON file holds.

    Attributes:
      kind: one of those above; empty where it is nothing that is read here.
      first_image, first_png: of COCO files, the names of the first image and the first id PNG.
    """

    kind: str = ""
    first_image: str = ""
    first_png: str = ""


class Listing:
    """The files of a folder, or one file and those beside it.

    Attributes:
      root: the folder.
      given: what was asked for, the folder or a file in it.
      names: paths below the folder, relative to it, in order of their depth.

    Raises:
      ValueError: there is nothing at the path.
    """

    def __init__(self, path: str):
        if not os.path.exists(path):
            raise ValueError(f"{path}: no such file or folder of annotations.")
        self.given = path
        self.root = path if os.path.isdir(path) else os.path.dirname(path) or "."
        found = itertools.islice(_walk(self.root), _MAX_FILES)
        self.names = sorted(found, key=lambda name: (name.count(os.sep), name))
        if os.path.isdir(path):
            self.candidates = self.names
        else:
            self.candidates = [os.path.basename(path)]

    def with_ending(self, *endings: str) -> List[str]:
        """Paths of the files that were asked for and whose names end so."""
        return [
            os.path.join(self.root, name)
            for name in self.candidates
            if name.lower().endswith(endings)
        ]

    def has(self, *parts: str) -> bool:
        """Whether there is such a file or folder below the root."""
        return os.path.exists(os.path.join(self.root, *parts))

    def of_kind(self, kind: str) -> List[str]:
        """Paths of the JSON files of a kind."""
        return [path for path, found in self.json_files.items() if found.kind == kind]

    def folders_of(self, file_name: str, *, near: str) -> List[str]:
        """The folders that hold a file of this name, the nearest to another file first."""
        wanted = os.path.normpath(file_name)
        found = [name for name in self.names if (os.sep + name).endswith(os.sep + wanted)]
        paths = [os.path.join(self.root, name)[: -len(wanted)].rstrip(os.sep) for name in found]
        beside = os.path.abspath(os.path.dirname(near))

        def is_near(folder: str) -> int:
            return len(os.path.commonpath([os.path.abspath(folder), beside]))

        return sorted((path or "." for path in paths), key=is_near, reverse=True)

    def describe(self) -> str:
        """What is there, in a line."""
        counts = collections.Counter(
            os.path.splitext(name)[1].lower() or "without ending" for name in self.candidates
        )
        kinds = ", ".join(f"{n} {ending}" for ending, n in counts.most_common(6)) or "nothing"
        folders = sorted({name.split(os.sep)[0] for name in self.candidates if os.sep in name})
        shown = ", ".join(folders[:8]) + (", ..." if len(folders) > 8 else "")
        return f"{kinds}" + (f"; folders {shown}" if folders else "")

    @property
    def num_unread(self) -> int:
        """Number of JSON files that are not in `json_files`, for there are many."""
        return len(self.with_ending(".json")) - len(self.json_files)

    @functools.cached_property
    def json_files(self) -> Dict[str, JsonFile]:
        """What the JSON files hold, by path: the first 50, or all if these are LabelMe's."""
        paths = self.with_ending(".json")
        found = {path: _read_json(path) for path in paths[:_MAX_JSON_FILES]}
        if {one.kind for one in found.values()} == {LABELME}:  # One an image: so are the others.
            found.update(dict.fromkeys(paths[_MAX_JSON_FILES:], JsonFile(LABELME)))
        return found


def _walk(root: str) -> Iterator[str]:
    """Names of files, relative; hidden ones are not seen, nor what lies too deep."""
    seen: Set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        relative = os.path.relpath(folder, root)
        depth = 0 if relative == "." else relative.count(os.sep) + 1
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".")
            and depth < _MAX_DEPTH
            and _leads_on(os.path.join(folder, name), root, seen)
        ]
        for name in sorted(names):
            if not name.startswith("."):
                yield name if depth == 0 else os.path.join(relative, name)


def _leads_on(folder: str, root: str, seen: Set[str]) -> bool:
    """Whether a folder is none that is seen anyway: a link into the root, or a second link."""
    if not os.path.islink(folder):
        return True
    target, root = os.path.realpath(folder), os.path.realpath(root)
    if os.path.commonpath([target, root]) in (target, root) or target in seen:
        return False
    seen.add(target)
    return True


def _read_json(path: str) -> JsonFile:
    try:
        content = files.read_json(path, expected="annotations")
    except ValueError:
        return JsonFile()
    if not isinstance(content, dict):
        return JsonFile()
    if isinstance(content.get("shapes"), list) and "imagePath" in content:
        return JsonFile(LABELME)
    if not all(isinstance(content.get(k), list) for k in ("images", "annotations", "categories")):
        return JsonFile()
    firsts = [_first_name(content[key]) for key in ("images", "annotations")]
    return JsonFile(_kind_of_coco(content["annotations"]), *firsts)


def _first_name(items: List[Any]) -> str:
    names = (item.get("file_name") for item in items if isinstance(item, dict))
    return next((name for name in names if isinstance(name, str)), "")


def _kind_of_coco(annotations: List[Any]) -> str:
    items = [item for item in annotations if isinstance(item, dict)]
    if any("segments_info" in item for item in items):
        return PANOPTIC
    # COCO's files of keypoints have the masks of its instances again.
    of_masks = [item for item in items if not (item.get("keypoints") or item.get("caption"))]
    if any(item.get("segmentation") for item in of_masks):
        return INSTANCES
    return BOXES if of_masks else ""
