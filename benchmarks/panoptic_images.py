"""Panoptic annotations and imperfect predictions of them in COCO format, drawn at random.

The segments have the sizes, winding outlines and void seams of annotated photographs; predictions
have shifted outlines, wrong categories, missed, split and merged things.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from PIL import Image
from tqdm import tqdm

HEIGHT, WIDTH = 480, 640
NUM_THINGS, NUM_STUFF = 80, 53
"""Categories 1..80 are things, 81..133 stuff, as many as COCO has."""


class Segments(NamedTuple):
    """A map of segments and what they are.

    Attributes:
      rows: int [H, W], 0 is void.
      categories: category of row i + 1.
      is_crowd: of row i + 1.
    """

    rows: np.ndarray
    categories: List[int]
    is_crowd: List[bool]


def write_images(folder: str, count: int, seed: int = 0) -> None:
    """Writes `truth.json`, `truth/`, `found.json` and `found/`: COCO panoptic JSON and PNGs."""
    sides: Dict[str, List[Dict[str, Any]]] = {"truth": [], "found": []}
    for side in sides:
        os.makedirs(os.path.join(folder, side), exist_ok=True)
    for image_id in tqdm(range(count), unit="image", desc="draw"):
        rng = np.random.default_rng([seed, image_id])
        truth = _draw_truth(rng)
        for side, drawn in (("truth", truth), ("found", _predict(rng, truth))):
            path = os.path.join(folder, side, f"{image_id:012}.png")
            sides[side].append({"image_id": image_id, **_write(rng, drawn, path)})
    categories = [
        {"id": i, "name": str(i), "isthing": int(i <= NUM_THINGS)}
        for i in range(1, NUM_THINGS + NUM_STUFF + 1)
    ]
    for side, listed in sides.items():
        content = {"annotations": listed, "categories": categories}
        with open(os.path.join(folder, side + ".json"), "w", encoding="utf-8") as file:
            json.dump(content, file)


def _draw_truth(rng: np.random.Generator) -> Segments:
    """3 to 6 regions of stuff, behind 6 to 18 things and a crowd or two in every third image."""
    num_stuff = int(rng.integers(3, 7))
    regions = np.stack([_field(rng) for _ in range(num_stuff)])
    rows = regions.argmax(axis=0) + 1
    top = np.sort(regions, axis=0)
    rows[top[-1] - top[-2] < 0.02] = 0  # seams that nobody annotated
    categories = (NUM_THINGS + 1 + rng.permutation(NUM_STUFF)[:num_stuff]).tolist()
    is_crowd = [False] * num_stuff
    common = rng.integers(1, NUM_THINGS + 1, 3)  # things of an image are of few categories
    num_crowds = int(rng.integers(1, 3)) if rng.random() < 0.33 else 0
    for i in range(int(rng.integers(6, 19)) + num_crowds):
        blob, edge = _blob(rng, 0.12 if i < num_crowds else None)
        categories.append(int(rng.choice(common)))
        is_crowd.append(i < num_crowds)
        rows[edge] = 0
        rows[blob] = len(categories)
    return _compact(Segments(rows, categories, is_crowd))


def _predict(rng: np.random.Generator, truth: Segments) -> Segments:
    """The truth through the eyes of a network that finds two things of three."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    ys = np.clip(ys + np.rint(6 * _field(rng)).astype(int), 0, HEIGHT - 1)
    xs = np.clip(xs + np.rint(6 * _field(rng)).astype(int), 0, WIDTH - 1)
    rows = truth.rows[ys, xs]
    categories = list(truth.categories)
    for row in range(1, len(truth.categories) + 1):
        outcome = rng.random()
        if outcome < 0.1:  # missed: its neighbour or nothing is there
            rows[rows == row] = int(rng.integers(0, len(truth.categories) + 1))
        elif outcome < 0.2:  # of another category
            categories[row - 1] = int(rng.integers(1, NUM_THINGS + NUM_STUFF + 1))
        elif outcome < 0.3:  # split
            categories.append(categories[row - 1])
            rows[(rows == row) & (_field(rng) > 0)] = len(categories)
    # What is predicted has few seams: most become their left neighbour's.
    source = np.where((rows == 0) & (_field(rng) > -1), 0, np.arange(WIDTH))
    rows = np.take_along_axis(rows, np.maximum.accumulate(source, axis=1), axis=1)
    return _compact(Segments(rows, categories, [False] * len(categories)))


