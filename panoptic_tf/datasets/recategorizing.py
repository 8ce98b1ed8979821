"""Gives annotated images other categories.

Things that become things stay instances, crowds stay crowds. What becomes stuff is one segment of
its category in an image, no crowd unless all of it was a crowd of stuff; its overlapping instances
are left out. Stuff that becomes a thing is one instance in an image, for each category it was.
"""

from __future__ import annotations

import dataclasses
from typing import Dict, Hashable, List, Mapping, Sequence, Tuple

import numpy as np

from panoptic_tf.datasets import rle
from panoptic_tf.datasets.annotations import Instance, Segment
from panoptic_tf.datasets.checks import LoadedAnnotation
from panoptic_tf.datasets.dataset_info import DatasetInfo

STUFF_AS_THING = "segments of stuff became things: all of it in an image is one instance"
"""A kind of `Notes`."""


@dataclasses.dataclass(frozen=True)
class CategoryMap:
    """What becomes of every category of a source.

    Attributes:
      source_info: the categories of the source.
      dataset_info: those of the result; its `dataset_id` are the contiguous ids.
      new_ids: id of the result by `dataset_id` of the source; what becomes void is missing.
    """

    source_info: DatasetInfo
    dataset_info: DatasetInfo
    new_ids: Mapping[int, int]


def remap(loaded: LoadedAnnotation, category_map: CategoryMap) -> LoadedAnnotation:
    """Gives an image the categories of a map.

    Args:
      loaded: of the source.
      category_map: what becomes of its categories.

    Returns:
      The same image; segments keep the ids of the first that became part of them.
    """
    was_thing, is_thing = (
        {c.dataset_id: c.is_thing for c in info.categories}
        for info in (category_map.source_info, category_map.dataset_info)
    )
    # Segments of the source that become one of the result, by what makes them one.
    groups: Dict[Hashable, List[int]] = {}
    for row, segment in enumerate(loaded.segments):
        old_id = segment.category_id
        new_id = category_map.new_ids.get(old_id)
        if new_id is None:
            continue
        key: Hashable = ("stuff", new_id)
        if is_thing[new_id]:
            key = ("thing", row) if was_thing[old_id] else ("thing of stuff", old_id)
        groups.setdefault(key, []).append(row)
    table = np.zeros(len(loaded.segments) + 1, np.int32)
    new_segments: List[Segment] = []
    from_stuff: List[int] = []
    for number, members in enumerate(groups.values(), start=1):
        olds = [loaded.segments[row] for row in members]
        new_id = category_map.new_ids[olds[0].category_id]
        is_crowd = all(
            old.is_crowd and (is_thing[new_id] or not was_thing[old.category_id]) for old in olds
        )
        new_segments.append(Segment(olds[0].id, new_id, is_crowd))
        table[[row + 1 for row in members]] = number
        if is_thing[new_id] and not was_thing[olds[0].category_id]:
            from_stuff.append(number)
    rows = table[loaded.rows]
    notes = (*loaded.notes, STUFF_AS_THING) if from_stuff else loaded.notes
    instances = None
    if loaded.instances is not None:
        instances = _remap_instances(loaded.instances, category_map, is_thing)
        for number in from_stuff:
            segment = new_segments[number - 1]
            mask = rle.encode_rle(rows == number)
            instances += (Instance(mask, segment.category_id, segment.is_crowd),)
    return LoadedAnnotation(loaded.image_bytes, rows, tuple(new_segments), instances, notes)


def _remap_instances(
    instances: Sequence[Instance], category_map: CategoryMap, is_thing: Mapping[int, bool]
) -> Tuple[Instance, ...]:
    """Those that are still things; categories of instances are contiguous ids."""
    dataset_ids = category_map.source_info.dataset_ids
    kept = []
    for instance in instances:
        new_id = category_map.new_ids.get(dataset_ids[instance.category])
        if new_id is not None and is_thing[new_id]:
            kept.append(dataclasses.replace(instance, category=new_id))
    return tuple(kept)
