"""One annotated image read from its files, with every check of what must agree.

`convert` raises at the first problem, `doctor` collects them: both come through here.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from panoptic_tf.datasets import coco_format, files, images, record, segments
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


def load_annotation(
    annotation: PanopticAnnotation, report: Report = raise_problem
) -> Optional[LoadedAnnotation]:
    """Reads image and PNG of one annotation; sizes and ids must agree with the JSON file.

    Args:
      annotation: what the JSON file says.
      report: called with the text of each problem.

    Returns:
      The files, or None if `report` was called and returned.
    """
    problems: List[str] = []
    image_bytes, rows = None, None
    try:
        image_bytes = _load_image(annotation)
    except ValueError as error:
        problems.append(str(error))
    try:
        rows = _load_rows(annotation, problems.append)
    except ValueError as error:
        problems.append(str(error))
    for problem in problems:
        report(files.shorten(problem))
    if problems or rows is None:
        return None
    is_turned = image_bytes is not None and images.orientation(image_bytes) != 1
    return LoadedAnnotation(
        image_bytes,
        rows,
        annotation.segments,
        annotation.instances,
        (images.TURNED,) if is_turned else (),
    )


def read_annotation(annotation: PanopticAnnotation) -> LoadedAnnotation:
    """Reads image and PNG of one annotation.

    Raises:
      ValueError: the first problem.
    """
    loaded = load_annotation(annotation)
    assert loaded is not None  # Every problem is raised.
    return loaded


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


def _load_image(annotation: PanopticAnnotation) -> Optional[bytes]:
    path = annotation.image_file
    if path is None:
        return None
    content = files.read_bytes(path, expected=images.EXPECTED)

    def check_size(size: Tuple[int, int]) -> None:
        orientation = 1 if _has_size(annotation, size) else images.orientation(content)
        turned = f"; its EXIF orientation {orientation} is not applied"
        _check_size(annotation, path, size, turned if orientation > 1 else "")

    check_image(content, path, check_size)
    return content


def _load_rows(annotation: PanopticAnnotation, report: Report) -> np.ndarray:
    path = annotation.png_file
    where = f"{path}: image_id {annotation.image_id!r}"
    if len(annotation.segments) > record.MAX_SEGMENTS:
        raise ValueError(
            f"{where}: a record holds at most {record.MAX_SEGMENTS} segments, "
            f"got {len(annotation.segments)}."
        )
    id_map = coco_format.read_id_map(
        path, check_size=lambda size: _check_size(annotation, path, size)
    )
    rows, unknown_ids = segments.ids_to_rows(id_map, [s.id for s in annotation.segments])
    if len(unknown_ids):
        report(f"{where}: segments_info lacks {_some(unknown_ids)} of the PNG.")
    is_present = np.isin(np.arange(1, len(annotation.segments) + 1), rows)
    missing_ids = [s.id for s, present in zip(annotation.segments, is_present) if not present]
    if missing_ids:
        report(f"{where}: the PNG lacks {_some(missing_ids)} of segments_info.")
    return rows


def _has_size(annotation: PanopticAnnotation, size: Tuple[int, ...]) -> bool:
    return tuple(size) == (annotation.height, annotation.width)


def _check_size(
    annotation: PanopticAnnotation, path: str, size: Tuple[int, ...], remark: str = ""
) -> None:
    if not _has_size(annotation, size):
        raise ValueError(
            f"{path}: image_id {annotation.image_id!r} must be {annotation.height} x "
            f"{annotation.width} (height x width of its entry in 'images'), "
            f"got {size[0]} x {size[1]}{remark}."
        )


def _some(ids) -> str:
    shown = ", ".join(str(int(i)) for i in ids[:5])
    return f"{len(ids)} segment id(s) ({shown}{', ...' if len(ids) > 5 else ''})"
