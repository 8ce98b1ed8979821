"""LabelMe: a folder of JSON files, one an image, each with a list of shapes.

Shapes of one label and group are one instance. Shapes that overlap lie in the order of the file,
later ones on top, as in LabelMe; instances are kept whole.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files, images, json_fields, png
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
)
from panoptic_tf.datasets.notes import Notes

_EXPECTED = "a LabelMe JSON file"
_NUMBERS_OF_POINTS: Mapping[str, Tuple[int, ...]] = {
    "rectangle": (2, 4),
    "circle": (2,),
    "mask": (2,),
}
_WITH_AREA = ("polygon", "rectangle", "circle", "mask")
_WITHOUT_AREA = ("line", "linestrip", "point", "points")
_NO_CATEGORY = ("__ignore__", "_background_")
"""First lines of LabelMe's own list of labels."""

_NO_AREA = "shapes have no area (lines and points) and are left out"
_NOT_ANNOTATED = "images have no JSON file and are left out"


class _Shape(NamedTuple):
    field: str
    label: str
    group: Any
    kind: str
    points: List[Tuple[float, float]]
    mask: Any


@register("labelme")
def read_labelme(
    source: str,
    *,
    image_dir: Optional[str] = None,
    labels: Optional[str] = None,
    stuff: str = "",
    name: Optional[str] = None,
    on_top: str = drawing.LATER_ON_TOP,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads a data set; images without a JSON file are logged and left out.

    Args:
      source: folder of the JSON files; sub-folders are read.
      image_dir: folder with the same sub-folders that holds the images; then only the last part of
        `imagePath` is read. Default: `imagePath` is relative to the JSON file.
      labels: text file with a label a line, which numbers them; default all that occur, sorted.
      stuff: labels that are stuff, separated by commas.
      name: name of the data set; default that of the folder.
      on_top: which of two shapes has the pixels of both, `later` or `smaller`.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: a file is missing or malformed; the message names file and field.
    """
    paths = paired_files.find(source, (".json",), expected="a folder of LabelMe JSON files")
    listed = _read_labels(labels) if labels is not None else None
    notes, used = Notes(), set()
    found: Dict[Any, SourceImage] = {}
    for path in paths.values():
        content, shapes = _read(path, notes)
        for shape in shapes:
            if listed is not None and shape.label not in listed:
                raise ValueError(f"{shape.field}.label {shape.label!r} is not among {labels}.")
            used.add(shape.label)
        image = _image(path, content, source, image_dir)
        if image.image_id in found:
            other = found[image.image_id].label_files[0]
            raise ValueError(f"{path}: imagePath is that of {other}, its ending apart.")
        found[image.image_id] = image
    _note_images(image_dir or source, found, notes)
    notes.log(source)
    info = label_names.build_dataset_info(
        dict.fromkeys(sorted(used) if listed is None else listed),
        stuff,
        name=name or os.path.basename(os.path.abspath(source)) or "labelme",
        source=labels or source,
    )
    category_ids = {c.name: c.dataset_id for c in info.categories}
    fingerprint = {
        "source_sha256": fingerprint_of_files(paths.values(), source),
        "categories": repr([(c.name, c.is_thing) for c in info.categories]),
    }
    return Source(
        info,
        [dataclasses.replace(image, labels=category_ids) for image in found.values()],
        drawing.reader(draw, info, on_top=on_top, max_pixels=max_pixels, exif=exif),
        fingerprint,
        {"source": os.path.abspath(source), "image_dir": os.path.abspath(image_dir or source)},
    )


def draw(image: SourceImage, size: Size) -> List[Mask]:
    """The shapes of a JSON file, groups joined."""
    (path,) = image.label_files
    shapes = [
        polygons.Shape(image.labels[shape.label], shape.group, _encode(shape, size))
        for shape in _read(path, Notes())[1]
    ]
    return polygons.join_groups(shapes, size)


def _read(path: str, notes: Notes) -> Tuple[Mapping[str, Any], List[_Shape]]:
    """What a file holds, and its shapes that have an area."""
    try:
        content = json_fields.read_object(path, ("shapes",), expected=_EXPECTED)
        return content, _shapes(path, content["shapes"], notes)
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply; expected {_EXPECTED}.") from error


def _read_labels(path: str) -> List[str]:
    content = files.read_bytes(path, expected="a list of labels, one a line")
    try:
        names = [line.strip() for line in content.decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text; expected a list of labels, one a line.") from error
    for number, name in enumerate(names, start=1):
        label_names.check_name(f"{path}: label {number}", name)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: the label {twice!r} comes twice.")
    return [name for name in names if name not in _NO_CATEGORY]


def _image(
    path: str, content: Mapping[str, Any], source: str, image_dir: Optional[str]
) -> SourceImage:
    """The image that a file names, without the ids of its labels."""
    sides = [content.get(key) for key in ("imageHeight", "imageWidth")]
    size = None
    if sides != [None, None]:
        height, width = (
            json_fields.integer(f"{path}: {key}", side, low=1)
            for key, side in zip(("imageHeight", "imageWidth"), sides)
        )
        size = height, width
    root, folder, file_name = source, os.path.dirname(path), content.get("imagePath")
    if isinstance(file_name, str):
        file_name = file_name.replace("\\", "/")
        if image_dir is not None:
            root, file_name = image_dir, file_name.split("/")[-1]
            folder = os.path.join(image_dir, os.path.relpath(folder, source))
    field = f"{path}: imagePath"
    if image_dir is None:
        field += " (--image_dir names another folder of images)"
    image_file = os.path.normpath(files.inside(folder, file_name, source=field, follow_links=True))
    problem = files.file_problem(image_file)
    if problem:
        raise ValueError(f"{field}: {image_file}: {problem}; imageData are not read.")
    relative = os.path.relpath(image_file, root)
    stem = os.path.splitext(relative)[0]
    return SourceImage(stem, image_file, relative, label_files=(path,), size=size)


def _note_images(folder: str, found: Mapping[Any, SourceImage], notes: Notes) -> None:
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            stem, ending = os.path.splitext(os.path.relpath(os.path.join(parent, name), folder))
            if ending.lower() in images.ENDINGS and stem not in found:
                notes.add(_NOT_ANNOTATED, ascii(os.path.join(parent, name)))


def _shapes(path: str, items: Sequence[Any], notes: Notes) -> List[_Shape]:
    """The shapes that have an area; where they lie is checked when they are drawn."""
    found = []
    for position, item in enumerate(items):
        field = f"{path}: shapes[{position}]"
        json_fields.require_object(field, item)
        label = label_names.check_name(f"{field}.label", item.get("label"))
        kind = "polygon" if item.get("shape_type") is None else item["shape_type"]
        if kind in _WITHOUT_AREA:
            notes.add(_NO_AREA, field)
            continue
        if kind not in _WITH_AREA:
            raise ValueError(
                f"{field}.shape_type must be one of {', '.join(_WITH_AREA + _WITHOUT_AREA)}, got "
                f"{files.shown(kind)}."
            )
        group = item.get("group_id")
        if group is not None:
            json_fields.image_id(f"{field}.group_id", group)
        points = _read_points(f"{field}.points", item.get("points"), kind)
        found.append(_Shape(field, label, group, kind, points, item.get("mask")))
    return found


def _read_points(field: str, points: Any, kind: str) -> List[Tuple[float, float]]:
    if not isinstance(points, list):
        raise ValueError(f"{field} must be a list of [x, y], got {files.shown(points)}.")
    for position, point in enumerate(points):
        is_pair = isinstance(point, list) and len(point) == 2
        if not is_pair or not all(type(v) in (int, float) and abs(v) < 1e9 for v in point):
            raise ValueError(f"{field}[{position}] must be [x, y], got {files.shown(point)}.")
    allowed = _NUMBERS_OF_POINTS.get(kind)
    if allowed is not None and len(points) not in allowed:
        raise ValueError(
            f"{field} must be {' or '.join(map(str, allowed))} points of a {kind}, "
            f"got {len(points)}."
        )
    return [(x, y) for x, y in points]


def _encode(shape: _Shape, size: Size) -> bytes:
    field = f"{shape.field}.points"
    if shape.kind == "mask":
        return _encode_mask(shape, size)
    if shape.kind == "circle":
        (x, y), edge = shape.points
        radius = math.dist((x, y), edge)
        return polygons.encode_ellipse(field, (x, y), (radius, radius), size)
    points = shape.points
    if shape.kind == "rectangle" and len(points) == 2:
        points = polygons.rectangle(*points[0], *points[1])
    return polygons.encode_polygon(field, points, size)


def _encode_mask(shape: _Shape, size: Size) -> bytes:
    """A PNG in base64 whose first and last corner pixels are the points."""
    left, top, right, bottom = (int(value) for point in shape.points for value in point)
    if not (0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]):
        raise ValueError(
            f"{shape.field}.points must be the corners of a mask inside the image of {size[0]} x "
            f"{size[1]} (height x width), got {files.shown(shape.points)}."
        )
    field, expected = f"{shape.field}.mask", "a PNG as base64 text"
    if not isinstance(shape.mask, str):
        raise ValueError(f"{field} must be {expected}, got {files.shown(shape.mask)}.")
    try:
        content = base64.b64decode(shape.mask, validate=True)
        found = png.header_size(content)
        png.check_whole(content)
    except (ValueError, OSError) as error:
        raise ValueError(f"{field} must be {expected}, got {files.shown(shape.mask)}.") from error
    if found != (bottom - top + 1, right - left + 1):
        raise ValueError(
            f"{field} must be {bottom - top + 1} x {right - left + 1} (height x width between its "
            f"points), got {found[0]} x {found[1]}."
        )
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            part = np.asarray(image.convert("L")) > 0
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{field}: cannot be decoded ({error}); expected {expected}.") from error
    return polygons.encode_part(part, top, left, size)
