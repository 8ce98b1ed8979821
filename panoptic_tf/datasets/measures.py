"""Sizes of images and segments in records, which a training is fitted to; no image is decoded."""

from __future__ import annotations

import dataclasses
import glob
from typing import List, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.record import Field, parse_fields


@dataclasses.dataclass(frozen=True)
class Measures:
    """What was measured of N images with T things and S segments of stuff; crowds are left out.

    Attributes:
      sizes: int64 [N, 2], (height, width).
      thing_areas: int64 [T], visible pixels.
      thing_images: int64 [T], index of the image.
      stuff_areas: int64 [S].
      stuff_images: int64 [S].
      num_things: number of thing categories.
      has_instances: whether records bring instances that may overlap.
    """

    sizes: np.ndarray
    thing_areas: np.ndarray
    thing_images: np.ndarray
    stuff_areas: np.ndarray
    stuff_images: np.ndarray
    num_things: int
    has_instances: bool

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.sizes)

    @property
    def most_things(self) -> int:
        """Things of the image that has most."""
        return int(np.bincount(self.thing_images, minlength=1).max())


def measure_records(input_path: str, dataset_info: DatasetInfo) -> Measures:
    """Measures the records of a pattern.

    Args:
      input_path: glob of the shards.
      dataset_info: their categories.

    Raises:
      ValueError: no file matches, or there is no record.
    """
    fields = (Field.HEIGHT, Field.WIDTH, Field.HAS_INSTANCES)
    columns = (Field.SEGMENT_CATEGORIES, Field.SEGMENT_IS_CROWD, Field.SEGMENT_AREAS)
    sizes: List[Tuple[int, int]] = []
    found: List[np.ndarray] = []
    has_instances = False
    for example in tf.data.TFRecordDataset(sorted(glob.glob(input_path))):
        parsed = [tensor.numpy() for tensor in parse_fields(example, *fields, *columns)]
        height, width, brings_instances, categories, crowds, areas = parsed
        images = np.full_like(categories, len(sizes))
        found.append(np.stack([categories, areas, images], axis=1)[crowds == 0])
        sizes.append((int(height), int(width)))
        has_instances |= bool(brings_instances > 0)
    if not sizes:
        raise ValueError(f"{input_path} matches no record.")
    categories, areas, images = np.concatenate(found).T  # [T + S] each
    is_thing = np.isin(categories, dataset_info.thing_ids)
    return Measures(
        sizes=np.array(sizes, np.int64),
        thing_areas=areas[is_thing],
        thing_images=images[is_thing],
        stuff_areas=areas[~is_thing],
        stuff_images=images[~is_thing],
        num_things=len(dataset_info.thing_ids),
        has_instances=has_instances,
    )
