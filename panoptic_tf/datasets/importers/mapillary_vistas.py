"""Mapillary Vistas as it is downloaded: COCO panoptic format, in folders of its own.

    training/images/*.jpg
    training/v2.0/panoptic/panoptic_2020.json, *.png     version 2.0
    training/v1.2/panoptic/panoptic_2018.json, *.png     version 1.2; alone, without the folder v1.2

Categories and segments are what the JSON file says.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Optional

from panoptic_tf.datasets import files, images
from panoptic_tf.datasets.importers import coco_panoptic, folders, photographs
from panoptic_tf.datasets.importers.registry import register
from panoptic_tf.datasets.importers.source import Source

_SPLITS = {"train": "training", "val": "validation"}
JSON_FILES = {
    "1.2": ("v1.2/panoptic/panoptic_2018.json", "panoptic/panoptic_2018.json"),
    "2.0": ("v2.0/panoptic/panoptic_2020.json",),
}
"""Where the annotations of a version may lie, in the folder of the split."""


@register("mapillary_vistas")
def read_mapillary_vistas(
    source: str,
    *,
    version: str,
    split: str = "train",
    name: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads a split of Mapillary Vistas.

    Args:
      source: folder that holds training and validation.
      version: `1.2` (65 categories) or `2.0`, of the annotations.
      split: `train` or `val`; the images of test have no labels.
      name: name of the data set; default `mapillary_vistas_<version>`.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: another split or version, annotations that are not there, and what
        `coco_panoptic` raises.
    """
    folder = os.path.join(source, folders.of_split(split, _SPLITS, format_name="mapillary_vistas"))
    if version not in JSON_FILES:
        raise ValueError(f"version must be {' or '.join(JSON_FILES)}, got {files.shown(version)}.")
    paths = [os.path.join(folder, path) for path in JSON_FILES[version]]
    panoptic_json = next((path for path in paths if os.path.lexists(path)), None)
    if panoptic_json is None:
        raise ValueError(
            f"{' and '.join(paths)}: no such file; expected the annotations of Mapillary Vistas "
            f"{version}. --version names another."
        )
    image_dir = os.path.join(folder, "images")
    listed = coco_panoptic.read_coco_panoptic(
        panoptic_json,
        image_dir=image_dir,
        panoptic_dir=os.path.dirname(panoptic_json),
        name=name or f"mapillary_vistas_{version}",
        max_pixels=max_pixels,
        exif=exif,
    )
    # An image is a .jpg, whatever ending its entry has.
    return dataclasses.replace(
        listed,
        images=[
            dataclasses.replace(
                image,
                image_file=os.path.splitext(os.path.join(image_dir, image.file_name))[0] + ".jpg",
            )
            for image in listed.images
        ],
    )
