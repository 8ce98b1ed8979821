"""Which format a file or folder of annotations has, and the arguments of its importer.

Each format is known by what only it has: keys of its JSON objects, the root of its XML, the names
of its folders. JSON and YAML files are read whole, XML files by their beginning; the importers
check what they hold.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import re
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from panoptic_tf.datasets import yaml_files
from panoptic_tf.datasets.importers import mapillary_vistas, yolo
from panoptic_tf.datasets.importers.listing import BOXES, INSTANCES, LABELME, PANOPTIC, Listing

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
"""What data sets call their splits, in names of files and folders."""


@dataclasses.dataclass(frozen=True)
class Recognition:
    """Annotations that were recognised.

    Attributes:
      format: one of `importers.FORMATS`.
      options: arguments of its importer.
      splits: what is different for each split the annotations have of their own, by its name:
        arguments of the importer; empty where they have none.
      files: what it was recognised by.
    """

    format: str
    options: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Any]]
    files: Tuple[str, ...]


def recognize(path: str, *, format_name: Optional[str] = None) -> Recognition:
    """Finds out what annotations there are.

    Args:
      path: file or folder.
      format_name: the only format to look for; default any.

    Raises:
      ValueError: there is nothing at the path, it has no format or several; the message says what
        was looked for and what is there.
    """
    listing = Listing(path)
    looked_for: Dict[str, _Recognizer] = {}
    found: List[Recognition] = []
    for recognizers in (_BY_FOLDERS, _BY_FILES):
        wanted = {k: v for k, v in recognizers.items() if format_name in (None, k)}
        looked_for.update(wanted)
        found = found or [one for _, find in wanted.values() for one in find(listing)]
    boxes = listing.of_kind(BOXES) if "coco_instances" in looked_for and not found else []
    if boxes:
        raise ValueError(
            f"{boxes[0]}: its annotations have no 'segmentation'; of boxes no masks are learnt."
            f"{_unread(listing)}"
        )
    if len(found) == 1:
        return found[0]
    if found:
        seen = "\n".join(f"  {one.format}: {', '.join(one.files)}" for one in found)
        raise ValueError(
            f"{path}: holds annotations of more than one kind:\n{seen}\n"
            f"Give --source one of these files or folders, or give --format.{_unread(listing)}"
        )
    formats = "\n".join(f"  {name}: {text}" for name, (text, _) in looked_for.items())
    hint = ""
    if any(name.lower().endswith((".zip", ".tar", ".gz", ".tgz")) for name in listing.candidates):
        hint = " Archives are not read: unpack them."
    raise ValueError(
        f"{path}: no annotations were recognised. It has {listing.describe()}.{hint}"
        f"{_unread(listing)} Looked for:\n"
        f"{formats}\nGive --format with its own flags if they are elsewhere (docs/data.md)."
    )


def _unread(listing: Listing) -> str:
    """What to say of JSON files that were not looked at."""
    count = listing.num_unread
    return f" {count} more JSON files were not looked at: name the right one." if count else ""


# COCO


def _by_split(paths: Iterable[str]) -> Optional[Dict[str, str]]:
    """The two splits of a pair of files by their names; None where they are no such pair."""
    found: Dict[str, str] = {}
    for path in paths:
        words = set(re.findall("[a-z]+", path.lower()))
        splits = [split for split, names in _SPLITS.items() if words & set(names)]
        if "test" in words and not splits:
            continue
        if len(splits) != 1 or splits[0] in found:
            return None
        found[splits[0]] = path
    return found if set(found) == set(_SPLITS) else None


def _coco(
    listing: Listing, format_name: str, paths: List[str], options: Callable[[str], Dict[str, Any]]
) -> List[Recognition]:
    """COCO files: a pair of splits is one data set, any other file stands alone."""
    relative = {os.path.relpath(path, listing.root): path for path in paths}
    pair = _by_split(relative) if len(paths) > 1 else None
    if pair is None:
        return [Recognition(format_name, options(path), {}, (path,)) for path in paths]
    splits = {split: options(relative[name]) for split, name in sorted(pair.items())}
    return [Recognition(format_name, {}, splits, tuple(relative[n] for n in pair.values()))]


def _coco_panoptic(listing: Listing) -> List[Recognition]:
    def options(path: str) -> Dict[str, Any]:
        found: Dict[str, Any] = {"panoptic_json": path}
        folder, name = os.path.split(path)
        instances = os.path.join(folder, name.replace("panoptic", "instances"))
        if instances != path and instances in listing.of_kind(INSTANCES):
            found["instances_json"] = instances
        pngs = os.path.splitext(path)[0]  # Where the importer looks for them by itself.
        if not os.path.isdir(pngs):
            folders = _folders_of(listing, listing.json_files[path].first_png, near=path)
            pngs = next((f for f in folders if "panoptic" in os.path.basename(f)), pngs)
            found["panoptic_dir"] = pngs
        return {**found, **_images_of(listing, path, without=pngs)}

    return _coco(listing, "coco_panoptic", listing.of_kind(PANOPTIC), options)


def _coco_instances(listing: Listing) -> List[Recognition]:
    def options(path: str) -> Dict[str, Any]:
        return {"source": path, **_images_of(listing, path)}

    panoptic = listing.of_kind(PANOPTIC)
    # Beside panoptic annotations they are the same images' instances, or its parts.
    paths = [] if panoptic else listing.of_kind(INSTANCES)
    return _coco(listing, "coco_instances", paths, options)


def _images_of(listing: Listing, path: str, *, without: str = "") -> Dict[str, str]:
    """The folder of the images of a COCO file."""
    first = listing.json_files[path].first_image
    folders = [f for f in _folders_of(listing, first, near=path) if f != without]
    return {"image_dir": folders[0]} if folders else {}


def _folders_of(listing: Listing, file_name: str, *, near: str) -> List[str]:
    """Folders with a file, in the listing or beside the folder of another file."""
    if not file_name:
        return []
    found = listing.folders_of(file_name, near=near)
    if found:
        return found
    above = os.path.dirname(os.path.dirname(os.path.abspath(near)))
    beside = [os.path.join(glob.escape(above), *parts) for parts in (("*",), ("images", "*"))]
    paths = [
        path
        for folder in beside
        for path in glob.glob(os.path.join(folder, glob.escape(file_name)))
    ]
    return [path[: -len(file_name)].rstrip(os.sep) for path in sorted(paths)]


# Tools


def _yolo(listing: Listing) -> List[Recognition]:
    found = []
    for path in listing.with_ending(".yaml", ".yml"):
        try:
            content = yaml_files.read_object(path, expected="the data.yaml of a YOLO data set")
        except ValueError:
            continue
        splits = [split for split in yolo.SPLITS if content.get(split)]
        if isinstance(content.get("names"), (list, dict)) and "train" in splits:
            has_val = "val" in splits and content["val"] != content["train"]
            own = {split: {"split": split} for split in ("train", "val")} if has_val else {}
            found.append(Recognition("yolo", {"source": path}, own, (path,)))
    return found


def _labelme(listing: Listing) -> List[Recognition]:
    paths = listing.of_kind(LABELME)
    if not paths:
        return []
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    options = {"source": folder}
    labels = [p for p in listing.with_ending("labels.txt") if os.path.basename(p) == "labels.txt"]
    if labels:
        options["labels"] = labels[0]
    return [
        Recognition("labelme", options, {}, (*labels[:1], f"{len(paths)} JSON files in {folder}"))
    ]


def _cvat(listing: Listing) -> List[Recognition]:
    found = []
    for path in listing.with_ending(".xml"):
        with open(path, "rb") as file:
            head = file.read(4096)
        if re.search(rb"<annotations>\s*<version>", head):
            found.append(Recognition("cvat", {"source": path}, {}, (path,)))
    return found


# Masks

_FOLDERS = {
    "source": ("masks", "semantic", "classes", "labels", "annotations", "SegmentationClass"),
    "instance_dir": ("instances", "instance", "SegmentationObject"),
    "image_dir": ("images", "image", "img", "JPEGImages"),
    "categories": ("categories.yaml", "categories.yml", "categories.json"),
}
"""Names of files and folders by the importers' arguments."""