def _field(rng: np.random.Generator) -> np.ndarray:
    """A smooth random function with small ripples: float [H, W], about -2..2."""
    fields = _drawn_fields()
    offset = (int(rng.integers(HEIGHT)), int(rng.integers(WIDTH)))
    return np.roll(fields[rng.integers(len(fields))], offset, axis=(0, 1))


@functools.lru_cache(maxsize=1)
def _drawn_fields() -> np.ndarray:
    """16 of them, periodic: [16, H, W]."""
    rng = np.random.default_rng(0)
    fields = np.zeros((16, HEIGHT, WIDTH), np.float32)
    for field in fields:
        for size, weight in ((160, 1.0), (40, 0.2), (8, 0.03)):
            values = rng.normal(0, weight, (HEIGHT // size, WIDTH // size)).astype(np.float32)
            tiled = Image.fromarray(np.tile(values, (3, 3)))
            large = tiled.resize((3 * WIDTH, 3 * HEIGHT), Image.Resampling.BICUBIC)
            field += np.asarray(large)[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH]
    return fields


def _blob(rng: np.random.Generator, share: Optional[float]) -> Tuple[np.ndarray, np.ndarray]:
    """A thing with a winding outline, and the same with a seam around: bool [H, W] each."""
    share = share or np.exp(rng.uniform(np.log(0.002), np.log(0.12)))  # of the image's pixels
    radius = np.sqrt(share * HEIGHT * WIDTH / np.pi)
    stretch = np.exp(rng.normal(0, 0.3))
    ys, xs = np.ogrid[:HEIGHT, :WIDTH]
    y, x = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH)
    distance = np.hypot((ys - y) / stretch, (xs - x) * stretch) / radius + 0.3 * _field(rng)
    return distance < 1, distance < 1 + 1.5 / radius


def _compact(drawn: Segments) -> Segments:
    """Leaves out segments without pixels and stuff that comes twice."""
    counts = np.bincount(drawn.rows.reshape(-1), minlength=len(drawn.categories) + 1)
    new_row = np.zeros(counts.size, int)
    categories: List[int] = []
    is_crowd: List[bool] = []
    row_of_stuff: Dict[int, int] = {}
    for row, category in enumerate(drawn.categories, start=1):
        if not counts[row]:
            continue
        if category in row_of_stuff:
            new_row[row] = row_of_stuff[category]
            continue
        categories.append(category)
        is_crowd.append(drawn.is_crowd[row - 1])
        new_row[row] = len(categories)
        if category > NUM_THINGS:
            row_of_stuff[category] = len(categories)
    return Segments(new_row[drawn.rows], categories, is_crowd)


def _write(rng: np.random.Generator, drawn: Segments, path: str) -> Dict[str, Any]:
    """Writes the PNG, ids being random colours, and returns its entry of the JSON file."""
    count = len(drawn.categories)
    ids = np.append(0, rng.choice(2**24 - 1, count, replace=False) + 1)
    colors = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
    Image.fromarray(colors[drawn.rows]).save(path)
    areas = np.bincount(drawn.rows.reshape(-1), minlength=count + 1)
    listed = [
        {
            "id": int(ids[row]),
            "category_id": drawn.categories[row - 1],
            "iscrowd": int(drawn.is_crowd[row - 1]),
            "area": int(areas[row]),
        }
        for row in range(1, count + 1)
    ]
    return {"file_name": os.path.basename(path), "segments_info": listed}
