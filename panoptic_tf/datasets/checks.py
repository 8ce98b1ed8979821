"""What an importer reads of one image, and checks that formats share."""

from __future__ import annotations

import dataclasses
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from panoptic_tf.datasets import images
from panoptic_tf.datasets.annotations import Instance, PanopticAnnotation, Segment
from panoptic_tf.datasets.dataset_info import DatasetInfo

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class LoadedAnnotation:
    """The files of one annotation.

    Attributes:
      image_bytes: JPEG or PNG, None if the annotation has no image file.
      rows: int32 [H, W], row of the segment + 1, 0 is void.
      segments: S segments.
      instances: instances that may overlap; None if the data set has none of this image.
      notes: kinds of `Notes` that hold of this image.
    """

    image_bytes: Optional[bytes]
    rows: np.ndarray
    segments: Tuple[Segment, ...]
    instances: Optional[Tuple[Instance, ...]] = None
    notes: Tuple[str, ...] = ()


def raise_problem(message: str) -> None:
    """Reports a problem by raising it."""
    raise ValueError(message)


def crowd_problems(annotation: PanopticAnnotation, dataset_info: DatasetInfo) -> List[str]:
    """Finds stuff that is a crowd and none in one image, where it is one segment in evaluation.

    Args:
      annotation: what the JSON file says.
      dataset_info: its categories.

    Returns:
      One text per category.
    """
    flags: Dict[int, Set[bool]] = {}
    for segment in annotation.segments:
        flags.setdefault(segment.category_id, set()).add(segment.is_crowd)
    return [
        f"{annotation.png_file}: image_id {annotation.image_id!r}: iscrowd of the segments of "
        f"stuff category id {c.dataset_id} ({c.name!r}) must be the same, got 0 and 1."
        for c in dataset_info.categories
        if not c.is_thing and len(flags.get(c.dataset_id, ())) > 1
    ]


def segment_problems(
    where: str, segment_table: Sequence[Segment], areas: np.ndarray, boxes: np.ndarray
) -> List[str]:
    """Compares the areas and boxes that a file gives with the measured ones.

    Args:
      where: file and image, for the texts.
      segment_table: S segments; an area or box of None claims nothing.
      areas: int64 [S], measured.
      boxes: int32 [S, 4], measured, [x, y, width, height].

    Returns:
      One text per area and box that differs.
    """
    problems = []
    for segment, area, box in zip(segment_table, areas.tolist(), boxes.tolist()):
        field = f"{where}: segment id {segment.id}"
        if segment.area not in (None, area):
            problems.append(f"{field}: area must be {area}, got {segment.area}.")
        if segment.bbox is not None and list(segment.bbox) != box:
            problems.append(f"{field}: bbox must be {box}, got {list(segment.bbox)}.")
    return problems


def check_image(content: bytes, source: str, check_size: Callable[[Tuple[int, int]], None]) -> None:
    """Proves that training can decode an image.

    Args:
      content: of a JPEG or PNG file.
      source: the file, for error messages.
      check_size: called with the (height, width) of its header before any pixel is decoded.

    Raises:
      ValueError: neither JPEG nor PNG, damaged or cut off; and what `check_size` raises.
    """
    try:
        size = images.header_size(content)
    except ValueError as error:
        raise _not_decoded(source, error) from error
    check_size(size)
    try:
        images.check_decodes(content)
    except ValueError as error:
        raise _not_decoded(source, error) from error


def _not_decoded(source: str, error: ValueError) -> ValueError:
    return ValueError(f"{source}: cannot be decoded ({error}); expected {images.EXPECTED}.")
