"""Mends annotations in COCO panoptic format; see `mending` for what is safe."""

from __future__ import annotations

import collections
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import tqdm
from PIL import Image

from panoptic_tf.datasets import files, id_png, images, json_fields, mending, segments
from panoptic_tf.datasets.importers import panoptic_files, photographs
from panoptic_tf.datasets.mending import Change

_EXPECTED = "a COCO panoptic JSON file"
_Item = Dict[str, Any]


def mend_coco_panoptic(
    panoptic_json: str,
    output_dir: str,
    *,
    panoptic_dir: str,
    image_dir: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
) -> List[Change]:
    """Writes a mended copy of annotations; photographs are read, and neither copied nor changed.

    Mended are: entries that are there twice; heights and widths where photograph and PNG agree on
    another (without photographs: missing ones); PNGs with red and blue swapped, a palette or an
    alpha channel; a segment of id 0 whose area is that of the black pixels; segments that have
    neither a pixel nor an area, where others have pixels; areas and boxes. The last two only where
    the PNG holds no id that is not listed, and lacks none that has an area.

    Args:
      panoptic_json: file with `images`, `annotations` and `categories`.
      output_dir: folder that is empty or does not exist. It gets the JSON file under its own name,
        a folder of PNGs named as the JSON file without `.json`, and `changes.json`. PNGs that stay
        as they are are links.
      panoptic_dir: folder of the PNGs.
      image_dir: folder of the photographs; optional.
      max_pixels: limit of height times width; larger PNGs are not decoded.

    Returns:
      What was changed.

    Raises:
      ValueError: no such file, its name is one that the copy needs, or `output_dir` holds
        something.
      OSError: it cannot be written.
    """
    keys = ("images", "annotations", "categories")
    name = os.path.basename(panoptic_json)
    png_folder = os.path.splitext(name)[0]
    mending.check_names(panoptic_json, png_folder)
    content = dict(json_fields.read_object(panoptic_json, keys, expected=_EXPECTED))
    changes: List[Change] = []
    for key, id_key in (("images", "id"), ("annotations", "image_id"), ("categories", "id")):
        content[key] = mending.drop_copies(content[key], key, id_key, changes)
    with mending.new_folder(output_dir) as folder:
        png_dir = os.path.join(folder, png_folder)
        os.makedirs(png_dir)
        mender = _Mender(content, panoptic_dir, image_dir, png_dir, max_pixels, changes)
        for position in tqdm.trange(len(content["annotations"]), unit="image", desc="mend"):
            mender.mend(position)
        mending.write(folder, name, content, changes)
    return changes


