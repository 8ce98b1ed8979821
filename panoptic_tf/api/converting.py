"""Conversion from Python."""

from __future__ import annotations

import os
from typing import Any, List, Union

from panoptic_tf.datasets import converter
from panoptic_tf.datasets.manifest import Manifest


def convert(
    format: str, output_dir: Union[str, os.PathLike], *, split: str = "train", **options: Any
) -> List[Manifest]:
    """Converts an annotated data set to records.

    Args:
      format: of the annotations: `coco_panoptic`, `coco_instances`, `yolo`, `labelme`, ...; see
        docs/data.md.
      output_dir: folder to write to; an interrupted conversion is resumed.
      split: beginning of the shards' names, or names and shares: `train:0.8,val:0.2`.
      **options: of `converter.convert_dataset`, and those of the format: its flags, such as
        `image_dir` or `source`. `beam_options`, a list of Apache Beam's, which may be empty, has
        the workers of a runner write the shards.

    Returns:
      The manifest of each split, which lists the shards and their numbers of records.

    Example:
        panoptic_tf.convert(
            "coco_panoptic",
            "data/records",
            panoptic_json="data/train/panoptic.json",
            panoptic_dir="data/train/panoptic",
            image_dir="data/train/images",
            split="train:0.8,val:0.2",
        )

    Raises:
      ValueError: the annotations contradict each other or themselves, or `output_dir` holds
        another data set; the message names file and field.
      OSError: `output_dir` cannot be written.
    """
    return converter.convert_dataset(format, os.fspath(output_dir), split=split, **options)
