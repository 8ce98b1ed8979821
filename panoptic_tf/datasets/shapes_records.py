"""The embedded data set from nothing to records: generate both splits, then convert them."""

from __future__ import annotations

import os
from typing import NamedTuple

from panoptic_tf.datasets import converter, shapes_writer


class ShapesRecords(NamedTuple):
    """File patterns of the records.

    Attributes:
      train: of the training images.
      val: of the validation images.
      val_images: of the validation images as PNG files.
    """

    train: str
    val: str
    val_images: str


def write_records(data_dir: str, *, num_train: int = 8000, num_val: int = 200) -> ShapesRecords:
    """Writes what is missing below a folder and converts it; what is whole is kept.

    Args:
      data_dir: folder; gets train/ and val/ in COCO panoptic format, and records/.
      num_train, num_val: images of the splits.

    Returns:
      Patterns of what was written.
    """
    records = os.path.join(data_dir, "records")
    counts = {"train": num_train, "val": num_val}
    for split, (seed, _) in shapes_writer.SPLITS.items():
        folder = os.path.join(data_dir, split)
        json_path = shapes_writer.write_split(
            folder, seed=seed, num_images=counts[split], num_processes=os.cpu_count() or 1
        )
        converter.convert_dataset(
            "coco_panoptic",
            panoptic_json=json_path,
            panoptic_dir=os.path.join(folder, shapes_writer.PANOPTIC_DIR),
            image_dir=os.path.join(folder, shapes_writer.IMAGE_DIR),
            output_dir=records,
            name="shapes",
            split=split,
            overwrite=True,
        )
    return ShapesRecords(
        train=os.path.join(records, "train-*"),
        val=os.path.join(records, "val-*"),
        val_images=os.path.join(data_dir, "val", shapes_writer.IMAGE_DIR, "*.png"),
    )
