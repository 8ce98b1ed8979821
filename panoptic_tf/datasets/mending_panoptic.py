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
    alpha channel; a segment of id 0 whose area is that of the black pixels; segments without a
    pixel, areas and boxes, where the PNG holds no id that is not listed.

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
      ValueError: no such file, or `output_dir` holds something.
      OSError: it cannot be written.
    """
    keys = ("images", "annotations", "categories")
    content = dict(json_fields.read_object(panoptic_json, keys, expected=_EXPECTED))
    name = os.path.basename(panoptic_json)
    changes: List[Change] = []
    for key, id_key in (("images", "id"), ("annotations", "image_id"), ("categories", "id")):
        content[key] = mending.drop_copies(content[key], key, id_key, changes)
    with mending.new_folder(output_dir) as folder:
        png_dir = os.path.join(folder, os.path.splitext(name)[0])
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
        listed = item.get("segments_info")
        if not isinstance(listed, list):
            return None
        listed = mending.drop_copies(listed, f"{where}.segments_info", "id", self._changes)
        item["segments_info"] = listed
        own_ids: List[Any] = [s.get("id") for s in listed if isinstance(s, dict)]
        is_sound = len(own_ids) == len(listed) == len(set(map(_key, own_ids))) and all(
            json_fields.is_integer(i) and 0 <= i <= segments.MAX_SEGMENT_ID for i in own_ids
        )
        if not is_sound or self._uses[_name_of(item)] > 1:
            return None
        mended, reasons = self._mend_ids(where, listed, ids)
        rows, unknown, missing, is_swapped = panoptic_files.match_ids(
            mended, [s["id"] for s in listed if s["id"]]
        )
        if is_swapped:
            mended = panoptic_files.swap_red_and_blue(mended)
            reasons.append("red and blue were swapped: all ids agree now")
        kind = panoptic_files.color_note(path)
        if kind is not None:
            reasons.append(f"stored as RGB, the same ids ({kind})")
        if reasons:
            name = os.path.basename(path)
            self._changes.append(Change(name, "PNG", "another PNG", "; ".join(reasons)))
        if not len(unknown) and all(s["id"] for s in listed):
            item["segments_info"] = self._measure(f"{where}.segments_info", listed, rows, missing)
        return mended if reasons else None

    def _mend_ids(
        self, where: str, listed: Sequence[_Item], ids: np.ndarray
    ) -> Tuple[np.ndarray, List[str]]:
        """Gives a segment of id 0 another, where its area says that all black pixels are its."""
        black = ids == 0
        for row, segment in enumerate(listed):
            if segment["id"] == 0 and segment.get("area") == np.count_nonzero(black) > 0:
                used = {s["id"] for s in listed} | set(np.unique(ids).tolist())
                segment["id"] = next(i for i in range(1, len(used) + 2) if i not in used)
                reason = "its area is that of the black pixels"
                field = f"{where}.segments_info[{row}].id"
                self._changes.append(Change(field, 0, segment["id"], reason))
                painted = np.where(black, np.uint32(segment["id"]), ids)
                return painted, [f"black pixels are those of segment {segment['id']}"]
        return ids, []

    def _measure(
        self, where: str, listed: Sequence[_Item], rows: np.ndarray, missing: Sequence[int]
    ) -> List[_Item]:
        """Sets areas and boxes that are wrong; leaves out segments without a pixel."""
        areas, boxes = segments.areas_and_boxes(rows, len(listed))
        kept = []
        for row, (segment, area, box) in enumerate(zip(listed, areas.tolist(), boxes.tolist())):
            if segment["id"] in missing:
                reason = "no pixel of the PNG has this id, and all others are listed"
                self._changes.append(Change(f"{where}[{row}]", {"id": segment["id"]}, None, reason))
                continue
            kept.append(segment)
            for key, measured in (("area", area), ("bbox", box)):
                if segment.get(key) is not None and segment[key] != measured:
                    field = f"{where}[{row}].{key}"
                    reason = "measured in the PNG"
                    self._changes.append(Change(field, segment[key], measured, reason))
                    segment[key] = measured
        return kept


def _name_of(item: Any) -> Any:
    """The `file_name` of an entry that may be anything; None where it is no text."""
    name = item.get("file_name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None


def _key(value: Any) -> str:
    """Tells 1, 1.0, True and "1" apart, and takes what has no hash."""
    return f"{type(value).__name__} {value!r}" if isinstance(value, (int, str)) else ""
