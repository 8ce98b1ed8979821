"""One record of a shard, with every check of what its parts must agree on."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import checks, json_fields, png, record, rle
from panoptic_tf.datasets.annotations import Segment
from panoptic_tf.datasets.dataset_info import DatasetInfo

Example = Dict[str, Any]
"""What `record.decode_example` returns, as NumPy values; `image_id` is an int or a text."""


def read_example(serialized: tf.Tensor, max_pixels: int) -> Example:
    """Decodes a record, its image apart.

    Args:
      serialized: string [].
      max_pixels: limit of height times width; a larger id map is not decoded.

    Raises:
      ValueError: it cannot be decoded, or is too large.
    """
    try:
        _check_id_map_size(serialized.numpy(), max_pixels)
        decoded = record.decode_example(serialized)
        image_id = json.loads(decoded["image_id"].numpy())
    except tf.errors.OpError as error:
        raise ValueError(f"cannot be decoded ({error.message}).") from error
    except RecursionError as error:
        raise ValueError("image_id is nested too deeply.") from error
    example = {key: value.numpy() for key, value in decoded.items()}
    return {**example, "image_id": json_fields.image_id("image_id", image_id)}


def check_example(example: Example, info: DatasetInfo) -> None:
    """Checks that the parts of a record agree, and that training can decode its image.

    Raises:
      ValueError: they do not; the message names the field.
    """
    rows, size = example["id_map"], (int(example["height"]), int(example["width"]))
    num_segments = len(example["segment_ids"])
    for key in ("segment_categories", "segment_is_crowd", "segment_areas", "segment_boxes"):
        if len(example[key]) != num_segments:
            raise ValueError(f"{key} has {len(example[key])} entries, segment_ids {num_segments}.")

    def check_size(image_size: Tuple[int, int]) -> None:
        if not size == rows.shape == image_size:
            raise ValueError(
                f"height x width is {size}, of the id map {rows.shape}, of the image {image_size}."
            )

    checks.check_image(bytes(example["image_bytes"]), "image_bytes", check_size)
    if len(set(example["segment_ids"].tolist())) != num_segments:
        raise ValueError("segment_ids has an id twice.")
    present = np.bincount(rows.reshape(-1), minlength=num_segments + 1) > 0
    if len(present) != num_segments + 1 or not present[1:].all():
        raise ValueError(f"the id map must hold each of its {num_segments} segments and no other.")
    _check_categories("segment_categories", example["segment_categories"], info)
    _check_instances(example, info)


def segment_table(example: Example, info: DatasetInfo) -> List[Segment]:
    """The segments of a record that was checked."""
    columns = ("segment_ids", "segment_categories", "segment_is_crowd", "segment_areas")
    return [
        Segment(id_, info.dataset_ids[category], is_crowd, area, tuple(box))
        for id_, category, is_crowd, area, box in zip(
            *(example[key].tolist() for key in columns + ("segment_boxes",))
        )
    ]


def _check_id_map_size(serialized: bytes, max_pixels: int) -> None:
    try:
        height, width = png.header_size(*record.read_bytes(serialized, record.Field.ROWS))
    except Exception:  # No id map that could be large; the decoder says what is wrong.
        return
    if height * width > max_pixels:
        raise ValueError(
            f"height x width of the id map {height} x {width} are more than {max_pixels:,} pixels. "
            "Raise --max_pixels if that is meant."
        )


def _check_instances(example: Example, info: DatasetInfo) -> None:
    rles, categories = example["instance_rles"], example["instance_categories"]
    for key in ("instance_categories", "instance_is_crowd"):
        if len(example[key]) != len(rles):
            raise ValueError(f"{key} has {len(example[key])} entries, instance_rles {len(rles)}.")
    _check_categories("instance_categories", categories, info)
    stuff = categories[~np.isin(categories, info.thing_ids)]
    if len(stuff):
        raise ValueError(f"instance_categories must be things, got {info.names[stuff[0]]!r}.")
    for counts in rles:
        rle.check_rle(counts, int(example["height"]), int(example["width"]))


def _check_categories(field: str, categories: np.ndarray, info: DatasetInfo) -> None:
    wrong = categories[(categories < 1) | (categories > info.num_categories)]
    if len(wrong):
        raise ValueError(f"{field} must be 1..{info.num_categories}, got {wrong[0]}.")
