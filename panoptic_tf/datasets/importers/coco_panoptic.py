"""COCO panoptic format: COCO, Cityscapes by its createPanopticImgs, what this package writes."""

from __future__ import annotations

import functools
import os
from typing import Any, Dict, Optional

from panoptic_tf.datasets import (
    checks,
    coco_format,
    coco_instances,
    images,
    manifest,
)
from panoptic_tf.datasets.importers import panoptic_files, photographs
from panoptic_tf.datasets.importers.registry import register
from panoptic_tf.datasets.importers.source import Source
from panoptic_tf.datasets.notes import Notes


@register("coco_panoptic")
def read_coco_panoptic(
    panoptic_json: str,
    *,
    image_dir: str,
    panoptic_dir: Optional[str] = None,
    instances_json: Optional[str] = None,
    name: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads a data set in COCO panoptic format.

    Args:
      panoptic_json: file with `images`, `annotations` and `categories`.
      image_dir: folder of the images.
      panoptic_dir: folder of the PNGs; default the JSON file's path without `.json`.
      instances_json: file in COCO instances format of the same images; its masks, which may
        overlap, go into the records.
      name: name of the data set; default the JSON file's.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: the files contradict each other or themselves; the message names file and field.
    """
    photographs.check_exif(exif)
    panoptic_dir = panoptic_dir or os.path.splitext(panoptic_json)[0]
    notes = Notes()
    info, annotations = coco_format.read_panoptic_json(
        panoptic_json,
        panoptic_dir=panoptic_dir,
        image_dir=image_dir,
        name=name,
        max_pixels=max_pixels,
        notes=notes,
    )
    notes.log(panoptic_json)
    for annotation in annotations:
        for problem in checks.crowd_problems(annotation, info):
            raise ValueError(problem)
    description: Dict[str, Any] = {
        "panoptic_json": os.path.abspath(panoptic_json),
        "panoptic_dir": os.path.abspath(panoptic_dir),
        "image_dir": os.path.abspath(image_dir),
    }
    fingerprint = {"source_sha256": manifest.sha256_of_file(panoptic_json)}
    if instances_json is not None:
        annotations = coco_instances.add_instances(annotations, instances_json, info)
        fingerprint["instances_sha256"] = manifest.sha256_of_file(instances_json)
        description["instances_json"] = os.path.abspath(instances_json)
        description["num_instances"] = sum(len(a.instances or ()) for a in annotations)
    read = functools.partial(panoptic_files.read_annotation, max_pixels=max_pixels, exif=exif)
    return Source(info, annotations, read, fingerprint, description)
