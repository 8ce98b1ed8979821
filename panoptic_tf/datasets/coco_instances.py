"""COCO instances format: masks that may overlap, added to panoptic annotations of the same images.

A panoptic map gives every pixel to one segment, so instances that are read from it have lost what
others hide; the instances file has them whole. Its `area` and `bbox` are not read: masks are
measured where they are used. This module knows nothing of TensorFlow.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import tqdm

from panoptic_tf.datasets import coco_reader, files, json_fields, rle
from panoptic_tf.datasets.annotations import Instance, PanopticAnnotation
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.notes import Notes

_EXPECTED = "a COCO instances JSON file"

_FOREIGN = "instances are of images without panoptic annotation; they are ignored"
NO_PIXEL = "instances have no pixel and can never be found"
_NOT_LISTED = (
    "images of the panoptic file are not among its 'images'; their records have no overlapping "
    "instances"
)
_MOST_NAMED = 50


class _Problem(NamedTuple):
    """What is wrong with the annotation of a name."""

    name: str
    text: str


def add_instances(
    annotations: Sequence[PanopticAnnotation],
    instances_json: str,
    dataset_info: DatasetInfo,
    *,
    on_problem: Optional[Callable[[str], None]] = None,
    notes: Optional[Notes] = None,
) -> List[PanopticAnnotation]:
    """Adds the instances of a COCO instances file to the images it names.

    Instances of images that have no panoptic annotation are left out.

    Args:
      annotations: the panoptic annotations.
      instances_json: file with `images` and `annotations`, whose `segmentation` are polygons or
        run lengths, compressed or not.
      dataset_info: categories of the panoptic annotations; instances are of its things, by the
        data set's own category ids, which must have the same names where the file has any.
      on_problem: called with the text of each wrong annotation instead of raising.
      notes: takes what is legal and worth a look; without it, that is logged.

    Returns:
      The annotations with `instances` in the order of the file, drawn at the image's size. Those of
      an image that the file does not list stay None.

    Raises:
      ValueError: malformed, of other images, sizes or names of categories, or of a category that is
        unknown or stuff; the message names file, annotation id and field, and the ids of all
        annotations that are wrong.
    """
    own_notes = Notes() if notes is None else notes
    content = json_fields.read_object(instances_json, ("images", "annotations"), expected=_EXPECTED)
    dataset_info.check_agrees(content.get("categories"), source=instances_json)
    by_id = {a.image_id: a for a in annotations}
    listed = _read_image_ids(instances_json, content["images"], by_id)
    found: Dict[ImageId, List[Instance]] = {i: [] for i in by_id if i in listed}
    if not found:
        raise ValueError(
            f"{instances_json}: none of its {len(listed)} 'images' has a panoptic annotation. Give "
            "the instances of the same split."
        )
    reader = _Reader(instances_json, by_id, listed, dataset_info, own_notes)
    problems = reader.read_all(content["annotations"], found)
    for annotation in annotations:
        if annotation.image_id not in found:
            own_notes.add(_NOT_LISTED, f"image_id {annotation.image_id!r}")
    if notes is None:
        own_notes.log(instances_json)
    if on_problem is None:
        _raise_all(problems)
    else:
        for problem in problems:
            on_problem(problem.text)
    return [
        dataclasses.replace(a, instances=tuple(found[a.image_id])) if a.image_id in found else a
        for a in annotations
    ]


class _Reader:
    """Parses the entries of `annotations`."""

    def __init__(
        self,
        path: str,
        annotations: Mapping[ImageId, PanopticAnnotation],
        listed: Set[ImageId],
        info: DatasetInfo,
        notes: Notes,
    ):
        self._path = path
        self._notes = notes
        self._annotations = annotations
        self._listed = listed
        self._categories = {c.dataset_id: c for c in info.categories}
        self._seen: Set[ImageId] = set()

    def read_all(
        self, items: Sequence[Any], found: Mapping[ImageId, List[Instance]]
    ) -> List[_Problem]:
        """Adds the instances to those found of their images; returns what is wrong with others."""
        problems = []
        rows = tqdm.tqdm(items, unit="instance", desc="instances", leave=False)
        for position, item in enumerate(rows):
            name = _name(position, item)
            try:
                image_id, instance = self._read(position, item)
            except RecursionError:
                problems.append(
                    _Problem(name, f"{self._path}: annotation {name}: nested too deeply.")
                )
                continue
            except ValueError as error:
                problems.append(_Problem(name, files.shorten(str(error))))
                continue
            if instance is None:
                self._notes.add(_FOREIGN, name)
                continue
            found[image_id].append(instance)
            annotation = self._annotations[image_id]
            if not rle.area(instance.rle, annotation.height, annotation.width):
                self._notes.add(NO_PIXEL, name)
        return problems

    def _read(self, position: int, item: Any) -> Tuple[ImageId, Optional[Instance]]:
        """The image's id, and the instance if the image has a panoptic annotation."""
        field = f"{self._path}: annotations[{position}]"
        json_fields.require_object(field, item)
        own_id = json_fields.image_id(f"{field}.id", item.get("id"))
        if own_id in self._seen:
            raise ValueError(f"{field}.id {own_id!r} is used twice.")
        self._seen.add(own_id)
        field = f"{self._path}: annotation id {own_id!r}:"
        image_id = json_fields.image_id(f"{field} image_id", item.get("image_id"))
        if image_id not in self._listed:
            raise ValueError(f"{field} image_id {image_id!r} is not among 'images'.")
        annotation = self._annotations.get(image_id)
        if annotation is None:
            return image_id, None
        category = self._category(field, item.get("category_id"))
        is_crowd = coco_reader.read_crowd_flag(f"{field} iscrowd", item)
        size = annotation.height, annotation.width
        segmentation = item.get("segmentation")
        counts = encode_segmentation(f"{field} segmentation", segmentation, *size)
        return image_id, Instance(counts, category, is_crowd)

    def _category(self, field: str, category_id: Any) -> int:
        is_known = json_fields.is_integer(category_id) and category_id in self._categories
        if not is_known:
            raise ValueError(
                f"{field} category_id {category_id!r} is not among the categories of the panoptic "
                "file."
            )
        category = self._categories[category_id]
        if not category.is_thing:
            raise ValueError(
                f"{field} category_id {category_id} ({category.name!r}) is stuff in the panoptic "
                "file; instances must be of its things."
            )
        return category.id


