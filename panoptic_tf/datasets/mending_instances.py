"""Mends annotations in COCO instances format; see `mending` for what is safe."""

from __future__ import annotations

import collections
import math
import os
from typing import Any, Counter, Dict, List, Mapping, Optional, Sequence, Tuple

import tqdm
from pycocotools import mask as mask_api

from panoptic_tf.datasets import coco_instances, files, images, json_fields, mending, rle
from panoptic_tf.datasets.importers import photographs
from panoptic_tf.datasets.mending import Change

_EXPECTED = "a COCO instances JSON file"
_Item = Dict[str, Any]
_Size = Tuple[int, int]  # height, width

_SLACK = 2.0
"""Pixels by which the side of a box may differ from the extent of its mask: outlines run between
pixels, and tools round."""


def mend_coco_instances(
    source: str, output_dir: str, *, image_dir: str, max_pixels: int = images.MAX_PIXELS
) -> List[Change]:
    """Writes a mended copy of annotations; photographs are read, and neither copied nor changed.

    Mended are: entries that are there twice; polygons of fewer than three points beside others;
    heights and widths, to those of the photograph, where
    all masks of the image fit it and they are missing, or the run lengths say so too, or are the
    other way round and some mask fits only the photograph; areas and boxes that are no numbers, or
    not those of their mask. Images that share an id are left as they are.

    Args:
      source: JSON file with `images`, `annotations` and `categories`.
      output_dir: folder that is empty or does not exist. It gets the JSON file under its own name,
        and `changes.json`.
      image_dir: folder of the photographs.
      max_pixels: limit of height times width; larger sizes are not used.

    Returns:
      What was changed.

    Raises:
      ValueError: no such file, its name is `changes.json`, or `output_dir` holds something.
      OSError: it cannot be written.
    """
    keys = ("images", "annotations", "categories")
    mending.check_names(source)
    content = dict(json_fields.read_object(source, keys, expected=_EXPECTED))
    changes: List[Change] = []
    for key in keys:
        content[key] = mending.drop_copies(content[key], key, "id", changes)
    of_image: Dict[Any, List[_Item]] = {}
    for position, item in enumerate(content["annotations"]):
        if isinstance(item, dict):
            _drop_lines(item, f"annotations[{position}]", changes)
            of_image.setdefault(_key(item.get("image_id")), []).append(item)
    uses: Counter[Any] = collections.Counter(map(_id_of, content["images"]))
    with mending.new_folder(output_dir) as folder:
        sizes: Dict[Any, _Size] = {}
        for position, image in enumerate(tqdm.tqdm(content["images"], unit="image", desc="mend")):
            key = _id_of(image)
            if key is None or uses[key] > 1:
                continue
            field = f"images[{position}]"
            _mend_size(image, field, image_dir, of_image.get(key, []), max_pixels, changes)
            size = _size_of(image)
            if size is not None and size[0] * size[1] <= max_pixels:
                sizes[key] = size
        for position, item in enumerate(content["annotations"]):
            if isinstance(item, dict):
                _mend_annotation(item, f"annotations[{position}]", sizes, changes)
        mending.write(folder, os.path.basename(source), content, changes)
    return changes


def _mend_size(
    image: _Item,
    where: str,
    image_dir: str,
    annotations: Sequence[_Item],
    max_pixels: int,
    changes: List[Change],
) -> None:
    stated = _size_of(image)
    is_missing = image.get("height") is None and image.get("width") is None
    if stated is None and not is_missing:
        return
    try:
        path = files.inside(
            image_dir, image.get("file_name"), source="file_name", follow_links=True
        )
        size, orientation = photographs.size_and_orientation(path)
    except ValueError:
        return
    if orientation > 1 or stated == size or size[0] * size[1] > max_pixels:
        return
    masks = [annotation.get("segmentation") for annotation in annotations]
    if not all(_fits(mask, size) for mask in masks):
        return
    if not masks:
        reason = "the photograph has it, and there is no mask that depends on it"
    elif is_missing:
        reason = "the photograph has it, and all masks lie in it"
    elif all(isinstance(mask, dict) for mask in masks):
        reason = "the photograph and all run lengths have it"
    elif stated == size[::-1] and not all(_fits(mask, size[::-1]) for mask in masks):
        reason = "the photograph is the other way round, and some mask fits only that"
    else:
        return
    mending.set_size(image, where, *size, reason, changes)


