"""The file of categories that says what the ids and colours of class masks mean."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from panoptic_tf.datasets import files, json_fields, yaml_files
from panoptic_tf.datasets.dataset_info import DatasetInfo

EXPECTED = "a list of categories {id, name, isthing, color} in JSON or YAML"

MOST_ID = 65535
"""What a mask of 16 bits holds."""

_VOID = 255
"""Default id of void."""


@dataclasses.dataclass(frozen=True)
class Legend:
    """What the pixels of masks mean.

    Attributes:
      source: the file of categories.
      dataset_info: its categories, without those that are void.
      by_id: contiguous categories by id, 0 is void.
      by_color: contiguous categories by R + 256 G + 65536 B.
      color_problem: why colours cannot be read; None where they can.
    """

    source: str
    dataset_info: DatasetInfo
    by_id: Mapping[int, int]
    by_color: Mapping[int, int]
    color_problem: Optional[str]


def read_legend(path: str, *, name: str, void_ids: Optional[str] = None) -> Legend:
    """Reads a file of categories.

    Args:
      path: JSON, or YAML where its name ends so: a list of categories, or an object with
        `categories`.
      name: of the data set.
      void_ids: ids that are void, with commas between; a category of such an id is the colour of
        void. Default 255, unless a category has it.

    Raises:
      ValueError: malformed; the message names file and field.
    """
    items = _read_items(path)
    try:
        listed = DatasetInfo.from_coco(items, name=name, source=path)
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply; expected {EXPECTED}.") from error
    void = _parse_void_ids(void_ids, listed)
    kept = [c for c in listed.to_coco() if c["id"] not in void]
    if not kept:
        raise ValueError(f"{path}: all of its categories are among the void_ids {void_ids!r}.")
    info = DatasetInfo.from_coco(kept, name=name, source=path)
    by_id = {**dict.fromkeys(void, 0), **info.contiguous_ids()}
    by_color, color_problem = _colors(path, items, by_id)
    return Legend(path, info, by_id, by_color, color_problem)


def _read_items(path: str) -> List[Any]:
    if path.lower().endswith((".yaml", ".yml")):
        content = yaml_files.read(path, expected=EXPECTED)
    else:
        content = files.read_json(path, expected=EXPECTED)
    items = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise ValueError(f"{path}: expected {EXPECTED}, got {type(items).__name__}.")
    return items


def _parse_void_ids(text: Optional[str], listed: DatasetInfo) -> Sequence[int]:
    if text is None:
        return () if _VOID in listed.contiguous_ids() else (_VOID,)
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(re.fullmatch(r"[0-9]{1,5}", p) and int(p) <= MOST_ID for p in parts):
        raise ValueError(
            f"void_ids must be ids of 0..{MOST_ID} with commas between, got {files.shown(text)}."
        )
    return tuple(int(part) for part in parts)


def _colors(
    path: str, items: Sequence[Any], by_id: Mapping[int, int]
) -> Tuple[Dict[int, int], Optional[str]]:
    """Contiguous categories by colour, and what is wrong with the first colour that is."""
    by_color: Dict[int, int] = {}
    for position, item in enumerate(items):
        field, color = f"{path}: categories[{position}].color", item.get("color")
        is_color = isinstance(color, list) and len(color) == 3
        if not is_color or not all(json_fields.is_integer(v) and 0 <= v <= 255 for v in color):
            return {}, f"{field} must be three integers of 0..255, got {files.shown(color)}."
        code = int.from_bytes(bytes(color), "little")
        if code in by_color:
            return {}, f"{field} {color} is that of another category."
        by_color[code] = by_id[item["id"]]
    return by_color, None
