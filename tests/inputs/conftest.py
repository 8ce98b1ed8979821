"""Records drawn in the test, and samples without a file."""

import io
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets import coco_format, record
from panoptic_tf.structures import PanopticSample

CONTIGUOUS_IDS = {10: 1, 20: 2, 30: 3}
"""Of the data set's own ids: 10 and 20 are things, 30 is stuff."""

THING_IDS = (1, 2)


def encode(image_id, image, rows, categories, crowds=(), instances=None):
    """One serialized record; segment i has the data set's category categories[i]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    table = [
        coco_format.Segment(id=100 + i, category_id=c, is_crowd=i in crowds)
        for i, c in enumerate(categories)
    ]
    return record.encode_example(
        image_bytes=buffer.getvalue(),
        image_id=image_id,
        file_name=f"{image_id}.png",
        rows=rows.astype(np.int32),
        segment_table=table,
        contiguous_ids=CONTIGUOUS_IDS,
        instances=instances,
    )


def draw(image_id, height, width):
    """A picture whose every pixel holds the image's number, stuff below, a thing and a crowd."""
    image = np.full((height, width, 3), image_id, np.uint8)
    rows = np.zeros((height, width), np.int32)
    rows[height // 2 :] = 1
    rows[height // 4 : height // 2 + 1, : width // 2] = 2
    rows[:2, width - 3 :] = 3
    return encode(image_id, image, rows, [30, 10, 20], crowds=(2,))


def write(path, serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in serialized:
            writer.write(one)


@pytest.fixture
def draw_record():
    return draw


@pytest.fixture
def encode_record():
    return encode


@pytest.fixture
def write_records():
    return write


@pytest.fixture(scope="session")
def twelve_records(tmp_path_factory) -> str:
    """Pattern of three files with images 1..12 of sizes of their own."""
    folder: pathlib.Path = tmp_path_factory.mktemp("records")
    for shard in range(3):
        numbers = range(1 + 4 * shard, 5 + 4 * shard)
        write(
            folder / f"train-{shard:05d}-of-00003.tfrecord",
            [draw(n, 20 + n, 31 - n) for n in numbers],
        )
    return str(folder / "train-*")


@pytest.fixture
def make_sample():
    """A sample with blobs of ids: things 1..5, stuff, a crowd and void."""

    def make(height, width, seed=0):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 8, (6, 5))
        ids = blocks[np.arange(height) * 6 // height][:, np.arange(width) * 5 // width]
        categories = np.array([0, 1, 2, 1, 2, 1, 3, 3], np.int32)[ids]
        instances = np.where(ids < 6, ids, 0).astype(np.int32)
        return PanopticSample(
            image=tf.constant(rng.uniform(0, 255, (height, width, 3)), tf.float32),
            image_info=tf.zeros([4, 2]),
            category_mask=tf.constant(categories),
            instance_mask=tf.constant(instances),
            crowd_mask=tf.constant(instances == 5),
            image_id=tf.constant(json.dumps(seed)),
        )

    return make