def _fits(segmentation: Any, size: _Size) -> bool:
    if isinstance(segmentation, dict):
        return segmentation.get("size") == list(size)
    try:
        coco_instances.check_polygons("", segmentation, *size)
    except ValueError:
        return False
    height, width = size
    return all(
        -1 <= x <= width + 1 and -1 <= y <= height + 1
        for polygon in segmentation
        for x, y in zip(polygon[::2], polygon[1::2])
    )


def _mend_annotation(
    item: _Item, where: str, sizes: Mapping[Any, _Size], changes: List[Change]
) -> None:
    size = sizes.get(_key(item.get("image_id")))
    if size is None:
        return
    segmentation = item.get("segmentation")
    try:
        counts = coco_instances.encode_segmentation(where, segmentation, *size)
    except (ValueError, RecursionError):
        return
    area = rle.area(counts, *size)
    if not area:
        return
    box = mask_api.toBbox({"size": list(size), "counts": counts}).tolist()
    x, y, width, height = box
    stated = _numbers(item.get("bbox"), 4)
    if item.get("bbox") is not None and (stated is None or not _is_near(stated, box)):
        changes.append(Change(f"{where}.bbox", item["bbox"], box, "measured of its mask"))
        item["bbox"] = box
    # Half of the pixels that the outline runs through may be on either side of it.
    num_polygons = len(segmentation) if isinstance(segmentation, list) else 1
    outline = 2 * (width + height) * num_polygons + 4
    number = _numbers([item.get("area")], 1)
    if item.get("area") is not None and (number is None or abs(number[0] - area) > outline):
        changes.append(Change(f"{where}.area", item["area"], area, "measured of its mask"))
        item["area"] = area


def _drop_lines(item: _Item, where: str, changes: List[Change]) -> None:
    """Leaves out polygons of one or two points, which have no pixel, where others are whole."""
    polygons = item.get("segmentation")
    if not isinstance(polygons, list) or not all(isinstance(p, list) for p in polygons):
        return
    lines = [p for p in polygons if len(p) in (0, 2, 4)]
    if lines and len(lines) < len(polygons):
        reason = "polygons of fewer than three points have no pixel"
        changes.append(Change(f"{where}.segmentation", lines, None, reason))
        item["segmentation"] = [p for p in polygons if len(p) not in (0, 2, 4)]


def _is_near(stated: Sequence[float], box: Sequence[float]) -> bool:
    """Whether two boxes (x, y, width, height) have about the same sides."""
    corners = [(b[0], b[1], b[0] + b[2], b[1] + b[3]) for b in (stated, box)]
    return all(abs(a - b) <= _SLACK for a, b in zip(*corners))


def _numbers(values: Any, count: int) -> Optional[List[float]]:
    """Finite numbers, so many of them; None of anything else."""
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(type(v) in (int, float) and abs(v) < 2**31 for v in values):
        return None
    return [float(v) for v in values] if all(map(math.isfinite, values)) else None


def _size_of(image: Mapping[str, Any]) -> Optional[_Size]:
    sides: List[Any] = [image.get("height"), image.get("width")]
    if not all(json_fields.is_integer(side) and 0 < side < 2**31 for side in sides):
        return None
    return sides[0], sides[1]


def _id_of(image: Any) -> Any:
    """The id of an entry of `images` that may be anything; None where it has none."""
    return _key(image.get("id")) if isinstance(image, dict) else None


def _key(value: Any) -> Any:
    """An id of an image; None of what is none."""
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None
