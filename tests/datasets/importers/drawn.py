"""Data sets whose truth is drawn as text, one character a pixel: `.` is nothing."""

import glob
import json

import numpy as np
import tensorflow as tf
from PIL import Image
from pycocotools import mask as mask_api

from panoptic_tf.datasets import converter, doctor, record
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.metrics.panoptic_quality import PanopticQuality


def masks(text):
    """Masks by character."""
    pixels = np.array([list(line) for line in text.split()])
    return {letter: pixels == letter for letter in np.unique(pixels) if letter != "."}


def box(size, top, left, bottom, right):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def save_image(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, [*size, 3], np.uint8)
    Image.fromarray(image).save(path)


def convert(format_name, output_dir, **options):
    """Converts, has `doctor` examine the records, and returns categories and records by id."""
    options = {"num_processes": 1, "num_shards": 2, "unlabelled_policy": "void", **options}
    converter.convert_dataset(format_name, str(output_dir), **options)
    pattern = str(output_dir / "*.tfrecord")
    report = doctor.examine_records(input_path=pattern, build_quality=PanopticQuality)
    assert report["problems"] == []
    examples = {}
    for serialized in tf.data.TFRecordDataset(glob.glob(pattern)):
        example = {k: v.numpy() for k, v in record.decode_example(serialized).items()}
        examples[json.loads(example["image_id"])] = example
    return DatasetInfo.load(str(output_dir / "dataset_info.json")), examples


def segments_of(info, example):
    """(name, mask as bytes) of each segment of a record."""
    rows = example["id_map"]
    return sorted(
        (info.names[category], (rows == row).tobytes())
        for row, category in enumerate(example["segment_categories"], start=1)
    )


def instances_of(info, example):
    """(name, mask as bytes) of each whole instance of a record."""
    size = list(example["id_map"].shape)
    return sorted(
        (info.names[category], _decode(counts, size).tobytes())
        for counts, category in zip(example["instance_rles"], example["instance_categories"])
    )


def expected(*pairs):
    """The same of (name, mask)."""
    return sorted((name, mask.tobytes()) for name, mask in pairs)


def _decode(counts, size):
    return mask_api.decode({"size": size, "counts": counts}).astype(bool)