class _Mender:
    """Mends the annotations of one file, one by one."""

    def __init__(
        self,
        content: _Item,
        panoptic_dir: str,
        image_dir: Optional[str],
        png_dir: str,
        max_pixels: int,
        changes: List[Change],
    ):
        self._annotations = content["annotations"]
        self._images: Dict[str, Tuple[str, _Item]] = {}
        for position, item in enumerate(content["images"]):
            key = _key(item.get("id") if isinstance(item, dict) else None)
            # Of two that differ, nothing tells which one is meant.
            self._images[key] = ("", {}) if key in self._images else (f"images[{position}]", item)
        self._images.pop("", None)
        names = [_name_of(item) for item in self._annotations]
        self._uses = collections.Counter(names)
        self._panoptic_dir, self._image_dir, self._png_dir = panoptic_dir, image_dir, png_dir
        self._max_pixels = max_pixels
        self._changes = changes

    def mend(self, position: int) -> None:
        """Mends an annotation and its image, and writes or links its PNG."""
        item = self._annotations[position]
        name = _name_of(item)
        try:
            path = files.inside(self._panoptic_dir, name, source="file_name", follow_links=True)
        except ValueError:
            return
        target = os.path.join(self._png_dir, name)
        if files.file_problem(path) or os.path.lexists(target):
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        ids = self._read_ids(path)
        if ids is not None and self._mend_size(item.get("image_id"), ids.shape):
            mended = self._mend_segments(f"annotations[{position}]", item, path, ids)
            if mended is not None and self._uses[name] == 1:
                with files.atomic_path(target) as temporary:
                    Image.fromarray(segments.id_to_rgb(mended)).save(temporary, "PNG")
                return
        os.symlink(os.path.abspath(path), target)

    def _read_ids(self, path: str) -> Optional[np.ndarray]:
        def check_size(size: Tuple[int, int]) -> None:
            if size[0] * size[1] > self._max_pixels:
                raise ValueError("more than max_pixels")

        try:
            return id_png.read_id_map(path, check_size=check_size)
        except ValueError:
            return None

    def _mend_size(self, image_id: Any, size: Sequence[int]) -> bool:
        """Mends the size of an image; returns whether it is that of its PNG now."""
        where, image = self._images.get(_key(image_id), ("", {}))
        height, width = size
        if (image.get("height"), image.get("width")) == (height, width):
            return True
        reason = self._reason_for_size(image, height, width)
        if reason:
            mending.set_size(image, where, height, width, reason, self._changes)
        return bool(reason)

    def _reason_for_size(self, image: _Item, height: int, width: int) -> str:
        """Why the size of a PNG is that of its image; empty where that is not sure."""
        if not image:
            return ""
        if self._image_dir is None:
            is_missing = image.get("height") is None and image.get("width") is None
            return "its PNG has it" if is_missing else ""
        try:
            path = files.inside(
                self._image_dir, image.get("file_name"), source="file_name", follow_links=True
            )
            stored, orientation = photographs.size_and_orientation(path)
        except ValueError:
            return ""
        frames = (stored, stored[::-1]) if orientation > 4 else (stored,)
        return "photograph and PNG both have it" if (height, width) in frames else ""

    def _mend_segments(
        self, where: str, item: _Item, path: str, ids: np.ndarray
    ) -> Optional[np.ndarray]:
        """Mends `segments_info`; returns the ids of the PNG where it must be another."""
        stated = item.get("segments_info")
        if not isinstance(stated, list):
            return None
        where = f"{where}.segments_info"
        item["segments_info"] = mending.drop_copies(stated, where, "id", self._changes)
        if not _is_sound(item["segments_info"]) or self._uses[_name_of(item)] > 1:
            return None
        mended, reasons = ids, []
        listed = item["segments_info"]
        rows, unknown, missing, is_swapped = _match(ids, listed)
        if is_swapped:
            mended = panoptic_files.swap_red_and_blue(ids)
            reasons.append("red and blue were swapped: all ids agree now")
        black = next((s for s in listed if s["id"] == 0), None)
        is_black = black is not None and black.get("area") == np.count_nonzero(mended == 0) > 0
        is_whole = not len(unknown) and (black is None or is_black)
        if is_whole and missing and _can_go(listed, missing, rows):
            item["segments_info"] = listed = self._drop(where, stated, listed, missing)
            missing = []
        if black is not None and is_black:
            mended = self._paint(where, listed, black, mended)
            reasons.append(f"black pixels are those of segment {black['id']}")
        kind = panoptic_files.color_note(path)
        if kind is not None:
            reasons.append(f"stored as RGB, the same ids ({kind})")
        if reasons:
            name = item["file_name"]
            self._changes.append(Change(name, "PNG", "rewritten as RGB", "; ".join(reasons)))
        if is_whole and not missing:
            self._measure(where, listed, _match(mended, listed)[0])
        return mended if reasons else None

    def _drop(
        self, where: str, stated: Sequence[Any], listed: Sequence[_Item], missing: Sequence[int]
    ) -> List[_Item]:
        """Leaves out segments without a pixel; their positions are those in the file."""
        ids = set(missing)
        gone = {id(segment) for segment in listed if segment["id"] in ids}
        for row, segment in enumerate(stated):
            if id(segment) in gone:
                reason = "it has no area, no pixel of the PNG has its id, and all others are listed"
                self._changes.append(Change(f"{where}[{row}]", {"id": segment["id"]}, None, reason))
        return [segment for segment in listed if id(segment) not in gone]

    def _paint(
        self, where: str, listed: Sequence[_Item], black: _Item, ids: np.ndarray
    ) -> np.ndarray:
        """Gives the segment of id 0 another id, and the black pixels to it."""
        used = {s["id"] for s in listed} | set(np.unique(ids).tolist())
        black["id"] = next(i for i in range(1, len(used) + 2) if i not in used)
        row = next(row for row, segment in enumerate(listed) if segment is black)
        reason = "its area is that of the black pixels"
        self._changes.append(Change(f"{where}[{row}].id", 0, black["id"], reason))
        return np.where(ids == 0, np.uint32(black["id"]), ids)

    def _measure(self, where: str, listed: Sequence[_Item], rows: np.ndarray) -> None:
        """Sets areas and boxes that are wrong."""
        areas, boxes = segments.areas_and_boxes(rows, len(listed))
        for row, (segment, area, box) in enumerate(zip(listed, areas.tolist(), boxes.tolist())):
            for key, measured in (("area", area), ("bbox", box)):
                if segment.get(key) is not None and segment[key] != measured:
                    field = f"{where}[{row}].{key}"
                    reason = "measured in the PNG"
                    self._changes.append(Change(field, segment[key], measured, reason))
                    segment[key] = measured


def _is_sound(listed: Sequence[Any]) -> bool:
    """Whether all segments have ids, and no two the same."""
    ids: List[Any] = [s.get("id") for s in listed if isinstance(s, dict)]
    return len(ids) == len(listed) == len(set(map(_key, ids))) and all(
        json_fields.is_integer(i) and 0 <= i <= segments.MAX_SEGMENT_ID for i in ids
    )


def _match(
    ids: np.ndarray, listed: Sequence[_Item]
) -> Tuple[np.ndarray, np.ndarray, List[int], bool]:
    """See `panoptic_files.match_ids`; a segment of id 0 is left out."""
    return panoptic_files.match_ids(ids, [s["id"] for s in listed if s["id"]])


def _can_go(listed: Sequence[_Item], missing: Sequence[int], rows: np.ndarray) -> bool:
    """Whether what has no pixel says nothing of an area either, and the PNG is not another's."""
    ids = set(missing)
    return bool(rows.any()) and all(s.get("area") in (None, 0) for s in listed if s["id"] in ids)


def _name_of(item: Any) -> Any:
    """The `file_name` of an entry that may be anything; None where it is no text."""
    name = item.get("file_name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None


def _key(value: Any) -> str:
    """Tells 1, 1.0, True and "1" apart, and takes what has no hash."""
    return f"{type(value).__name__} {value!r}" if isinstance(value, (int, str)) else ""
