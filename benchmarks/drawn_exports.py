"""Shapes in the formats that `convert` reads.

As a person would have drawn and exported them, LabelMe, CVAT and Ultralytics YOLO: every thing is
one whole outline, in the order in which they lie one over the other; in LabelMe and CVAT the bands
behind them are drawn too, YOLO has things only. COCO instances and masks as `predict` writes them.
Cityscapes, ADE20K and Mapillary Vistas in the folders of their archives, with categories of theirs.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple
from xml.etree import ElementTree

import cv2
import numpy as np
import yaml
from PIL import Image

from panoptic_tf.datasets import segments, shapes
from panoptic_tf.datasets.coco_format import CocoPanopticWriter
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.serving import writers
from panoptic_tf.serving.result import PanopticResult
from panoptic_tf.structures import Prediction

_FINER = 8
"""Corners lie within an eighth of a pixel."""

Points = List[Tuple[float, float]]


class Outline(NamedTuple):
    """A polygon (x, y) in pixels and the name of its category."""

    name: str
    points: Points


def draw(seed: int, index: int, size: int = shapes.SIZE) -> Tuple[np.ndarray, List[Outline]]:
    """An image of shapes, uint8 [size, size, 3], and its outlines; later ones lie on top."""
    rng = np.random.default_rng([seed, index])
    _, bands, kinds = shapes._draw_background(rng, size)
    names = [shapes.STUFF_NAMES[kind - len(shapes.THING_NAMES) - 1] for kind in kinds]
    masks = [(name, bands == band) for band, name in enumerate(names, start=1)]
    for thing, mask in shapes._place_things(rng, size):
        masks.append((shapes.THING_NAMES[thing.kind], mask))
    outlines = [Outline(name, outline(mask)) for name, mask in masks if mask.any()]
    return shapes.generate_image(seed, index, size).image, outlines


def outline(mask: np.ndarray) -> Points:
    """One polygon around the pixels of a mask, bool [H, W]; cuts of no width join its parts."""
    finer = np.kron(mask, np.ones((_FINER, _FINER), np.uint8)).astype(np.uint8)
    found, _ = cv2.findContours(finer, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = [part[:, 0].astype(float) for part in found if len(part) > 2]
    whole = parts[0]
    for part in parts[1:]:
        distances = np.abs(whole[:, np.newaxis] - part).sum(axis=2)
        at, start = np.unravel_index(distances.argmin(), distances.shape)
        loop = np.roll(part, -start, axis=0)
        whole = np.concatenate([whole[: at + 1], loop, loop[:1], whole[at:]])
    return [(x, y) for x, y in ((whole + 0.5) / _FINER).tolist()]


def write_labelme(folder: str, num_images: int, *, seed: int = 0) -> None:
    """A folder of images with a JSON file beside each."""
    os.makedirs(folder, exist_ok=True)
    for index in range(num_images):
        image, outlines = draw(seed, index)
        name = f"{index:06d}.png"
        Image.fromarray(image).save(os.path.join(folder, name))
        content = {
            "version": "5.0.1",
            "flags": {},
            "shapes": [
                {
                    "label": outline.name,
                    "points": [list(point) for point in outline.points],
                    "group_id": None,
                    "shape_type": "polygon",
                    "flags": {},
                }
                for outline in outlines
            ],
            "imagePath": name,
            "imageData": None,
            "imageHeight": image.shape[0],
            "imageWidth": image.shape[1],
        }
        with open(os.path.join(folder, f"{index:06d}.json"), "w", encoding="utf-8") as file:
            json.dump(content, file)


def write_cvat(folder: str, num_images: int, *, seed: int = 0) -> None:
    """annotations.xml of "CVAT for images 1.1" and the folder images."""
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(task, "labels")
    for name in (*shapes.THING_NAMES, *shapes.STUFF_NAMES):
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for index in range(num_images):
        image, outlines = draw(seed, index)
        name = f"{index:06d}.png"
        Image.fromarray(image).save(os.path.join(folder, "images", name))
        height, width = (str(side) for side in image.shape[:2])
        element = ElementTree.SubElement(
            root, "image", id=str(index), name=name, width=width, height=height
        )
        for order, outline in enumerate(outlines):
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline.points)
            ElementTree.SubElement(
                element,
                "polygon",
                {"label": outline.name, "points": points, "z_order": str(order), "occluded": "0"},
            )
    ElementTree.ElementTree(root).write(
        os.path.join(folder, "annotations.xml"), encoding="utf-8", xml_declaration=True
    )


def write_yolo(folder: str, splits: Sequence[Tuple[str, int, int]]) -> None:
    """data.yaml, images/<split>/ and labels/<split>/, things only.

    Args:
      folder: where to.
      splits: name, seed and number of images of each.
    """
    content: Dict[str, object] = {"path": "."}
    numbers = {name: number for number, name in enumerate(shapes.THING_NAMES)}
    for split, seed, num_images in splits:
        content[split] = f"images/{split}"
        for kind in ("images", "labels"):
            os.makedirs(os.path.join(folder, kind, split), exist_ok=True)
        for index in range(num_images):
            image, outlines = draw(seed, index)
            height, width = image.shape[:2]
            Image.fromarray(image).save(os.path.join(folder, "images", split, f"{index:06d}.png"))
            lines = []
            for outline in outlines:
                if outline.name in numbers:
                    values = [f"{x / width:.5f} {y / height:.5f}" for x, y in outline.points]
                    lines.append(" ".join([str(numbers[outline.name]), *values]))
            path = os.path.join(folder, "labels", split, f"{index:06d}.txt")
            with open(path, "w", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
    content["names"] = list(shapes.THING_NAMES)
    with open(os.path.join(folder, "data.yaml"), "w", encoding="utf-8") as file:
        yaml.safe_dump(content, file, sort_keys=False)


class Drawn(NamedTuple):
    """An image of shapes and its masks, [size, size] each; `categories` are 1..10, 0 is void."""

    image: np.ndarray
    categories: np.ndarray
    instances: np.ndarray
    is_crowd: np.ndarray


def draw_masks(num_images: int, size: int = shapes.SIZE) -> Iterator[Drawn]:
    """Images and masks, one after the other."""
    for index in range(num_images):
        image, id_map, described = shapes.generate_image(0, index, size)
        rows, _ = segments.ids_to_rows(id_map, [segment["id"] for segment in described])
        masks = segments.rows_to_masks(
            rows,
            categories=[segment["category_id"] for segment in described],
            is_crowd=[bool(segment["iscrowd"]) for segment in described],
            thing_ids=DatasetInfo.load("shapes").thing_ids,
        )
        yield Drawn(image, *masks)


def write_predicted(
    folder: str, num_images: int, *, formats: Sequence[str], size: int = shapes.SIZE
) -> None:
    """The folder images, and what `predict --write` makes of them where all is found.

    Args:
      folder: where to.
      num_images: how many.
      formats: of `writers.FORMATS`.
      size: height and width of the images.
    """
    info = DatasetInfo.load("shapes")
    chosen = [writers.FORMATS[name](folder, info) for name in formats]
    for index, drawn in enumerate(draw_masks(num_images, size)):
        name = f"{index:06d}.png"
        path = _save(drawn.image, folder, "images", name)
        masks = {
            Prediction.CATEGORY_MASK: drawn.categories,
            Prediction.INSTANCE_MASK: drawn.instances,
        }
        result = PanopticResult(drawn.image, masks, info)
        for writer in chosen:
            writer.add(writers.base.ImageFile(path, name, name[:-4], index), result)
    for writer in chosen:
        writer.close()


def write_cityscapes(folder: str, num_images: int, *, size: int = shapes.SIZE) -> None:
    """gtFine and leftImg8bit, the split train."""
    things, stuff = _ids_of("cityscapes_panoptic")
    label_of = np.array([0, *things, *stuff])  # 0 is "unlabeled"
    for index, drawn in enumerate(draw_masks(num_images, size)):
        ids = label_of[drawn.categories]
        has_number = (drawn.instances > 0) & ~drawn.is_crowd
        ids = np.where(has_number, ids * 1000 + drawn.instances, ids).astype(np.uint16)
        stem = f"shapes_000000_{index:06d}"
        _save(ids, folder, "gtFine/train/shapes", f"{stem}_gtFine_instanceIds.png")
        _save(drawn.image, folder, "leftImg8bit/train/shapes", f"{stem}_leftImg8bit.png")


def write_ade20k(folder: str, num_images: int, *, size: int = shapes.SIZE) -> None:
    """images, annotations and annotations_instance, the split training."""
    things, stuff = _ids_of("ade20k_panoptic")
    number_of = np.array([0, *(i + 1 for i in (*things, *stuff))])
    for index, drawn in enumerate(draw_masks(num_images, size)):
        instances = np.zeros(drawn.image.shape, np.uint8)
        is_thing = drawn.instances > 0
        instances[is_thing, 0] = drawn.categories[is_thing]  # of the k-th thing: k
        instances[is_thing, 1] = drawn.instances[is_thing]
        name = f"ADE_train_{index:08d}"
        _save(drawn.image, folder, "images/training", f"{name}.jpg")
        semantic = number_of[drawn.categories].astype(np.uint8)
        _save(semantic, folder, "annotations/training", f"{name}.png")
        _save(instances, folder, "annotations_instance/training", f"{name}.png")


def write_mapillary_vistas(folder: str, num_images: int, *, size: int = shapes.SIZE) -> None:
    """Version 2.0, the split training; the categories are the shapes'."""
    writer = CocoPanopticWriter(
        os.path.join(folder, "training/v2.0/panoptic"),
        DatasetInfo.load("shapes"),
        json_name="panoptic_2020.json",
        png_dir=".",
    )
    with writer:
        for index, (image, *masks, is_crowd) in enumerate(draw_masks(num_images, size)):
            stem = f"{index:022d}"
            _save(image, folder, "training/images", f"{stem}.jpg")
            writer.add(stem, stem, *masks, crowd=is_crowd)


