"""COCO instances format alone, with stuff from a second file or from PNGs where there is any."""

from __future__ import annotations

import functools
import os
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from pycocotools import mask as mask_api

from panoptic_tf.datasets import checks, coco_reader, files, images, json_fields, manifest, rle
from panoptic_tf.datasets.annotations import PanopticAnnotation
from panoptic_tf.datasets.coco_writer import ImageId
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import class_masks, coco_labels, drawing, photographs
from panoptic_tf.datasets.importers.legend import Legend
from panoptic_tf.datasets.importers.registry import register
from panoptic_tf.datasets.importers.source import (
    Mask,
    Size,
    Source,
    SourceImage,
    fingerprint_of_names,
)
from panoptic_tf.datasets.notes import Notes

_EXPECTED = "a COCO JSON file of instances or stuff"
_VOID_IN_PNGS = (0, 255)


@register("coco_instances")
def read_coco_instances(
    source: str,
    *,
    image_dir: str,
    stuff_json: Optional[str] = None,
    stuff_png_dir: Optional[str] = None,
    name: Optional[str] = None,
    on_top: str = drawing.SMALLER_ON_TOP,
    max_pixels: int = images.MAX_PIXELS,
    exif: str = photographs.AUTO,
) -> Source:
    """Reads instances, which are kept whole, and paints their map.

    Of two instances that share pixels the smaller has them in the map. Stuff lies beneath all
    instances. An image without annotation has no instance. `area` and `bbox` are not read.

    Args:
      source: JSON file with `images`, `annotations` and `categories`, which are things unless
        `isthing` is 0. A `segmentation` is polygons or run lengths, compressed or not.
      image_dir: folder of the images.
      stuff_json: file of the same format whose categories are all stuff; optional.
      stuff_png_dir: folder of PNGs, named as the images, of ids of the categories in `stuff_json`,
        whose annotations are then not read; 0 and 255 are void unless a category has them.
      name: name of the data set; default that of `source`.
      on_top: which of two instances has the pixels that both cover: the `smaller`, or the `later`
        in the file.
      max_pixels: limit of height times width of an image.
      exif: see `photographs.read`.

    Raises:
      ValueError: the files contradict each other or themselves; the message names file and field.
    """
    if stuff_png_dir is not None and stuff_json is None:
        raise ValueError("stuff_png_dir needs stuff_json, whose categories its ids are of.")
    content = json_fields.read_object(
        source, ("images", "annotations", "categories"), expected=_EXPECTED
    )
    name = name or os.path.splitext(os.path.basename(source))[0]
    notes = Notes()
    info = DatasetInfo.from_coco(content["categories"], name=name, source=source, notes=notes)
    reader = coco_reader.Reader(source, info, checks.raise_problem, notes)
    listed = reader.read_images(content["images"], image_dir, max_pixels)
    labels: Dict[ImageId, List[coco_labels.Label]] = {image_id: [] for image_id in listed}
    coco_labels.add_labels(labels, source, content["annotations"], dataset_info=info, listed=listed)
    fingerprint = {"source_sha256": manifest.sha256_of_file(source), "on_top": on_top}
    description = {"source": os.path.abspath(source), "image_dir": os.path.abspath(image_dir)}
    png_files: Dict[ImageId, Tuple[str, ...]] = {}
    legend = None
    if stuff_json is not None:
        stuff, stuff_info = _read_stuff(stuff_json, info)
        info = DatasetInfo.from_coco([*info.to_coco(), *stuff_info.to_coco()], name=name)
        fingerprint["stuff_sha256"] = manifest.sha256_of_file(stuff_json)
        description["stuff_json"] = os.path.abspath(stuff_json)
        if stuff_png_dir is None:
            json_fields.require_lists(stuff_json, stuff, ("annotations",), expected=_EXPECTED)
            coco_labels.add_labels(
                labels,
                stuff_json,
                stuff["annotations"],
                dataset_info=stuff_info,
                listed=listed,
                notes=notes,
            )
        else:
            legend = _legend_of_pngs(stuff_json, stuff_info, info)
            png_files = _find_pngs(stuff_png_dir, listed)
            found = [path for (path,) in png_files.values()]
            fingerprint["stuff_pngs"] = fingerprint_of_names(found, stuff_png_dir)
            description["stuff_png_dir"] = os.path.abspath(stuff_png_dir)
    notes.log(source)
    return Source(
        info,
        [
            SourceImage(
                image_id,
                str(image.image_file),
                image.file_name,
                tuple(labels[image_id]),
                png_files.get(image_id, ()),
                (image.height, image.width),
            )
            for image_id, image in listed.items()
        ],
        drawing.reader(
            functools.partial(draw, dataset_info=info, legend=legend),
            info,
            on_top=on_top,
            max_pixels=max_pixels,
            exif=exif,
        ),
        fingerprint,
        description,
    )


