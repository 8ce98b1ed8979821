"""What tests of importers share: records as they are read, and ways to damage a PNG."""

import io
import os
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets import converter, doctor, record
from panoptic_tf.metrics.panoptic_quality import PanopticQuality


def convert(format_name, folder, **options):
    """Converts in this process, into `folder`."""
    return converter.convert_dataset(
        format_name, str(folder), num_processes=1, num_shards=1, **options
    )


def read_records(folder):
    """Decoded records by image id, as NumPy values."""
    records = {}
    for path in sorted(pathlib.Path(folder).glob("*.tfrecord")):
        for serialized in tf.data.TFRecordDataset(str(path)):
            decoded = {k: v.numpy() for k, v in record.decode_example(serialized).items()}
            records[decoded["image_id"].decode().strip('"')] = decoded
    return records


def check_clean(folder, split="train"):
    """`doctor` finds nothing wrong; returns its report."""
    report = doctor.examine_records(input_path=f"{folder}/{split}-*", build_quality=PanopticQuality)
    assert report["problems"] == [] and report["ground_truth_PQ"] == 100
    return report


def _cut(content):
    return content[: len(content) // 2]


def _flip(content):
    place = content.index(b"IDAT") + 8
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def _saved(mode, kind="PNG"):
    def save(content):
        saved = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image)
            pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
            Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(saved, kind)
        return saved.getvalue()

    return save


def _wider(content):
    saved = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image)
        Image.fromarray(np.concatenate([pixels, pixels], axis=1)).save(saved, "PNG")
    return saved.getvalue()


DAMAGE = {
    "empty": (lambda content: b"", "not a PNG with a whole header"),
    "text": (lambda content: b"no image", "not a PNG with a whole header"),
    "signature": (lambda content: content[:8], "not a PNG with a whole header"),
    "header": (lambda content: content[:33], "cut off"),
    "half": (_cut, "damaged or cut off|cut off"),
    "end": (lambda content: content[:-12], "cut off: it ends without the chunk IEND"),
    "flipped bit": (_flip, "checksum of its chunk b'IDAT' is wrong"),
    "JPEG": (_saved("L", "JPEG"), "not a PNG with a whole header"),
    "one bit": (_saved("1"), "must be a PNG of .*, got 1 bits of colour type 0"),
    "transparent": (_saved("RGBA"), "must be a PNG of .*, got 8 bits of colour type 6"),
    "another size": (_wider, r"must be \d+ x \d+ \(height x width of its"),
}
"""Ways to damage a PNG of labels, and what the error must say."""


def damage(path, kind):
    """Damages a file; returns what the error must say after its name."""
    change, message = DAMAGE[kind]
    path.write_bytes(change(path.read_bytes()))
    return message


NO_FILE = {
    "missing": (os.unlink, "no such file|No such file"),
    "pipe": (lambda path: (os.unlink(path), os.mkfifo(path)), "is a pipe or a device"),
    "folder": (lambda path: (os.unlink(path), os.mkdir(path)), "is a folder"),
    "dangling link": (
        lambda path: (os.unlink(path), os.symlink("/nonexistent/x.png", path)),
        "no such file",
    ),
}
"""Ways for a file not to be one, and what the error must say."""