def _ids_of(data_set: str) -> Tuple[List[int], List[int]]:
    """Ids of as many things and stuff of a data set as the shapes have."""
    categories = DatasetInfo.load(data_set).categories
    things = [c.dataset_id for c in categories if c.is_thing]
    stuff = [c.dataset_id for c in categories if not c.is_thing]
    return things[: len(shapes.THING_NAMES)], stuff[: len(shapes.STUFF_NAMES)]


def _save(pixels: np.ndarray, *path: str) -> str:
    """Saves a picture; the ending says how. Returns its path."""
    joined = os.path.join(*path)
    os.makedirs(os.path.dirname(joined), exist_ok=True)
    Image.fromarray(pixels).save(joined)
    return joined


class Export(NamedTuple):
    """A format: `write(folder, num_images)`, and options of `convert`; `{0}` is the folder."""

    write: Callable[..., object]
    options: Dict[str, str]


def _predicted(formats: Sequence[str], **options: str) -> Export:
    write = functools.partial(write_predicted, formats=formats)
    return Export(write, {**options, "image_dir": "{0}/images"})


_MASKS = {"source": "{0}/semantic_masks", "categories": "{0}/semantic_masks/categories.json"}
EXPORTS = {
    "coco_instances": _predicted(["coco_instances"], source="{0}/coco_instances.json"),
    "yolo": Export(
        lambda folder, num_images: write_yolo(folder, [("train", 0, num_images)]),
        {"source": "{0}/data.yaml"},
    ),
    "labelme": Export(write_labelme, {"source": "{0}"}),
    "cvat": Export(write_cvat, {"source": "{0}/annotations.xml", "image_dir": "{0}/images"}),
    "semantic_masks": _predicted(["semantic_masks"], **_MASKS, things_by_components="true"),
    "semantic_and_instance_masks": _predicted(
        ["semantic_masks", "instance_masks"], **_MASKS, instance_dir="{0}/instance_masks"
    ),
    "cityscapes": Export(write_cityscapes, {"source": "{0}"}),
    "ade20k_panoptic": Export(write_ade20k, {"source": "{0}"}),
    "mapillary_vistas": Export(write_mapillary_vistas, {"source": "{0}", "version": "2.0"}),
}