def _masks(listing: Listing, *, with_instances: bool) -> List[Recognition]:
    options: Dict[str, Any] = {}
    for key, names in _FOLDERS.items():
        there = [name for name in names if listing.has(name)]
        if there:
            options[key] = os.path.join(listing.root, there[0])
    wanted = set(_FOLDERS) if with_instances else set(_FOLDERS) - {"instance_dir"}
    if set(options) != wanted or not listing.with_ending(".png"):
        return []
    seen = tuple(options.values())
    if with_instances:
        return [Recognition("semantic_and_instance_masks", options, {}, seen)]
    # Nothing else tells the things of a category apart.
    options["things_by_components"] = True
    return [Recognition("semantic_masks", options, {}, seen)]


# Data sets that are known by their folders


def _splits_of_folders(listing: Listing, *parts: str) -> Dict[str, Dict[str, Any]]:
    """The splits of which there is a folder; {} in a path stands for its name."""
    found = {}
    for split, names in _SPLITS.items():
        for name in names:
            if listing.has(*(part.format(name) for part in parts)):
                found[split] = {"split": split}
    return found if set(found) == set(_SPLITS) else {}


def _known(
    listing: Listing, format_name: str, folders: Mapping[str, bool], *split: str, **options: Any
) -> List[Recognition]:
    if not all(folders.values()):
        return []
    seen = tuple(os.path.join(listing.root, folder) for folder in folders)
    splits = _splits_of_folders(listing, *split)
    return [Recognition(format_name, {"source": listing.root, **options}, splits, seen)]


