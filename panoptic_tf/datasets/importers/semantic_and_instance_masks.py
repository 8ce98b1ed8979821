"""Two PNGs for each image: one of class ids or colours, one of instance numbers."""

from __future__ import annotations

import functools
from typing import Optional

from panoptic_tf.datasets import images, manifest
from panoptic_tf.datasets.importers import (
    class_masks,
    drawing,
    label_png,
    paired_files,
    photographs,
    semantic_masks,
)
from panoptic_tf.datasets.importers.legend import Legend, read_legend
from panoptic_tf.datasets.importers.registry import register
from panoptic_tf.datasets.importers.source import (
    SegmentMap,
    Size,
    Source,
    SourceImage,
    fingerprint_of_names,
)


@register("semantic_and_instance_masks")
def read_semantic_and_instance_masks(
    source: str,
    *,
    instance_dir: str,
    image_dir: str,
    categories: str,
    void_ids: Optional[str] = None,
    name: Optional[str] = None,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads masks of classes and of instances; nothing overlaps.

    Every pair of a thing category and an instance number is a segment; instance numbers are not
    read on stuff and void. Things of number 0 are one crowd for each category.

    Args:
      source: folder of the masks of classes; see `semantic_masks`.
      instance_dir: folder of PNGs of the same names: instance numbers (8 or 16 bits grey, or the
        indices of a palette) or colours (8 bits RGB); 0 or black is no instance.
      image_dir: folder of the images; one without masks is logged and left out.
      categories: JSON or YAML file of categories; see `semantic_masks`.
      void_ids: ids that are void; see `semantic_masks`.
      name: name of the data set; default that of its folder.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`; the size of a mask is what the annotation states.

    Raises:
      ValueError: the files contradict each other or themselves; the message names file and field.
    """
    name = name or semantic_masks.folder_name(source)
    legend = read_legend(categories, name=name, void_ids=void_ids)
    found = paired_files.pair([source, instance_dir], image_dir)
    return Source(
        legend.dataset_info,
        found,
        drawing.reader(
            functools.partial(draw, legend=legend),
            legend.dataset_info,
            max_pixels=max_pixels,
            exif=exif,
        ),
        {
            "masks": fingerprint_of_names([image.label_files[0] for image in found], source),
            "instances": fingerprint_of_names(
                [image.label_files[1] for image in found], instance_dir
            ),
            "categories_sha256": manifest.sha256_of_file(categories),
            "options": f"void_ids={void_ids}",
        },
        semantic_masks.describe(
            source=source, instance_dir=instance_dir, image_dir=image_dir, categories=categories
        ),
    )


def draw(image: SourceImage, size: Size, *, legend: Legend) -> SegmentMap:
    """Reads the two masks of an image."""
    class_file, instance_file = image.label_files
    categories = class_masks.read(class_file, size, legend)
    pixels = label_png.read(
        instance_file, size, class_masks.KINDS, expected="a PNG of instance numbers or colours"
    )
    instances = class_masks.as_ids(pixels)
    return class_masks.segment_map(class_file, categories, instances, legend.dataset_info)
