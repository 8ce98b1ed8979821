"""COCO instances format alone, with stuff from a second file or from PNGs where there is any."""

from __future__ import annotations

import functools
import os
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

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
    stuff = _Stuff(info, {}, {})
    if stuff_json is not None:
        stuff = _add_stuff(stuff_json, stuff_png_dir, info, labels, listed, notes)
    paths = {
        "source": source,
        "image_dir": image_dir,
        "stuff_json": stuff_json,
        "stuff_png_dir": stuff_png_dir,
    }
    notes.log(source)
    return Source(
        stuff.dataset_info,
        [
            SourceImage(
                image_id,
                str(image.image_file),
                image.file_name,
                tuple(labels[image_id]),
                stuff.png_files.get(image_id, ()),
                (image.height, image.width),
            )
            for image_id, image in listed.items()
        ],
        drawing.reader(
            functools.partial(draw, dataset_info=stuff.dataset_info, legend=stuff.legend),
            stuff.dataset_info,
            on_top=on_top,
            max_pixels=max_pixels,
            exif=exif,
        ),
        {"source_sha256": manifest.sha256_of_file(source), **stuff.fingerprint},
        {key: os.path.abspath(path) for key, path in paths.items() if path is not None},
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
    is_free = np.ones(size, bool)
    if things:
        is_free = ~rle.decode_rle(rle.unite([mask.rle for mask in things], *size), *size)
    for mask in stuff:
        left = rle.decode_rle(mask.rle, *size) & is_free
        if left.any():
            yield Mask(mask.category_id, rle.encode_rle(left))


class _Stuff(NamedTuple):
    """What a file of stuff adds.

    Attributes:
      dataset_info: the categories, those of stuff behind the others.
      fingerprint: checksums of its files.
      png_files: the PNG of each image; none where its annotations are read.
      legend: what the ids of the PNGs mean.
    """

    dataset_info: DatasetInfo
    fingerprint: Mapping[str, str]
    png_files: Mapping[ImageId, Tuple[str, ...]]
    legend: Optional[Legend] = None


def _add_stuff(
    stuff_json: str,
    stuff_png_dir: Optional[str],
    info: DatasetInfo,
    labels: Dict[ImageId, List[coco_labels.Label]],
    listed: Mapping[ImageId, PanopticAnnotation],
    notes: Notes,
) -> _Stuff:
    """Reads the categories of stuff, and its annotations to `labels` or the names of its PNGs."""
    keys = ("categories",) if stuff_png_dir else ("annotations", "categories")
    content = json_fields.read_object(stuff_json, keys, expected=_EXPECTED)
    own = _categories_of_stuff(stuff_json, content["categories"], info)
    merged = DatasetInfo.from_coco([*info.to_coco(), *own.to_coco()], name=info.name)
    fingerprint = {"stuff_sha256": manifest.sha256_of_file(stuff_json)}
    if stuff_png_dir is None:
        coco_labels.add_labels(
            labels, stuff_json, content["annotations"], dataset_info=own, listed=listed, notes=notes
        )
        return _Stuff(merged, fingerprint, {})
    png_files = _find_pngs(stuff_png_dir, listed)
    paths = [path for (path,) in png_files.values()]
    fingerprint["stuff_pngs"] = fingerprint_of_names(paths, stuff_png_dir)
    return _Stuff(merged, fingerprint, png_files, _legend_of_pngs(stuff_json, own, merged))


def _categories_of_stuff(path: str, listed: Sequence[Any], things: DatasetInfo) -> DatasetInfo:
    """The categories of a file of stuff, whose ids are not those of things."""
    items = [{**c, "isthing": 0} if isinstance(c, dict) else c for c in listed]
    info = DatasetInfo.from_coco(items, name=things.name, source=path)
    known = {c.dataset_id: c.name for c in things.categories}
    for category in info.categories:
        if category.dataset_id in known:
            raise ValueError(
                f"{path}: category id {category.dataset_id} ({category.name!r}) is that of "
                f"{known[category.dataset_id]!r} among the instances; ids must differ."
            )
    return info


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
