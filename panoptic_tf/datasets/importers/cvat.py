"""CVAT for images 1.1: one XML file with the shapes of all images.

Shapes of one label and `group_id` are one instance. Shapes that overlap lie in the order of
`z_order`, then in that of the file, higher and later ones on top; instances are kept whole.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple
from xml.etree import ElementTree

import numpy as np

from panoptic_tf.datasets import files, images, manifest
from panoptic_tf.datasets.importers import drawing, label_names, photographs, polygons
from panoptic_tf.datasets.importers.registry import register
from panoptic_tf.datasets.importers.source import Mask, Size, Source, SourceImage
from panoptic_tf.datasets.notes import Notes

_EXPECTED = "the XML of 'CVAT for images 1.1'"
_WITH_AREA = ("polygon", "mask", "box", "ellipse")
_WITHOUT_AREA = ("polyline", "points", "skeleton", "cuboid", "tag")
_BLOCK = 1 << 20
_MOST = 1e9
"""Far beyond what an image has of anything."""

_NO_AREA = "shapes have no area (lines, points, skeletons, cuboids, tags) and are left out"


class _Shape(NamedTuple):
    field: str
    kind: str
    attributes: Mapping[str, str]


class _Labels(NamedTuple):
    category_ids: Mapping[str, int]
    shapes: Tuple[_Shape, ...]


@register("cvat")
def read_cvat(
    source: str,
    *,
    image_dir: Optional[str] = None,
    stuff: str = "",
    name: Optional[str] = None,
    on_top: str = drawing.LATER_ON_TOP,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads a task or a project.

    Args:
      source: the annotations.xml.
      image_dir: folder of the images; default `images` beside the XML file. The images of a
        project may lie in it in folders of their subset.
      stuff: labels that are stuff, separated by commas.
      name: name of the data set; default that of the XML file's folder.
      on_top: which of two shapes has the pixels of both, `later` (the above) or `smaller`.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: a file is missing or malformed; the message names file and field.
    """
    folder = os.path.dirname(os.path.abspath(source))
    image_dir = image_dir or os.path.join(folder, "images")
    colors: Dict[str, Any] = {}
    category_ids: Dict[str, int] = {}
    found: Dict[Any, SourceImage] = {}
    notes = Notes()
    for element in _elements(source):
        if element.tag == "meta":
            colors = _read_labels(source, element)
            category_ids.update((label, i) for i, label in enumerate(colors, start=1))
        elif element.tag == "image":
            image = _read_image(source, element, image_dir, category_ids, notes)
            if image.image_id in found:
                raise ValueError(f"{source}: image id {image.image_id} comes twice.")
            found[image.image_id] = image
        elif element.tag == "track":
            raise ValueError(
                f"{source}: has tracks, as 'CVAT for video 1.1' does; expected {_EXPECTED}."
            )
    notes.log(source)
    info = label_names.build_dataset_info(
        colors, stuff, name=name or os.path.basename(folder) or "cvat", source=source
    )
    return Source(
        info,
        list(found.values()),
        drawing.reader(draw, info, on_top=on_top, max_pixels=max_pixels, exif=exif),
        {
            "source_sha256": manifest.sha256_of_file(source),
            "stuff": repr([c.name for c in info.categories if not c.is_thing]),
        },
        {"source": os.path.abspath(source), "image_dir": os.path.abspath(image_dir)},
    )


def draw(image: SourceImage, size: Size) -> List[Mask]:
    """The shapes of an image in the order of `z_order`, groups joined."""

    def height_of(shape: _Shape) -> float:
        return _number(shape, "z_order", default=0)

    shapes = [
        polygons.Shape(
            image.labels.category_ids[shape.attributes["label"]],
            _group(shape),
            _encode(shape, size),
        )
        for shape in sorted(image.labels.shapes, key=height_of)
    ]
    return polygons.join_groups(shapes, size)


def _group(shape: _Shape) -> Optional[str]:
    group = shape.attributes.get("group_id")
    return None if group in ("", "0") else group


def _elements(path: str) -> Iterator[ElementTree.Element]:
    """The elements below the root, each without those before it."""
    try:
        text = files.read_bytes(path, expected=_EXPECTED).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text; expected {_EXPECTED}.") from error
    # Text is parsed as UTF-8 whatever it says of itself, so that nothing can hide in an encoding.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path}: has a DOCTYPE, which is not read; expected {_EXPECTED}.")
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    open_elements: List[ElementTree.Element] = []
    try:
        for start in range(0, len(text) + _BLOCK, _BLOCK):
            if start < len(text):
                parser.feed(text[start : start + _BLOCK])
            else:
                parser.close()
            for event, element in parser.read_events():
                if not open_elements and element.tag != "annotations":
                    raise ValueError(
                        f"{path}: must be an element 'annotations', got "
                        f"{files.shown(element.tag)}; expected {_EXPECTED}."
                    )
                if event == "start":
                    open_elements.append(element)
                    continue
                open_elements.pop()
                if len(open_elements) == 1:
                    yield element
                    open_elements[0].clear()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not XML ({error}); expected {_EXPECTED}.") from error


