"""One annotated image read from its files, with every check of what must agree.

`convert` raises at the first problem, `doctor` collects them: both come through here.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from panoptic_tf.datasets import coco_format, segments

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class LoadedAnnotation:
    """The files of one annotation.

    Attributes:
      image_bytes: JPEG or PNG, None if the annotation has no image file.
      rows: int32 [H, W], row of the segment + 1, 0 is void.
    """

    image_bytes: Optional[bytes]
    rows: np.ndarray


def raise_problem(message: str) -> None:
    """Reports a problem by raising it."""
    raise ValueError(message)


def load_annotation(
    annotation: coco_format.PanopticAnnotation, report: Report = raise_problem
) -> Optional[LoadedAnnotation]:
    """Reads image and PNG of one annotation; sizes and ids must agree with the JSON file.

    Args:
      annotation: what the JSON file says.
      report: called with the text of each problem.

    Returns:
      The files, or None if `report` was called and returned.
    """
    problems: List[str] = []
    image_bytes = _load_image(annotation, problems.append)
    rows = _load_rows(annotation, problems.append)
    for problem in problems:
        report(problem)
    return None if problems or rows is None else LoadedAnnotation(image_bytes, rows)


def segment_problems(
    where: str, segment_table: Sequence[coco_format.Segment], areas: np.ndarray, boxes: np.ndarray
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


def read_image(path: str) -> Tuple[bytes, Tuple[int, int]]:
    """Reads an image and proves that it decodes.

    Args:
      path: a JPEG or PNG file.

    Returns:
      The file's bytes, and (height, width).

    Raises:
      ValueError: no such file, truncated, or neither JPEG nor PNG.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a JPEG or PNG image.") from error
    return content, image_size(content, source=path)


def image_size(content: bytes, *, source: str) -> Tuple[int, int]:
    """Decodes an image and returns (height, width).

    Raises:
      ValueError: truncated, or neither JPEG nor PNG.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            image.load()
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{source}: cannot be decoded ({error}); expected a JPEG or PNG image."
        ) from error


def _load_image(annotation: coco_format.PanopticAnnotation, report: Report) -> Optional[bytes]:
    path = annotation.image_file
    if path is None:
        return None
    try:
        content, size = read_image(path)
    except ValueError as error:
        report(str(error))
        return None
    _check_size(annotation, path, size, report)
    return content


def _load_rows(annotation: coco_format.PanopticAnnotation, report: Report) -> Optional[np.ndarray]:
    try:
        id_map = coco_format.read_id_map(annotation.png_file)
    except ValueError as error:
        report(str(error))
        return None
    _check_size(annotation, annotation.png_file, id_map.shape, report)
    rows, unknown_ids = segments.ids_to_rows(id_map, [s.id for s in annotation.segments])
    where = f"{annotation.png_file}: image_id {annotation.image_id!r}"
    if len(unknown_ids):
        report(f"{where}: segments_info lacks {_some(unknown_ids)} of the PNG.")
    is_present = np.isin(np.arange(1, len(annotation.segments) + 1), rows)
    missing_ids = [s.id for s, present in zip(annotation.segments, is_present) if not present]
    if missing_ids:
        report(f"{where}: the PNG lacks {_some(missing_ids)} of segments_info.")
    return rows


def _check_size(
    annotation: coco_format.PanopticAnnotation, path: str, size: Tuple[int, ...], report: Report
) -> None:
    expected = (annotation.height, annotation.width)
    if tuple(size) != expected:
        report(
            f"{path}: image_id {annotation.image_id!r} must be {expected[0]} x {expected[1]} "
            f"(height x width of its entry in 'images'), got {size[0]} x {size[1]}."
        )


def _some(ids) -> str:
    shown = ", ".join(str(int(i)) for i in ids[:5])
    return f"{len(ids)} segment id(s) ({shown}{', ...' if len(ids) > 5 else ''})"
