"""Cityscapes as it is downloaded: gtFine and leftImg8bit, without its scripts.

The records are those that `coco_panoptic` makes of what cityscapesScripts' createPanopticImgs
writes: the 19 categories of the evaluation, everything else void. A pixel of *_instanceIds.png is a
label id, or 1000 times the label id plus the number of the instance; a thing without a number is a
crowd.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np

from panoptic_tf.datasets import images, segments
from panoptic_tf.datasets.annotations import Segment
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import drawing, folders, label_png, photographs
from panoptic_tf.datasets.importers.registry import register
from panoptic_tf.datasets.importers.source import (
    SegmentMap,
    Size,
    Source,
    SourceImage,
    fingerprint_of_names,
)
from panoptic_tf.datasets.notes import Notes

_SPLITS = {"train": "train", "val": "val"}
_CATEGORIES = "cityscapes_panoptic"
_IMAGE_SUFFIX = "_leftImg8bit.png"
_SUFFIX = "_gtFine_instanceIds.png"
_NO_LABELS = "images have no labels and are left out"
_EXPECTED = "gtFine/<split>/<city>/*_gtFine_instanceIds.png and leftImg8bit/ of Cityscapes"
_MAX_LABEL_ID = 33
_INSTANCES = 1000
"""Label ids are below it; from it on there is the number of an instance."""


@register("cityscapes")
def read_cityscapes(
    source: str,
    *,
    split: str = "train",
    name: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads a split of Cityscapes.

    Args:
      source: folder that holds gtFine and leftImg8bit.
      split: `train` or `val`; those of test have no labels.
      name: name of the data set; default `cityscapes_panoptic`.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: another split, folders that are not there, a file that is no PNG; later, of each
        image, a damaged PNG, of another size, or with an id that is no label.
    """
    split = folders.of_split(split, _SPLITS, format_name="cityscapes")
    label_dir = os.path.join(source, "gtFine", split)
    by_name: Dict[str, SourceImage] = {}
    for city, file_name in _files(label_dir, _SUFFIX):
        image = _image(source, split, city, file_name)
        other = by_name.setdefault(image.file_name, image)
        if other is not image:
            raise ValueError(
                f"{image.label_files[0]}: has the name of another, {other.label_files[0]}."
            )
    if not by_name:
        raise ValueError(f"{label_dir}: has no labels; expected {_EXPECTED}.")
    _note_images_without_labels(os.path.join(source, "leftImg8bit", split), by_name.values())
    info = DatasetInfo.load(_CATEGORIES)
    label_files = [path for image in by_name.values() for path in image.label_files]
    return Source(
        dataset_info=dataclasses.replace(info, name=name or info.name),
        images=list(by_name.values()),
        read=drawing.reader(draw, info, max_pixels=max_pixels, exif=exif),
        fingerprint={"labels_sha256": fingerprint_of_names(label_files, source)},
        description={"cityscapes": os.path.abspath(source), "split": split},
    )


def draw(image: SourceImage, size: Size) -> SegmentMap:
    """The segments of an image, in ascending order of the ids of its PNG.

    Raises:
      ValueError: a damaged PNG, of another size, or with an id that is no label.
    """
    (path,) = image.label_files
    kinds = (label_png.GREY_16, label_png.GREY_8)
    ids = label_png.read(path, size, kinds, expected="label and instance ids of Cityscapes")
    is_thing = _is_thing_by_id()
    found: List[Segment] = []
    for segment_id in np.flatnonzero(np.bincount(ids.reshape(-1))).tolist():
        label_id = segment_id if segment_id < _INSTANCES else segment_id // _INSTANCES
        if label_id > _MAX_LABEL_ID:
            raise ValueError(
                f"{path}: {segment_id} at {label_png.first_pixel(ids == segment_id)} is none of "
                f"the label ids 0..{_MAX_LABEL_ID}, nor 1000 times one plus the number of an "
                "instance."
            )
        if label_id in is_thing:
            is_crowd = is_thing[label_id] and segment_id < _INSTANCES
            found.append(Segment(segment_id, label_id, is_crowd))
    rows, _ = segments.ids_to_rows(ids, [segment.id for segment in found])
    return SegmentMap(rows, found)


def _files(folder: str, suffix: str) -> Iterator[Tuple[str, str]]:
    """Cities and names of the files in the folder of a split."""
    for city in folders.names(folder, "", expected=_EXPECTED):
        city_dir = os.path.join(folder, city)
        if os.path.isdir(city_dir):
            for file_name in folders.names(city_dir, suffix, expected=_EXPECTED):
                yield city, file_name


def _image(source: str, split: str, city: str, file_name: str) -> SourceImage:
    image_id = file_name[: -len(_SUFFIX)]
    label_file = os.path.join(source, "gtFine", split, city, file_name)
    image_name = image_id + _IMAGE_SUFFIX
    return SourceImage(
        image_id=image_id,
        image_file=os.path.join(source, "leftImg8bit", split, city, image_name),
        # As createPanopticImgs names it.
        file_name=f"{image_id}_gtFine_leftImg8bit.png",
        label_files=(label_file,),
        size=label_png.read_size(label_file, expected=_EXPECTED),
    )


def _note_images_without_labels(image_dir: str, listed: Iterable[SourceImage]) -> None:
    known = {image.image_file for image in listed}
    notes = Notes()
    for city, file_name in _files(image_dir, _IMAGE_SUFFIX):
        if os.path.join(image_dir, city, file_name) not in known:
            notes.add(_NO_LABELS, file_name)
    notes.log(image_dir)


@functools.lru_cache(maxsize=1)
def _is_thing_by_id() -> Dict[int, bool]:
    """The label ids of the evaluation's categories."""
    return {c.dataset_id: c.is_thing for c in DatasetInfo.load(_CATEGORIES).categories}
