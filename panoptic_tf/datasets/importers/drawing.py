"""Reads an image with its labels, and paints masks that may overlap into one map."""

from __future__ import annotations

import functools
from typing import Callable, Dict, Iterable, List, Tuple

import numpy as np

from panoptic_tf.datasets import files, images, rle
from panoptic_tf.datasets.annotations import Instance, Segment
from panoptic_tf.datasets.checks import LoadedAnnotation
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import photographs
from panoptic_tf.datasets.importers.source import Draw, Mask, SegmentMap, Size, SourceImage

SMALLER_ON_TOP, LATER_ON_TOP = ON_TOP = ("smaller", "later")
"""Which of two masks has the pixels that both cover."""

HIDDEN = "segments are hidden by others; only the overlapping instances hold them"
NO_PIXEL = "masks have no pixel and are left out"
"""Kinds of `Notes`."""


def reader(
    draw: Draw,
    dataset_info: DatasetInfo,
    *,
    on_top: str = SMALLER_ON_TOP,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Callable[[SourceImage], LoadedAnnotation]:
    """The `Source.read` of an importer.

    Args:
      draw: reads the labels of an image.
      dataset_info: the categories.
      on_top: `SMALLER_ON_TOP` or `LATER_ON_TOP`.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: unknown `on_top` or `exif`.
    """
    if on_top not in ON_TOP:
        raise ValueError(f"on_top must be one of {', '.join(ON_TOP)}, got {files.shown(on_top)}.")
    photographs.check_exif(exif)
    read_photograph = functools.partial(photographs.read, max_pixels=max_pixels, exif=exif)
    return functools.partial(
        _read,
        draw=draw,
        dataset_info=dataset_info,
        on_top=on_top,
        read_photograph=read_photograph,
    )


def _read(
    image: SourceImage,
    *,
    draw: Draw,
    dataset_info: DatasetInfo,
    on_top: str,
    read_photograph: Callable[..., photographs.Photograph],
) -> LoadedAnnotation:
    photograph = read_photograph(image.image_file, stated=image.size)
    drawn = draw(image, photograph.size)
    if isinstance(drawn, SegmentMap):
        return LoadedAnnotation(
            photograph.content, drawn.rows, tuple(drawn.segments), None, photograph.notes
        )
    masks = list(drawn)
    rows, segments, notes = paint(masks, photograph.size, dataset_info, on_top=on_top)
    return LoadedAnnotation(
        photograph.content,
        rows,
        segments,
        _instances(masks, photograph.size, dataset_info),
        (*photograph.notes, *notes),
    )


def paint(
    masks: Iterable[Mask], size: Size, dataset_info: DatasetInfo, *, on_top: str
) -> Tuple[np.ndarray, Tuple[Segment, ...], Tuple[str, ...]]:
    """Paints masks one over the other; those of a category of stuff are one segment.

    Args:
      masks: in the order of the file.
      size: of the image.
      dataset_info: the categories.
      on_top: which mask has the pixels that several cover.

    Returns:
      rows int32 [H, W] (row of the segment + 1, 0 is void), the segments that have pixels left, and
      kinds of notes.
    """
    height, width = size
    areas = [(rle.area(mask.rle, height, width), mask) for mask in masks]
    notes = {NO_PIXEL} if any(not area for area, _ in areas) else set()
    if on_top == SMALLER_ON_TOP:
        areas.sort(key=lambda pair: -pair[0])
    stuff = {c.dataset_id for c in dataset_info.categories if not c.is_thing}
    painted = np.zeros([height, width], np.int32)
    found: List[Tuple[int, bool]] = []
    number_of_stuff: Dict[int, int] = {}
    for area, mask in areas:
        if not area:
            continue
        number = number_of_stuff.get(mask.category_id)
        if number is None:
            found.append((mask.category_id, mask.is_crowd))
            number = len(found)
            if mask.category_id in stuff:
                number_of_stuff[mask.category_id] = number
        painted[rle.decode_rle(mask.rle, height, width)] = number
    used, inverse = np.unique(painted, return_inverse=True)
    has_void = used.size > 0 and used[0] == 0
    kept = used[1:] if has_void else used
    if len(kept) < len(found):
        notes.add(HIDDEN)
    segments = tuple(
        Segment(row, found[number - 1][0], found[number - 1][1])
        for row, number in enumerate(kept.tolist(), start=1)
    )
    rows = inverse.reshape(height, width).astype(np.int32) + (0 if has_void else 1)
    return rows, segments, tuple(sorted(notes))


def _instances(
    masks: Iterable[Mask], size: Size, dataset_info: DatasetInfo
) -> Tuple[Instance, ...]:
    """The things, whole, as they overlap."""
    own = {c.dataset_id: c for c in dataset_info.categories}
    return tuple(
        Instance(mask.rle, own[mask.category_id].id, mask.is_crowd)
        for mask in masks
        if own[mask.category_id].is_thing and rle.area(mask.rle, *size)
    )
