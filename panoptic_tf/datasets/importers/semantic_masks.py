"""Semantic masks: one PNG of class ids or colours for each image."""

from __future__ import annotations

import functools
import os
from typing import Any, Dict, Optional

import numpy as np
from scipy import ndimage

from panoptic_tf.datasets import images, manifest
from panoptic_tf.datasets.importers import class_masks, drawing, paired_files, photographs
from panoptic_tf.datasets.importers.legend import Legend, read_legend
from panoptic_tf.datasets.importers.registry import register
from panoptic_tf.datasets.importers.source import (
    SegmentMap,
    Size,
    Source,
    SourceImage,
    fingerprint_of_names,
)
from panoptic_tf.datasets.notes import Notes


@register("semantic_masks")
def read_semantic_masks(
    source: str,
    *,
    image_dir: str,
    categories: str,
    void_ids: Optional[str] = None,
    things_by_components: bool = False,
    name: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads masks of classes; nothing overlaps.

    Images and masks have the same names, endings apart, in folders or sub-folders. An image without
    mask is not annotated: it is logged and left out.

    Args:
      source: folder of the masks: PNGs of ids (8 or 16 bits grey, or the indices of a palette) or
        of colours (8 bits RGB).
      image_dir: folder of the images.
      categories: JSON or YAML file, a list of categories {id, name, isthing, color}; each has a
        colour of its own where masks are RGB.
      void_ids: ids that are void, with commas between; default 255, unless a category has it. Any
        other id that is no category's is an error. A category of such an id is the colour of void.
      things_by_components: every connected component of a thing category, corners included
        (8-connected), is an instance. Otherwise all its pixels in an image are one crowd.
      name: name of the data set; default that of its folder.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`; the size of a mask is what the annotation states.

    Raises:
      ValueError: the files contradict each other or themselves; the message names file and field.
    """
    legend = read_legend(categories, name=name or folder_name(source), void_ids=void_ids)
    found = paired_files.pair([source], image_dir)
    if not things_by_components:
        notes = Notes()
        for category in legend.dataset_info.categories:
            if category.is_thing:
                notes.add(class_masks.THINGS_APART, repr(category.name))
        notes.log(categories)
    options = f"void_ids={void_ids} things_by_components={things_by_components}"
    return Source(
        legend.dataset_info,
        found,
        drawing.reader(
            functools.partial(draw, legend=legend, by_components=things_by_components),
            legend.dataset_info,
            max_pixels=max_pixels,
            exif=exif,
        ),
        {
            "masks": fingerprint_of_names([image.label_files[0] for image in found], source),
            "categories_sha256": manifest.sha256_of_file(categories),
            "options": options,
        },
        describe(source=source, image_dir=image_dir, categories=categories),
    )


def draw(image: SourceImage, size: Size, *, legend: Legend, by_components: bool) -> SegmentMap:
    """Reads the mask of an image."""
    (path,) = image.label_files
    categories = class_masks.read(path, size, legend)
    instances = np.zeros_like(categories)
    if by_components:
        for category in np.intersect1d(categories, legend.dataset_info.thing_ids).tolist():
            instances += components(categories == category)
    return class_masks.segment_map(path, categories, instances, legend.dataset_info)


def components(mask: np.ndarray) -> np.ndarray:
    """Numbers the 8-connected components of a bool mask [H, W] from 1 on, int32; 0 elsewhere."""
    numbers, _ = ndimage.label(mask, structure=np.ones((3, 3), bool))
    return numbers.astype(np.int32, copy=False)


def folder_name(path: str) -> str:
    """The last part of the path of a folder."""
    return os.path.basename(os.path.abspath(path))


def describe(**paths: str) -> Dict[str, Any]:
    """Absolute paths, for the manifest."""
    return {key: os.path.abspath(path) for key, path in paths.items()}
