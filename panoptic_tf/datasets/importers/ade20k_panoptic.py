"""ADE20K's scene parsing benchmark as it is downloaded: ADEChallengeData2016.

The segments are those of MaskFormer's prepare_ade20k_pan_seg.py (Mask2Former has the same file):
of annotations/ (0 is void, 1..150 the categories) the stuff, over it the things of
annotations_instance/ (red: one of 100 categories, 0 is none; green: number of the instance, unique
in the image). A pixel that annotations/ gives to a thing and annotations_instance/ to none is void.
Category ids are the script's, 0..149, and so are the names.

The instance category k is the k-th thing: in the benchmark's categoryMapping.txt the 100 follow the
order of the 150.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Dict, List, Optional, Tuple

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

_SPLITS = {"train": "training", "val": "validation"}
_CATEGORIES = "ade20k_panoptic"
_INSTANCES = 1000
"""Ids of segments: of stuff the number in annotations/, of things this plus the instance's."""

_EXPECTED = "{} of ADEChallengeData2016"
_NO_IMAGE = "annotations have no image and are left out"


@register("ade20k_panoptic")
def read_ade20k_panoptic(
    source: str,
    *,
    split: str = "train",
    name: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads a split of ADE20K.

    Args:
      source: the folder ADEChallengeData2016, with annotations_instance in it.
      split: `train` or `val`.
      name: name of the data set; default `ade20k_panoptic`.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: another split, folders or files that are not there; later, of each image, a
        damaged PNG, of another size, or with a category that there is not.
    """
    split_folder = folders.of_split(split, _SPLITS, format_name="ade20k_panoptic")
    image_dir, semantic_dir, instance_dir = (
        os.path.join(source, folder, split_folder)
        for folder in ("images", "annotations", "annotations_instance")
    )
    stems = [
        file_name[:-4]
        for file_name in folders.names(
            image_dir, ".jpg", expected=_EXPECTED.format("images/<split>/*.jpg")
        )
    ]
    if not stems:
        raise ValueError(f"{image_dir}: has no images, which end in .jpg.")
    listed = [_image(image_dir, semantic_dir, instance_dir, stem) for stem in stems]
    _note_missing_images(semantic_dir, stems)
    label_files = [path for image in listed for path in image.label_files]
    info = DatasetInfo.load(_CATEGORIES)
    return Source(
        dataset_info=dataclasses.replace(info, name=name or info.name),
        images=listed,
        read=drawing.reader(draw, info, max_pixels=max_pixels, exif=exif),
        fingerprint={"labels_sha256": fingerprint_of_names(label_files, source)},
        description={"ade20k": os.path.abspath(source), "split": split_folder},
    )


def draw(image: SourceImage, size: Size) -> SegmentMap:
    """The segments of an image: stuff in the order of the categories, then the instances.

    Raises:
      ValueError: a damaged PNG, of another size, or with a category that there is not.
    """
    semantic_file, instance_file = image.label_files
    stuff, things = _stuff_and_things()
    semantic = label_png.read(
        semantic_file,
        size,
        (label_png.GREY_8, label_png.PALETTE),
        expected=_EXPECTED.format("category ids"),
    )
    num_categories = len(stuff) + len(things)
    if semantic.max() > num_categories:
        first = label_png.first_pixel(semantic > num_categories)
        raise ValueError(
            f"{semantic_file}: categories must be 0..{num_categories}, got {semantic.max()}; the "
            f"first that is none at {first}."
        )
    instances = label_png.read(
        instance_file, size, (label_png.RGB,), expected=_EXPECTED.format("instances")
    )
    red, green = instances[..., 0], instances[..., 1]
    category_ids = {category_id + 1: category_id for category_id in stuff}
    for number, category in _instance_categories(instance_file, red, green).items():
        category_ids[_INSTANCES + number] = things[category - 1]
    ids = np.where(green > 0, _INSTANCES + green, semantic)
    present = [i for i in np.unique(ids).tolist() if i in category_ids]
    rows, _ = segments.ids_to_rows(ids, present)
    return SegmentMap(rows, [Segment(i, category_ids[i]) for i in present])


def _instance_categories(path: str, red: np.ndarray, green: np.ndarray) -> Dict[int, int]:
    """The category, 1..100, of each instance by its number."""
    _, things = _stuff_and_things()
    found: Dict[int, int] = {}
    for pair in np.flatnonzero(np.bincount((green * 256 + red).reshape(-1))).tolist():
        number, category = divmod(pair, 256)
        if not number:
            continue
        if number in found:
            raise ValueError(
                f"{path}: instance {number} (green) must be of one category (red), got "
                f"{found[number]} and {category}."
            )
        if not 1 <= category <= len(things):
            raise ValueError(
                f"{path}: the category (red) of instance {number} (green) must be "
                f"1..{len(things)}, got {category} at "
                f"{label_png.first_pixel((green == number) & (red == category))}."
            )
        found[number] = category
    return found


def _image(image_dir: str, semantic_dir: str, instance_dir: str, stem: str) -> SourceImage:
    label_files = tuple(os.path.join(d, stem + ".png") for d in (semantic_dir, instance_dir))
    size, _ = (
        label_png.read_size(path, expected=_EXPECTED.format("labels")) for path in label_files
    )
    return SourceImage(
        image_id=stem,
        image_file=os.path.join(image_dir, stem + ".jpg"),
        file_name=stem + ".jpg",
        label_files=label_files,
        size=size,
    )


def _note_missing_images(semantic_dir: str, stems: List[str]) -> None:
    notes, known = Notes(), set(stems)
    for file_name in folders.names(semantic_dir, ".png", expected="annotations"):
        if file_name[:-4] not in known:
            notes.add(_NO_IMAGE, file_name)
    notes.log(semantic_dir)


@functools.lru_cache(maxsize=1)
def _stuff_and_things() -> Tuple[List[int], List[int]]:
    """The category ids of stuff, and those of things, ascending."""
    categories = DatasetInfo.load(_CATEGORIES).categories
    stuff, things = (
        [c.dataset_id for c in categories if c.is_thing == is_thing] for is_thing in (False, True)
    )
    return stuff, things
