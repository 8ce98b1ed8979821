"""Large images in tiles: quality beside that of their pieces alone, time and memory.

python benchmarks/tiling.py --saved_model_dir=runs/shapes/saved_model

Draws images of shapes at the scale that `panoptic_deeplab_shapes` is trained at (things of 12 to 64
pixels, 4.5 in 128x128 pixels, on wavy bands of stuff), without a seam, and prints

- PQ of the 128x128 pieces, each predicted and scored alone: what the model can do;
- PQ of the image in tiles of 128x128, for each overlap;
- PQ of the image predicted whole, at the network's input size;
- of the image in tiles: seconds, those of the model among them, CPU seconds, and how much more
  memory the process took at its peak than before. Each size and overlap is a process of its own.

Parts of things of less than 40 pixels are void, in pieces as in the data set of shapes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Iterator, Tuple

import numpy as np
from absl import app, flags

from panoptic_tf.datasets import shapes
from panoptic_tf.metrics.panoptic_quality import PanopticQuality
from panoptic_tf.serving.predictor import PanopticResult, Predictor

_SAVED_MODEL_DIR = flags.DEFINE_string("saved_model_dir", None, "The model.", required=True)
_SIZES = flags.DEFINE_list("sizes", ["1500x1000", "3000x2000", "6000x4000"], "Width x height.")
_OVERLAPS = flags.DEFINE_list("overlaps", ["0", "16", "32", "64"], "In pixels.")
_ONE = flags.DEFINE_string("one", None, "Measures <width>x<height>,<overlap> in this process.")

_SIDE = shapes.SIZE
_NUM_CATEGORIES = len(shapes.THING_NAMES) + len(shapes.STUFF_NAMES)
_THING_IDS = tuple(range(1, len(shapes.THING_NAMES) + 1))
_MEAN_THINGS = 4.5
_MAX_PIXELS = 100_000_000

Scene = Tuple[np.ndarray, np.ndarray, np.ndarray]


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _ONE.value:
        size, overlap = _ONE.value.split(",")
        print(json.dumps(_measure(size, int(overlap))))
        return
    for size in _SIZES.value:
        scene = draw_scene(0, *_height_width(size))
        predictor = Predictor(_SAVED_MODEL_DIR.value, max_pixels=_MAX_PIXELS)
        _print(f"{size} pieces alone", _score(_pieces(scene), predictor))
        _print(f"{size} whole", _score(iter([scene]), predictor))
        for overlap in _OVERLAPS.value:
            arguments = [sys.executable, *sys.argv, f"--one={size},{overlap}"]
            done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
            _print(f"{size} overlap {overlap}", json.loads(done.stdout.splitlines()[-1]))


def draw_scene(seed: int, height: int, width: int) -> Scene:
    """Draws a large image of shapes.

    Returns:
      image uint8 [H, W, 3]; category_mask, instance_mask int32 [H, W].
    """
    rng = np.random.default_rng([seed, height, width])
    image, category_mask = _draw_bands(rng, height, width)
    instance_mask = np.zeros((height, width), np.int32)
    for number in range(1, round(_MEAN_THINGS * height * width / _SIDE**2) + 1):
        thing = shapes._random_thing(rng, _SIDE)
        side = 2 * math.ceil(thing.radius) + 2
        top, left = (int(rng.integers(-side // 2, n - side // 2)) for n in (height, width))
        center = np.array([side / 2.0, side / 2.0]) + rng.uniform(-0.5, 0.5, 2)
        mask = shapes._rasterize(thing._replace(center=center), side)
        mask = mask[max(-top, 0) : height - top, max(-left, 0) : width - left]
        window = slice(max(top, 0), top + side), slice(max(left, 0), left + side)
        grain = rng.normal(0.0, 0.05, (np.count_nonzero(mask), 3))
        image[window][mask] = rng.uniform(size=3) + grain
        category_mask[window][mask] = thing.kind + 1
        instance_mask[window][mask] = number
    for rows in np.array_split(image, max(height // 500, 1)):
        rows += rng.normal(0.0, 0.03, rows.shape)
    image = np.round(np.clip(image, 0.0, 1.0, out=image) * 255.0).astype(np.uint8)
    _void_small_things(category_mask, instance_mask)
    return image, category_mask, instance_mask


def _draw_bands(rng: np.random.Generator, height: int, width: int) -> Tuple[np.ndarray, np.ndarray]:
    """Bands of stuff of 40 to 70 pixels with the colours and textures of the data set of shapes."""
    image = np.empty((height, width, 3), np.float32)
    category_mask = np.empty((height, width), np.int32)
    columns = np.arange(width)[np.newaxis]
    kind, top = -1, -20.0
    while top < height + 10.0:
        kind = int(rng.choice([k for k in range(len(shapes.STUFF_NAMES)) if k != kind]))
        # Down to where the next band has covered it, whatever its border.
        span = slice(max(int(top) - 10, 0), min(int(top) + 100, height))
        rows = np.arange(span.start, span.stop)[:, np.newaxis]
        waves = rng.uniform(0.7, 3.0) / _SIDE * columns + rng.uniform()
        mask = rows > top + rng.uniform(2.5, 7.5) * np.sin(2.0 * math.pi * waves)
        color = np.array(shapes._STUFF_COLORS[kind]) + rng.normal(0.0, 0.1, 3)
        texture = _texture(rng, shapes.STUFF_NAMES[kind], rows, columns)
        image[span][mask] = color + 0.1 * texture[mask][:, np.newaxis]
        category_mask[span][mask] = len(shapes.THING_NAMES) + 1 + kind
        top += rng.uniform(40.0, 70.0)
    return image, category_mask


def _texture(
    rng: np.random.Generator, name: str, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """A texture of `datasets.shapes` at the scale of 128x128 images: [rows, columns]."""
    size = rows.size, columns.size
    if name == "stripes":
        angle, period = rng.uniform(0.0, math.pi), rng.uniform(6.0, 12.0)
        position = (rows * math.cos(angle) + columns * math.sin(angle)) / period
        return np.where(position % 1.0 < 0.5, 1.0, -1.0)
    if name == "checks":
        cell = rng.uniform(4.0, 8.0)
        squares = np.floor(rows / cell) + np.floor(columns / cell)
        return np.where(squares % 2.0 < 1.0, 1.0, -1.0)
    if name == "grain":
        grains = rng.normal(0.0, 1.0, (-(-size[0] // 2), -(-size[1] // 2)))
        return np.kron(grains, np.ones((2, 2)))[: size[0], : size[1]]
    return np.zeros(size)


def _void_small_things(category_mask: np.ndarray, instance_mask: np.ndarray) -> None:
    areas = np.bincount(instance_mask.reshape(-1))
    is_small = (areas < shapes._MIN_VISIBLE_PIXELS)[instance_mask] & (instance_mask > 0)
    category_mask[is_small] = 0
    instance_mask[is_small] = 0


def _pieces(scene: Scene) -> Iterator[Scene]:
    """The whole pieces of 128x128, annotated as images of their own."""
    height, width = scene[1].shape
    for top in range(0, height - _SIDE + 1, _SIDE):
        for left in range(0, width - _SIDE + 1, _SIDE):
            window = slice(top, top + _SIDE), slice(left, left + _SIDE)
            image, category_mask, instance_mask = (part[window].copy() for part in scene)
            _void_small_things(category_mask, instance_mask)
            yield image, category_mask, instance_mask


def _score(
    scenes: Iterator[Scene], predict: Callable[[np.ndarray], PanopticResult]
) -> Dict[str, Any]:
    quality = PanopticQuality(num_categories=_NUM_CATEGORIES, thing_ids=_THING_IDS)
    for image, category_mask, instance_mask in scenes:
        result = predict(image)
        quality.update(
            category_mask, instance_mask, None, result.category_mask, result.instance_mask
        )
    metrics = quality.result()
    return {key: metrics[key] for key in ("PQ", "PQ_things", "PQ_stuff", "RQ_things")}


def _measure(size: str, overlap: int) -> Dict[str, Any]:
    """Quality, time and memory of one image in tiles."""
    scene = draw_scene(0, *_height_width(size))
    predictor = Predictor(
        _SAVED_MODEL_DIR.value, max_pixels=_MAX_PIXELS, tile_size=_SIDE, tile_overlap=overlap
    )
    predictor(scene[0][: _SIDE + 1])
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # The peak starts anew.
    start, cpu_start = time.perf_counter(), time.process_time()
    result = predictor(scene[0])
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = _status("VmHWM")
    model_seconds = predictor.last_seconds
    return {
        **_score(iter([scene]), lambda _: result),
        "seconds": seconds,
        "model_seconds": model_seconds,
        "cpu_seconds": cpu_seconds,
        "MB": (peak - before) / 1e6,
        "bytes_a_pixel": (peak - before) / scene[1].size,
    }


def _status(key: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) * 1024


def _height_width(size: str) -> Tuple[int, int]:
    width, height = (int(side) for side in size.split("x"))
    return height, width


def _print(name: str, values: Dict[str, Any]) -> None:
    print(f"{name:24}", " ".join(f"{key} {value:.2f}" for key, value in values.items()), flush=True)


if __name__ == "__main__":
    app.run(main)