def _cityscapes(listing: Listing) -> List[Recognition]:
    folders = {name: listing.has(name) for name in ("gtFine", "leftImg8bit")}
    return _known(listing, "cityscapes", folders, "gtFine", "{}")


def _ade20k(listing: Listing) -> List[Recognition]:
    folders = {
        name: listing.has(name, "training")
        for name in ("images", "annotations", "annotations_instance")
    }
    return _known(listing, "ade20k_panoptic", folders, "images", "{}")


def _vistas(listing: Listing) -> List[Recognition]:
    for version in ("2.0", "1.2"):
        for path in mapillary_vistas.JSON_FILES[version]:
            if listing.has("training", path):
                return _known(
                    listing,
                    "mapillary_vistas",
                    {
                        "training/images": listing.has("training", "images"),
                        f"training/{path}": True,
                    },
                    "{}",
                    path,
                    version=version,
                )
    return []


_Recognizer = Tuple[str, Callable[[Listing], List[Recognition]]]
"""What a format is known by, and what finds it."""

_BY_FILES: Dict[str, _Recognizer] = {
    "coco_panoptic": (
        "JSON files with 'images' and, in 'annotations', 'segments_info'",
        _coco_panoptic,
    ),
    "coco_instances": (
        "JSON files with 'images' and, in 'annotations', 'segmentation'",
        _coco_instances,
    ),
    "yolo": ("a YAML file with 'names' and 'train'", _yolo),
    "labelme": ("JSON files with 'shapes' and 'imagePath'", _labelme),
    "cvat": ("an XML file whose root is 'annotations' with a 'version'", _cvat),
    "semantic_masks": (
        "categories.yaml (or .json), a folder of PNGs of classes "
        f"({', '.join(_FOLDERS['source'])}) and one of images ({', '.join(_FOLDERS['image_dir'])})",
        functools.partial(_masks, with_instances=False),
    ),
    "semantic_and_instance_masks": (
        f"the same and a folder of PNGs of instances ({', '.join(_FOLDERS['instance_dir'])})",
        functools.partial(_masks, with_instances=True),
    ),
}
_BY_FOLDERS: Dict[str, _Recognizer] = {
    "cityscapes": ("the folders gtFine and leftImg8bit", _cityscapes),
    "ade20k_panoptic": ("the folders images, annotations and annotations_instance", _ade20k),
    "mapillary_vistas": ("training/v2.0/panoptic/panoptic_2020.json or that of v1.2", _vistas),
}
"""These hold files of other formats too, and go first."""
