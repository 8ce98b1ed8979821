"""What the speed of the input pipeline is measured on: annotated JPEGs of 480x640, in one file.

Drawn images by default: textured regions of stuff, 15 things of all sizes over them, noise until a
picture has about 160 KB, as a photo of COCO has. Or the images of records.
"""

from __future__ import annotations

import io
from typing import Any, Dict, List, Mapping, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets import coco_format, record, rle

HEIGHT, WIDTH = 480, 640
NUM_THINGS = 15
NUM_STUFF = 5
THING_CATEGORIES = 80
"""Contiguous ids 1..80 are things, from there on stuff; as in COCO."""

_CATEGORIES = 133
_JPEG_QUALITY = 90
_OCTAVES = (4, 8, 16, 32, 64, 128)


class AnnotatedImage(NamedTuple):
    """One image of a workload.

    Attributes:
      jpeg: bytes.
      rows: int32 [H, W], row of the segment + 1, 0 is void.
      categories: int32 [S], contiguous.
      is_crowd: bool [S].
    """

    jpeg: bytes
    rows: np.ndarray
    categories: np.ndarray
    is_crowd: np.ndarray


def build(count: int) -> Dict[str, np.ndarray]:
    """A workload of drawn images."""
    return _to_arrays([_draw(np.random.RandomState(i)) for i in range(count)])


def build_from_records(pattern: str) -> Dict[str, np.ndarray]:
    """A workload of the images of records, whose categories must be those of COCO."""
    images = []
    for serialized in tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern))):
        example = {key: value.numpy() for key, value in record.decode_example(serialized).items()}
        images.append(
            AnnotatedImage(
                example["image_bytes"],
                example["id_map"],
                example["segment_categories"],
                example["segment_is_crowd"],
            )
        )
    return _to_arrays(images)


def load(workload: Mapping[str, np.ndarray]) -> List[AnnotatedImage]:
    """The images of a workload."""
    return [
        AnnotatedImage(
            workload[f"jpeg/{i}"].tobytes(), *(workload[f"{name}/{i}"] for name in _FIELDS)
        )
        for i in range(int(workload["count"]))
    ]


def write_records(images: List[AnnotatedImage], path: str) -> None:
    """Writes our records, things with masks of their own beside the id map."""
    identity = {i: i for i in range(1, _CATEGORIES + 1)}
    with tf.io.TFRecordWriter(path) as writer:
        for number, image in enumerate(images):
            table = [
                coco_format.Segment(id=1 + i, category_id=int(c), is_crowd=bool(crowd))
                for i, (c, crowd) in enumerate(zip(image.categories, image.is_crowd))
            ]
            serialized = record.encode_example(
                image_bytes=image.jpeg,
                image_id=number,
                file_name=f"{number}.jpg",
                rows=image.rows,
                segment_table=table,
                contiguous_ids=identity,
                instances=_instances(image),
            )
            writer.write(serialized)


_FIELDS = AnnotatedImage._fields[1:]


def _instances(image: AnnotatedImage) -> List[coco_format.Instance]:
    return [
        coco_format.Instance(rle.encode_rle(image.rows == i + 1), int(category), bool(crowd))
        for i, (category, crowd) in enumerate(zip(image.categories, image.is_crowd))
        if category <= THING_CATEGORIES
    ]


def _to_arrays(images: List[AnnotatedImage]) -> Dict[str, np.ndarray]:
    arrays: Dict[str, Any] = {"count": np.array(len(images))}
    for i, image in enumerate(images):
        arrays[f"jpeg/{i}"] = np.frombuffer(image.jpeg, np.uint8)
        arrays.update({f"{name}/{i}": getattr(image, name) for name in _FIELDS})
    return arrays


def _draw(generator: np.random.RandomState) -> AnnotatedImage:
    fields = [_noise(generator, _OCTAVES[:3]) for _ in range(NUM_STUFF)]
    rows = np.argmax(fields, axis=0).astype(np.int32) + 1
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for i in range(NUM_THINGS):
        radius = np.exp(generator.uniform(np.log(8), np.log(120)))
        center = generator.uniform(0, HEIGHT), generator.uniform(0, WIDTH)
        angle = np.arctan2(y - center[0], x - center[1])
        # An outline of a few waves, stretched along one axis.
        reach = 1 + 0.2 * np.cos(generator.randint(2, 7) * angle + generator.uniform(0, 6))
        stretched = np.hypot((y - center[0]) * generator.uniform(0.6, 1.6), x - center[1])
        rows[stretched < radius * reach] = NUM_STUFF + 1 + i
    stuff = generator.randint(THING_CATEGORIES + 1, _CATEGORIES + 1, NUM_STUFF)
    things = generator.randint(1, THING_CATEGORIES + 1, NUM_THINGS)
    is_crowd = np.arange(NUM_STUFF + NUM_THINGS) == NUM_STUFF
    colours = generator.uniform(40, 215, [NUM_STUFF + NUM_THINGS + 1, 3])
    texture = np.stack([_noise(generator, _OCTAVES) for _ in range(3)], axis=-1)
    grain = generator.normal(0, 9, [HEIGHT, WIDTH, 1])
    pixels = np.clip(colours[rows] + 25 * texture + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return AnnotatedImage(
        buffer.getvalue(), rows, np.concatenate([stuff, things]).astype(np.int32), is_crowd
    )


def _noise(generator: np.random.RandomState, octaves: Any) -> np.ndarray:
    """Smooth noise of several scales, standard deviation about 1: float [HEIGHT, WIDTH]."""
    total = np.zeros([HEIGHT, WIDTH])
    for cells in octaves:
        grid = generator.normal(0, 1, [cells, cells]).astype(np.float32)
        size = (WIDTH, HEIGHT)
        total += np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BILINEAR))
    return total / total.std()
