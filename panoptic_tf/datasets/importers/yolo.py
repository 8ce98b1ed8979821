"""Segmentation labels of Ultralytics YOLO: a data.yaml, and a text file beside each image.

A line of a label file is a class and the corners of one polygon, as parts of width and height. All
classes are things. Pixels of several polygons go to the smaller one; instances are kept whole.
"""

from __future__ import annotations

import os
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Optional, Tuple

from panoptic_tf.datasets import files, images, manifest, yaml_files
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import (
    drawing,
    label_names,
    paired_files,
    photographs,
    polygons,
)
from panoptic_tf.datasets.importers.registry import register
from panoptic_tf.datasets.importers.source import (
    Mask,
    Size,
    Source,
    SourceImage,
    fingerprint_of_files,
    fingerprint_of_names,
)
from panoptic_tf.datasets.notes import Notes

SPLITS = ("train", "val", "test")

_EXPECTED = "the data.yaml of a YOLO data set"
_LINE = "class x1 y1 x2 y2 x3 y3 ..."
_TOLERANCE = 0.01
"""What coordinates may lie outside of the image, as Ultralytics has it."""

_NO_LABELS = "images have no label file: all of them is background"


@register("yolo")
def read_yolo(
    source: str,
    *,
    image_dir: Optional[str] = None,
    split: str = "train",
    name: Optional[str] = None,
    on_top: str = drawing.SMALLER_ON_TOP,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads one split of a data set.

    Args:
      source: the data.yaml.
      image_dir: folder of the data set; default `path` of the data.yaml, which is taken relative to
        the data.yaml and must be below it.
      split: which of train, val and test.
      name: name of the data set; default that of its folder.
      on_top: which of two polygons has the pixels of both, `smaller` or `later`.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: a file is missing or malformed; the message names file and field.
    """
    content = yaml_files.read_object(source, expected=_EXPECTED)
    root = _root(source, content) if image_dir is None else image_dir
    name = name or os.path.basename(os.path.abspath(root)) or "yolo"
    info = _read_categories(source, content, name)
    ids = frozenset(c.dataset_id for c in info.categories)
    found = [
        _image(root, file_name, ids) for file_name in _file_names(source, content, split, root)
    ]
    _check_images(found, source, split)
    label_files = [path for image in found for path in image.label_files]
    return Source(
        info,
        found,
        drawing.reader(draw, info, on_top=on_top, max_pixels=max_pixels, exif=exif),
        {
            "source_sha256": manifest.sha256_of_file(source),
            "labels_sha256": fingerprint_of_files(label_files, root),
            "images_sha256": fingerprint_of_names((image.image_file for image in found), root),
        },
        {"source": os.path.abspath(source), "image_dir": os.path.abspath(root), "part": split},
    )


def draw(image: SourceImage, size: Size) -> Iterable[Mask]:
    """The polygons of a label file; a line that comes twice counts once, as in Ultralytics."""
    seen = set()
    for path in image.label_files:
        for field, line in _lines(path, expected=f"lines '{_LINE}'"):
            if line not in seen:
                seen.add(line)
                yield _read_line(field, line, image.labels, size)


def _lines(path: str, *, expected: str) -> Iterator[Tuple[str, str]]:
    """File and number, and text, of the lines of a text file that are not empty."""
    try:
        lines = files.read_bytes(path, expected=expected).decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text; expected {expected}.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}: line {number}", line.strip()


def _read_line(field: str, line: str, ids: FrozenSet[int], size: Size) -> Mask:
    try:
        category, *values = (float(part) for part in line.split())
    except ValueError as error:
        raise ValueError(f"{field} must be numbers '{_LINE}', got {files.shown(line)}.") from error
    if len(values) == 4:
        raise ValueError(
            f"{field} is a detection label, a class and a box, not a segmentation label '{_LINE}'; "
            f"got {files.shown(line)}."
        )
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"{field} must be '{_LINE}': an even number of coordinates, at least 6, got "
            f"{len(values)} of them."
        )
    if category not in ids:
        raise ValueError(f"{field}: class {files.shown(category)} is not among 'names'.")
    for value in values:
        if not -_TOLERANCE <= value <= 1 + _TOLERANCE:
            raise ValueError(
                f"{field}: coordinates are parts of width and height and must be 0..1, got "
                f"{files.shown(value)}."
            )
    height, width = size
    points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2])]
    return Mask(int(category), polygons.encode_polygon(field, points, size))


def _read_categories(source: str, content: Dict[Any, Any], name: str) -> DatasetInfo:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ValueError(
            f"{source}: 'names' must be a list of names, or names by class, got "
            f"{files.shown(content.get('names'))}."
        )
    for number, label in names.items():
        if type(number) is not int:
            raise ValueError(
                f"{source}: the classes of 'names' must be integers, got {files.shown(number)}."
            )
        label_names.check_name(f"{source}: names[{number}]", label)
    if content.get("nc", len(names)) != len(names):
        raise ValueError(
            f"{source}: 'nc' must be {len(names)}, the number of 'names', got "
            f"{files.shown(content['nc'])}."
        )
    categories = [{"id": number, "name": label} for number, label in names.items()]
    return DatasetInfo.from_coco(categories, name=name, source=source)


def _root(source: str, content: Dict[Any, Any]) -> str:
    """The folder of the data set."""
    folder = os.path.dirname(source) or "."
    if content.get("path") in (None, ".", "./", ""):
        return folder
    advice = f"{source}: 'path' (--image_dir names another folder of the data set)"
    root = files.inside(folder, content["path"], source=advice, follow_links=True)
    if not os.path.isdir(root):
        raise ValueError(f"{advice}: {root} is no folder.")
    return root


def _file_names(source: str, content: Dict[Any, Any], split: str, root: str) -> List[str]:
    """Names of the images of a split, relative to the folder of the data set."""
    if split not in SPLITS:
        raise ValueError(
            f"split must be one of {', '.join(SPLITS)} for --format=yolo, got {files.shown(split)}."
        )
    given = content.get(split)
    entries = given if isinstance(given, list) else [given]
    found: Dict[str, None] = {}
    for position, entry in enumerate(entries):
        field = f"{source}: {split}[{position}]" if entries is given else f"{source}: '{split}'"
        if isinstance(entry, str) and entry.startswith("../"):
            # What Roboflow writes, and Ultralytics takes for a folder beside the data.yaml.
            beside = entry[len("../") :]
            entry = beside if os.path.exists(os.path.join(root, beside)) else entry
        path = files.inside(root, entry, source=field, follow_links=True)
        if os.path.isdir(path):
            listed = paired_files.find(path, images.ENDINGS, expected="images").values()
            found.update(dict.fromkeys(os.path.relpath(image, root) for image in listed))
        elif path.endswith(".txt"):
            found.update(dict.fromkeys(_listed(path, root)))
        else:
            raise ValueError(f"{field} must be a folder or a .txt list of images, got {path}.")
    if not found:
        raise ValueError(f"{source}: '{split}' has no image.")
    return list(found)


def _listed(path: str, root: str) -> Iterable[str]:
    """Names in a list of images, which are relative to the list."""
    for field, line in _lines(path, expected="a list of images, one a line"):
        image = files.inside(os.path.dirname(path), line, source=field, follow_links=True)
        yield os.path.relpath(image, root)


def _image(root: str, file_name: str, ids: FrozenSet[int]) -> SourceImage:
    """An image with its label file: in `labels` for the last `images` of its path, or beside it."""
    stem = os.path.splitext(file_name)[0]
    parts = stem.split(os.sep)
    folders = parts[:-1]
    if "images" in folders:
        parts[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    label_file = os.path.join(root, *parts) + ".txt"
    label_files = (label_file,) if os.path.lexists(label_file) else ()
    for path in (os.path.join(root, file_name), *label_files):
        problem = files.file_problem(path)
        if problem:
            raise ValueError(f"{path}: {problem}; it is the image or label of {file_name!r}.")
    return SourceImage(stem, os.path.join(root, file_name), file_name, ids, label_files)


def _check_images(found: List[SourceImage], source: str, split: str) -> None:
    """Ids must differ; notes what has no label, which cannot be everything."""
    files_of: Dict[Any, str] = {}
    notes = Notes()
    for image in found:
        if image.image_id in files_of:
            raise ValueError(
                f"{image.image_file}: has the name of {files_of[image.image_id]}, its ending apart."
            )
        files_of[image.image_id] = image.image_file
        if not image.label_files:
            notes.add(_NO_LABELS, image.image_file)
    if not any(image.label_files for image in found):
        raise ValueError(
            f"{source}: none of the {len(found)} images of {split!r} has a label file: "
            f"{found[0].image_file} has no '.txt' in the folder 'labels' beside 'images'."
        )
    notes.log(source)
