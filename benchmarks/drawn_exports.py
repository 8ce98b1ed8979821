"""Shapes as a person would have drawn and exported them: LabelMe, CVAT and Ultralytics YOLO.

Every thing is one whole outline, in the order in which they lie one over the other; in LabelMe and
CVAT the bands behind them are drawn too, YOLO has things only.
"""

from __future__ import annotations

import json
import os
from typing import Dict, List, NamedTuple, Sequence, Tuple
from xml.etree import ElementTree

import cv2
import numpy as np
import yaml
from PIL import Image

from panoptic_tf.datasets import shapes

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