def _read_labels(path: str, meta: ElementTree.Element) -> Dict[str, Any]:
    """Colours of the labels by name; parts of skeletons are none."""
    found: Dict[str, Any] = {}
    for position, label in enumerate(meta.iterfind(".//labels/label")):
        if label.find("parent") is None:
            name = label_names.check_name(f"{path}: label[{position}].name", label.findtext("name"))
            found.setdefault(name, _color(label.findtext("color") or ""))
    return found


def _color(text: str) -> Optional[List[int]]:
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        return None
    return [int(text[start : start + 2], 16) for start in (1, 3, 5)]


def _read_image(
    path: str,
    element: ElementTree.Element,
    image_dir: str,
    category_ids: Mapping[str, int],
    notes: Notes,
) -> SourceImage:
    file_name = element.get("name")
    field = f"{path}: image {files.shown(file_name)}"
    image = _Shape(field, "image", element.attrib)
    image_id = _integer(image, "id", low=0)
    size = _integer(image, "height", low=1), _integer(image, "width", low=1)
    image_file = files.inside(image_dir, file_name, source=f"{field}: name", follow_links=True)
    subset = element.get("subset")
    if subset and not os.path.exists(image_file):
        file_name = f"{subset}/{file_name}"
        image_file = files.inside(
            image_dir, file_name, source=f"{field}: subset", follow_links=True
        )
    shapes, counts = [], dict.fromkeys((*_WITH_AREA, *_WITHOUT_AREA), 0)
    for child in element:
        if child.tag not in counts:
            raise ValueError(
                f"{field}: expected one of {', '.join(counts)}, got {files.shown(child.tag)}."
            )
        shape = _Shape(f"{field}: {child.tag}[{counts[child.tag]}]", child.tag, child.attrib)
        counts[child.tag] += 1
        if child.tag in _WITHOUT_AREA:
            notes.add(_NO_AREA, shape.field)
            continue
        if shape.attributes.get("label") not in category_ids:
            raise ValueError(
                f"{shape.field}.label must be one of the labels of 'meta', got "
                f"{files.shown(shape.attributes.get('label'))}."
            )
        shapes.append(shape)
    labels = _Labels(category_ids, tuple(shapes))
    return SourceImage(image_id, image_file, str(file_name), labels, size=size)


def _number(shape: _Shape, key: str, default: Optional[float] = None) -> float:
    text = shape.attributes.get(key)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not -_MOST < value < _MOST:
        raise ValueError(f"{shape.field}.{key} must be a number, got {files.shown(text)}.")
    return value


def _integer(shape: _Shape, key: str, *, low: int) -> int:
    value = _number(shape, key)
    if value < low or not value.is_integer():
        raise ValueError(
            f"{shape.field}.{key} must be an integer of {low} or more, got "
            f"{files.shown(shape.attributes[key])}."
        )
    return int(value)


def _encode(shape: _Shape, size: Size) -> bytes:
    if shape.kind == "mask":
        return _encode_mask(shape, size)
    if shape.kind == "polygon":
        field = f"{shape.field}.points"
        return polygons.encode_polygon(field, _points(field, shape.attributes.get("points")), size)
    degrees = _number(shape, "rotation", default=0)
    if shape.kind == "ellipse":
        x, y, *radii = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
        return polygons.encode_ellipse(shape.field, (x, y), (radii[0], radii[1]), size, degrees)
    left, top, right, bottom = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    corners = polygons.rectangle(left, top, right, bottom, degrees)
    return polygons.encode_polygon(shape.field, corners, size)


def _points(field: str, text: Optional[str]) -> List[Tuple[float, float]]:
    try:
        points = [point.split(",") for point in (text or "").split(";")]
        return [(float(x), float(y)) for x, y in points]
    except ValueError as error:
        raise ValueError(f"{field} must be x,y;x,y;..., got {files.shown(text)}.") from error


def _encode_mask(shape: _Shape, size: Size) -> bytes:
    """Lengths of runs row by row in a rectangle, the first of zeros."""
    left, top = _integer(shape, "left", low=0), _integer(shape, "top", low=0)
    height, width = _integer(shape, "height", low=1), _integer(shape, "width", low=1)
    if top + height > size[0] or left + width > size[1]:
        raise ValueError(
            f"{shape.field}: must lie inside the image of {size[0]} x {size[1]} (height x width), "
            f"got {height} x {width} at top {top}, left {left}."
        )
    text = shape.attributes.get("rle")
    try:
        runs = np.array([int(part) for part in (text or "").split(",")], np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{shape.field}.rle must be integers with commas between, got {files.shown(text)}."
        ) from error
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(
            f"{shape.field}.rle must fill {height} x {width} = {height * width} pixels, got "
            f"{files.shown(text)}."
        )
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return polygons.encode_part(part, top, left, size)
