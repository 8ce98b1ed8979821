"""Writes the shapes data set in COCO panoptic format: images, id PNGs and one JSON per split.

<output_dir>/<split>/images/000000.png      RGB, lossless
<output_dir>/<split>/panoptic/000000.png    segment ids as colours
<output_dir>/<split>/panoptic.json          written last: a split that has it is complete
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from typing import Any, Dict, List

import numpy as np
from PIL import Image
from tqdm import tqdm

from panoptic_tf.datasets import files, shapes
from panoptic_tf.datasets.coco_format import id_to_rgb
from panoptic_tf.datasets.dataset_info import DatasetInfo

SPLITS = {"train": (0, 8000), "val": (1, 200)}
"""Seed and number of images of each split."""

IMAGE_DIR, PANOPTIC_DIR, PANOPTIC_JSON = "images", "panoptic", "panoptic.json"

_GENERATOR = "panoptic_tf shapes"
_CHUNK = 16


def write_split(
    split_dir: str,
    *,
    seed: int,
    num_images: int,
    size: int = shapes.SIZE,
    num_processes: int = 1,
    show_progress: bool = True,
) -> str:
    """Writes one split, or leaves it alone if the same split is complete already.

    Args:
      split_dir: folder for the images, the id PNGs and the JSON file.
      seed: seed of the split.
      num_images: number of images; fewer images are the first ones of more.
      size: height and width in pixels.
      num_processes: processes that generate and write images.
      show_progress: whether to show a progress bar.

    Returns:
      The path of the JSON file.

    Raises:
      ValueError: a number is out of range, or the folder holds a JSON file of another origin.
      OSError: the folder cannot be written.
    """
    _check_positive(num_images=num_images, size=size, num_processes=num_processes)
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    recipe = {"description": _GENERATOR, "seed": seed, "num_images": num_images, "size": size}
    json_path = os.path.join(split_dir, PANOPTIC_JSON)
    if os.path.exists(json_path):
        if _read_recipe(json_path) == recipe:
            return json_path
        os.unlink(json_path)  # What follows overwrites its images.
    for folder in (IMAGE_DIR, PANOPTIC_DIR):
        os.makedirs(os.path.join(split_dir, folder), exist_ok=True)

    write = functools.partial(_write_image, split_dir, seed, size)
    annotations = _map(write, num_images, num_processes, show_progress)
    images = [
        {"id": a["image_id"], "file_name": a["file_name"], "height": size, "width": size}
        for a in annotations
    ]
    content = {
        "info": recipe,
        "images": images,
        "annotations": annotations,
        "categories": DatasetInfo.load("shapes").to_coco(),
    }
    text = json.dumps(content, separators=(",", ":"))
    files.write_bytes(json_path, text.encode())
    return json_path


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")


def _read_recipe(json_path: str) -> Dict[str, Any]:
    content = files.read_json(json_path, expected="the annotations of a shapes split")
    info = content.get("info") if isinstance(content, dict) else None
    if not isinstance(info, dict) or info.get("description") != _GENERATOR:
        raise ValueError(
            f"{json_path}: info.description is not {_GENERATOR!r}: these annotations are another "
            "data set's and would be overwritten. Choose another output folder."
        )
    return info


def _map(write, num_images: int, num_processes: int, show_progress: bool) -> List[Dict[str, Any]]:
    bar = functools.partial(
        tqdm, total=num_images, unit="image", desc="shapes", disable=not show_progress
    )
    if num_processes == 1:
        return list(bar(map(write, range(num_images))))
    # Not forked: the caller may hold TensorFlow's threads.
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        return list(bar(pool.imap(write, range(num_images), chunksize=_CHUNK)))


def _write_image(split_dir: str, seed: int, size: int, index: int) -> Dict[str, Any]:
    """Writes image and id PNG number `index` and returns their annotation."""
    image, id_map, segments = shapes.generate_image(seed, index, size)
    file_name = f"{index:06d}.png"
    _save_png(image, os.path.join(split_dir, IMAGE_DIR, file_name))
    _save_png(id_to_rgb(id_map), os.path.join(split_dir, PANOPTIC_DIR, file_name))
    return {"image_id": index, "file_name": file_name, "segments_info": segments}


def _save_png(image: np.ndarray, path: str) -> None:
    Image.fromarray(image).save(path, compress_level=1)
