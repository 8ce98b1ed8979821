"""The `annotations` of COCO files: checked at once, drawn where they are written."""

from __future__ import annotations

import array
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

from panoptic_tf.datasets import coco_instances, coco_reader, files, json_fields, rle
from panoptic_tf.datasets.annotations import PanopticAnnotation
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers.source import Mask, Size
from panoptic_tf.datasets.notes import Notes

FOREIGN = "annotations of stuff are of images that the instances do not list; they are ignored"
"""A kind of `Notes`."""


class Label(NamedTuple):
    """One annotation.

    Attributes:
      category_id: the data set's own.
      shape: run-length text, or polygons: doubles x, y, x, y, ... in pixels.
      is_crowd: a group of things that were not annotated one by one; False of stuff.
    """

    category_id: int
    shape: Union[bytes, List[array.array]]
    is_crowd: bool


def add_labels(
    labels: Dict[ImageId, List[Label]],
    path: str,
    items: Sequence[Any],
    *,
    dataset_info: DatasetInfo,
    listed: Mapping[ImageId, PanopticAnnotation],
    notes: Optional[Notes] = None,
) -> None:
    """Adds the annotations of a file to those of their images.

    Args:
      labels: by image.
      path: the file.
      items: its `annotations`.
      dataset_info: its categories.
      listed: the images.
      notes: takes annotations of other images; without it they are an error.

    Raises:
      ValueError: malformed; the message names file and field.
    """
    is_thing = {c.dataset_id: c.is_thing for c in dataset_info.categories}
    for position, item in enumerate(items):
        field = f"{path}: annotations[{position}]"
        try:
            json_fields.require_object(field, item)
            image_id = json_fields.image_id(f"{field}.image_id", item.get("image_id"))
            if image_id in listed:
                labels[image_id].append(_parse(field, item, is_thing, listed[image_id]))
                continue
        except RecursionError as error:
            raise ValueError(f"{field} is nested too deeply.") from error
        if notes is None:
            raise ValueError(f"{field}.image_id {files.shown(image_id)} is not among 'images'.")
        notes.add(FOREIGN, f"annotations[{position}]")


def draw(label: Label, size: Size) -> Mask:
    """The mask of an annotation, in an image of a size."""
    shape = label.shape
    counts = shape if isinstance(shape, bytes) else rle.encode_polygons(shape, *size)
    return Mask(label.category_id, counts, label.is_crowd)


def _parse(
    field: str, item: Mapping[str, Any], is_thing: Mapping[int, bool], image: PanopticAnnotation
) -> Label:
    category_id: Any = item.get("category_id")
    if not json_fields.is_integer(category_id) or category_id not in is_thing:
        raise ValueError(
            f"{field}.category_id {files.shown(category_id)} is not among 'categories'."
        )
    is_crowd = coco_reader.read_crowd_flag(f"{field}.iscrowd", item)
    shape = _parse_shape(f"{field}.segmentation", item.get("segmentation"), image)
    return Label(category_id, shape, is_crowd and is_thing[category_id])


def _parse_shape(
    field: str, segmentation: Any, image: PanopticAnnotation
) -> Union[bytes, List[array.array]]:
    if isinstance(segmentation, dict):
        return coco_instances.encode_segmentation(field, segmentation, image.height, image.width)
    coco_instances.check_polygons(field, segmentation, image.height, image.width)
    return [array.array("d", polygon) for polygon in segmentation]