def draw(
    image: SourceImage, size: Size, *, dataset_info: DatasetInfo, legend: Optional[Legend]
) -> List[Mask]:
    """Draws the masks of an image; where a thing is, no stuff is."""
    is_thing = {c.dataset_id: c.is_thing for c in dataset_info.categories}
    masks = [coco_labels.draw(label, size) for label in image.labels]
    things = [mask for mask in masks if is_thing[mask.category_id]]
    stuff = [mask for mask in masks if not is_thing[mask.category_id]]
    for path in image.label_files:
        assert legend is not None  # It comes with the PNGs.
        stuff += _masks_of_png(path, size, legend)
    return [*_beneath(stuff, things, size), *things]


def _masks_of_png(path: str, size: Size, legend: Legend) -> Iterator[Mask]:
    categories = class_masks.read(path, size, legend)
    for category in np.unique(categories[categories > 0]).tolist():
        counts = rle.encode_rle(categories == category)
        yield Mask(legend.dataset_info.dataset_ids[category], counts)


def _beneath(stuff: Sequence[Mask], things: Sequence[Mask], size: Size) -> Iterator[Mask]:
    """Stuff without the pixels of things; what has none left is dropped."""
    shapes = [{"size": list(size), "counts": mask.rle} for mask in things]
    is_free = ~drawing.decode(mask_api.merge(shapes)["counts"], size) if things else np.True_
    for mask in stuff:
        left = drawing.decode(mask.rle, size) & is_free
        if left.any():
            yield Mask(mask.category_id, rle.encode_rle(left))


def _read_stuff(path: str, things: DatasetInfo) -> Tuple[Mapping[str, Any], DatasetInfo]:
    """A file of stuff and its categories, whose ids are not those of things."""
    content = json_fields.read_object(path, ("categories",), expected=_EXPECTED)
    items = [{**c, "isthing": 0} if isinstance(c, dict) else c for c in content["categories"]]
    info = DatasetInfo.from_coco(items, name=things.name, source=path)
    known = {c.dataset_id: c.name for c in things.categories}
    for category in info.categories:
        if category.dataset_id in known:
            raise ValueError(
                f"{path}: category id {category.dataset_id} ({category.name!r}) is that of "
                f"{known[category.dataset_id]!r} among the instances; ids must differ."
            )
    return content, info


def _legend_of_pngs(path: str, stuff: DatasetInfo, merged: DatasetInfo) -> Legend:
    contiguous = merged.contiguous_ids()
    by_id = dict.fromkeys(_VOID_IN_PNGS, 0)
    by_id.update({c.dataset_id: contiguous[c.dataset_id] for c in stuff.categories})
    return Legend(path, merged, by_id, {}, "only ids of categories are read.")


def _find_pngs(
    folder: str, listed: Mapping[ImageId, PanopticAnnotation]
) -> Dict[ImageId, Tuple[str, ...]]:
    found: Dict[ImageId, Tuple[str, ...]] = {}
    for image_id, image in listed.items():
        path = os.path.join(folder, os.path.splitext(image.file_name)[0] + ".png")
        problem = files.file_problem(path)
        if problem:
            raise ValueError(f"{path}: {problem}; expected stuff of image_id {image_id!r}.")
        found[image_id] = (path,)
    return found
