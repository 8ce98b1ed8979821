"""Reads the photograph and the id PNG of one annotation in COCO panoptic format.

`convert` raises at the first problem, `doctor` collects them: both come through here.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf.datasets import coco_format, files, images, record, segments
from panoptic_tf.datasets.annotations import PanopticAnnotation
from panoptic_tf.datasets.checks import LoadedAnnotation, Report, raise_problem
from panoptic_tf.datasets.importers import photographs

PALETTE = "id PNGs have a palette; its colours are read as ids"
ALPHA = "id PNGs have an alpha channel, which is not read"
SWAPPED = "id PNGs have red and blue swapped; they are read as id = B + 256 G + 65536 R"
"""Kinds of `Notes`."""

_COLOR_TYPE = 25  # byte of a PNG file
_NOTES_OF_COLOR_TYPE = {3: PALETTE, 6: ALPHA}


def load_annotation(
    annotation: PanopticAnnotation,
    report: Report = raise_problem,
    *,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Optional[LoadedAnnotation]:
    """Reads image and PNG of one annotation; sizes and ids must agree with the JSON file.

    Args:
      annotation: what the JSON file says.
      report: called with the text of each problem.
      max_pixels: limit of height times width of the image.
      exif: see `photographs.read`.

    Returns:
      The files, or None if `report` was called and returned.
    """
    problems: List[str] = []
    photograph, rows = None, None
    notes: Tuple[str, ...] = ()
    try:
        photograph = _read_photograph(annotation, max_pixels, exif)
    except ValueError as error:
        problems.append(str(error))
    try:
        rows, notes = _read_rows(annotation, problems.append)
    except ValueError as error:
        problems.append(str(error))
    for problem in problems:
        report(files.shorten(problem))
    if problems or rows is None:
        return None
    return LoadedAnnotation(
        photograph.content if photograph else None,
        rows,
        annotation.segments,
        annotation.instances,
        (*(photograph.notes if photograph else ()), *notes),
    )


def read_annotation(
    annotation: PanopticAnnotation,
    *,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> LoadedAnnotation:
    """Reads image and PNG of one annotation; see `load_annotation`.

    Raises:
      ValueError: the first problem.
    """
    loaded = load_annotation(annotation, max_pixels=max_pixels, exif=exif)
    assert loaded is not None  # Every problem is raised.
    return loaded


def match_ids(
    id_map: np.ndarray, segment_ids: Sequence[int]
) -> Tuple[np.ndarray, np.ndarray, List[int], bool]:
    """Ids of a PNG to rows of its segments, red and blue swapped where only that fits.

    Args:
      id_map: uint32 [H, W], 0 is void.
      segment_ids: S ids, all different and positive.

    Returns:
      rows: int32 [H, W], row of the segment + 1, 0 is void.
      unknown_ids: ids of the map that are not listed.
      missing_ids: listed ids that the map lacks.
      is_swapped: whether ids were read as B + 256 G + 65536 R: all ids agree then, and did not.
    """
    rows, unknown_ids, missing_ids = _match(id_map, segment_ids)
    if len(unknown_ids):
        swapped = _match(swap_red_and_blue(id_map), segment_ids)
        if not len(swapped[1]) and not swapped[2]:
            return (*swapped, True)
    return rows, unknown_ids, missing_ids, False


def swap_red_and_blue(ids: np.ndarray) -> np.ndarray:
    """Ids of the same colours with red and blue swapped, uint32 of any shape."""
    ids = ids.astype(np.uint32)
    return (ids & 255) << 16 | ids & 0xFF00 | ids >> 16 & 255


def color_note(path: str) -> Optional[str]:
    """The kind of note on how a PNG stores its colours; None where it is plain RGB."""
    with open(path, "rb") as file:
        header = file.read(_COLOR_TYPE + 1)
    return _NOTES_OF_COLOR_TYPE.get(header[-1])


def _match(
    id_map: np.ndarray, segment_ids: Sequence[int]
) -> Tuple[np.ndarray, np.ndarray, List[int]]:
    rows, unknown_ids = segments.ids_to_rows(id_map, segment_ids)
    is_present = np.isin(np.arange(1, len(segment_ids) + 1), rows)
    missing_ids = [i for i, present in zip(segment_ids, is_present) if not present]
    return rows, unknown_ids, missing_ids


def _read_photograph(
    annotation: PanopticAnnotation, max_pixels: int, exif: str
) -> Optional[photographs.Photograph]:
    if annotation.image_file is None:
        return None
    return photographs.read(
        annotation.image_file,
        stated=(annotation.height, annotation.width),
        max_pixels=max_pixels,
        exif=exif,
        whose=f"image_id {annotation.image_id!r}",
    )


def _read_rows(
    annotation: PanopticAnnotation, report: Report
) -> Tuple[np.ndarray, Tuple[str, ...]]:
    """Rows of the segments, and kinds of notes on the PNG."""
    path = annotation.png_file
    where = f"{path}: image_id {annotation.image_id!r}"
    if len(annotation.segments) > record.MAX_SEGMENTS:
        raise ValueError(
            f"{where}: a record holds at most {record.MAX_SEGMENTS} segments, "
            f"got {len(annotation.segments)}."
        )

    def check_size(size: Tuple[int, int]) -> None:
        if size != (annotation.height, annotation.width):
            raise ValueError(
                f"{where} must be {annotation.height} x {annotation.width} (height x width of its "
                f"entry in 'images'), got {size[0]} x {size[1]}."
            )

    id_map = coco_format.read_id_map(path, check_size=check_size)
    rows, unknown_ids, missing_ids, is_swapped = match_ids(
        id_map, [s.id for s in annotation.segments]
    )
    if len(unknown_ids):
        report(f"{where}: segments_info lacks {_some(unknown_ids.tolist())} of the PNG.")
    if missing_ids:
        report(f"{where}: the PNG lacks {_some(missing_ids)} of segments_info.")
    found = (color_note(path), SWAPPED if is_swapped else None)
    return rows, tuple(note for note in found if note)


def _some(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:5]))
    return f"{len(ids)} segment id(s) ({shown}{', ...' if len(ids) > 5 else ''})"