def _read_image_ids(
    path: str, images: Sequence[Any], annotations: Mapping[ImageId, PanopticAnnotation]
) -> Set[ImageId]:
    """Ids of the images, whose sizes must be those of the panoptic file."""
    listed = set()
    for position, item in enumerate(images):
        field = f"{path}: images[{position}]"
        json_fields.require_object(field, item)
        image_id = json_fields.image_id(f"{field}.id", item.get("id"))
        listed.add(image_id)
        annotation = annotations.get(image_id)
        size = item.get("height"), item.get("width")
        if annotation is not None and size != (annotation.height, annotation.width):
            raise ValueError(
                f"{field}: image_id {image_id!r} must be {annotation.height} x {annotation.width} "
                f"(height x width in the panoptic file), got {size[0]} x {size[1]}."
            )
    return listed


def _name(position: int, item: Any) -> str:
    """What to call an entry of `annotations` that may be anything."""
    own_id = item.get("id") if isinstance(item, dict) else None
    return f"id {own_id!r}" if isinstance(own_id, (int, str)) else f"annotations[{position}]"


def _raise_all(problems: Sequence[_Problem]) -> None:
    """Says what is wrong with the first annotation, and which others are wrong."""
    if not problems:
        return
    (_, message), *others = problems
    if others:
        names = ", ".join(files.shorten(name, most=40) for name, _ in others[:_MOST_NAMED])
        names += ", ..." if len(others) > _MOST_NAMED else ""
        message += (
            f" {len(others)} more of its annotations are wrong ({names}); "
            "doctor --instances_json lists the errors."
        )
    raise ValueError(message)


def encode_segmentation(field: str, segmentation: Any, height: int, width: int) -> bytes:
    """Compressed run lengths of a `segmentation` of any kind.

    Args:
      field: file and field, for error messages.
      segmentation: polygons, or an object of run lengths, compressed or not.
      height: rows of the image.
      width: its columns.

    Raises:
      ValueError: malformed, of another size, or with points far outside of the image.
    """
    if isinstance(segmentation, dict):
        return _encode_run_lengths(field, segmentation, height, width)
    check_polygons(field, segmentation, height, width)
    return rle.encode_polygons(segmentation, height, width)


def check_polygons(field: str, segmentation: Any, height: int, width: int) -> None:
    """Raises ValueError unless it is a list of polygons in or near an image of this size."""
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(
            f"{field} must be a list of polygons or an object of run lengths, "
            f"got {files.shown(segmentation)}."
        )
    for position, polygon in enumerate(segmentation):
        check_polygon(f"{field}[{position}]", polygon, max(height, width))


def _encode_run_lengths(
    field: str, segmentation: Mapping[str, Any], height: int, width: int
) -> bytes:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(
            f"{field}.size must be {[height, width]}, height and width of the image, "
            f"got {files.shown(size)}."
        )
    try:
        if isinstance(counts, str):
            text = counts.encode("ascii")
            rle.check_rle(text, height, width)
            return text
        if isinstance(counts, list) and all(type(c) is int and c < 2**31 for c in counts):
            return rle.encode_runs(counts, height, width)
    except ValueError as error:
        raise ValueError(f"{field}.counts: {error}") from error
    raise ValueError(
        f"{field}.counts must be COCO run-length text or a list of integers, "
        f"got {files.shown(counts)}."
    )


def check_polygon(field: str, polygon: Any, longest: int) -> None:
    """Raises ValueError unless it is x, y, x, y, ... of at least three points, none of them far.

    Args:
      field: file and field, for error messages.
      polygon: the coordinates in pixels.
      longest: side of the image; points lie within -longest..2 * longest.
    """
    is_list = isinstance(polygon, list) and all(type(v) in (int, float) for v in polygon)
    if not is_list or len(polygon) < 6 or len(polygon) % 2:
        found = f"{len(polygon)} of them" if is_list else files.shown(polygon)
        raise ValueError(
            f"{field} must be x, y, x, y, ...: an even number of coordinates, at least 6, "
            f"got {found}."
        )
    # Far points would be drawn as long lines outside of the image, which takes memory and time.
    far = [v for v in polygon if not -longest <= v <= 2 * longest]
    if far:
        raise ValueError(
            f"{field}: coordinates must lie in or near the image, within {-longest}..{2 * longest} "
            f"pixels, got {files.shown(far[0])}."
        )
