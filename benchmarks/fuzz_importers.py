"""Mutated annotations of the formats that people bring, through `convert`.

python benchmarks/fuzz_importers.py --cases=10000 [--formats=yolo,cvat] --output_json=runs/fuzz.json

Every case is a small data set of one format with one to three faults: words and bytes of the
annotations changed, lines doubled or dropped, PNGs damaged, other files in their place. Wanted of
each: no traceback, no hang, one short message that names a file or a field, nothing written outside
of the output folder. What breaks one of these is printed with its seed.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import pathlib
import random
import re
import shutil
import tempfile
import time
from typing import Any, Callable, Counter, Dict, Iterator, List, NamedTuple, Tuple

import drawn_exports
import file_faults
import numpy as np
from absl import app, flags, logging
from PIL import Image
from tqdm import tqdm

from panoptic_tf.datasets import converter, files

_CASES = flags.DEFINE_integer("cases", 10000, "How many of each format.")
_FIRST = flags.DEFINE_integer("first", 0, "Seed of the first; they count up.")
_FORMATS = flags.DEFINE_list("formats", [], "Formats; default all that are here.")
_SECONDS = flags.DEFINE_integer("seconds_per_case", 20, "After which a command hangs.")
_OUTPUT_JSON = flags.DEFINE_string("output_json", None, "Counts and violations; optional.")

_HEIGHT, _WIDTH = 12, 16
_SMALL = 16
"""Side of the images of drawn exports."""

_SQUARE = ((2, 1), (9, 1), (9, 6), (2, 6))
_WORDS = (
    *("", "0", "-1", "1", "7", "0.5", "nan", "inf", "1e300", "-1e9", "99999999999999999999"),
    *("null", "true", "[]", "{}", '""', "..", "../images/0.png", "/etc/passwd", "0.png", "1.png"),
    *(
        "\x00",
        "\ud7ff",
        "a" * 5000,
        "&a;",
        "<!DOCTYPE a [<!ENTITY b 'c'>]>",
        "[" * 3000,
        "*a",
        "&a",
    ),
)


class _DataSet(NamedTuple):
    """What `convert` is given, the annotations as text, and the PNGs."""

    options: Dict[str, Any]
    texts: List[str]
    pictures: List[str]


def main(argv) -> None:
    """Runs the cases."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    violations: List[Dict[str, Any]] = []
    counts: Dict[str, Counter[str]] = {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in _FORMATS.value or _WRITERS:
            counts[name] = collections.Counter()
            seeds = range(_FIRST.value, _FIRST.value + _CASES.value)
            for seed in tqdm(seeds, unit="case", desc=name):
                case = os.path.join(folder, "case")
                shutil.rmtree(case, ignore_errors=True)
                for kind, text in _try_case(random.Random(seed), name, case, counts[name]):
                    violations.append(
                        {"format": name, "seed": seed, "kind": kind, "text": text[:3000]}
                    )
                    tqdm.write(f"{name}, seed {seed}: {kind}: {text[:600]}")
    result = {
        "seconds": time.monotonic() - start,
        "counts": {k: dict(v) for k, v in counts.items()},
    }
    if _OUTPUT_JSON.value:
        files.write_json(_OUTPUT_JSON.value, {**result, "violations": violations})
    print(json.dumps({**result, "violations": len(violations)}, indent=1))
    raise SystemExit(bool(violations))


def _try_case(
    rng: random.Random, name: str, folder: str, counts: Counter[str]
) -> Iterator[Tuple[str, str]]:
    data = _WRITERS[name](pathlib.Path(folder))
    for _ in range(rng.randint(1, 3)):
        is_text = not data.pictures or rng.random() < 0.7
        if is_text and data.texts:
            rng.choice(_TEXT_FAULTS)(rng, rng.choice(data.texts))
        else:
            rng.choice(_PICTURE_FAULTS)(rng, rng.choice(data.pictures))
    before = file_faults.listing(folder)

    def convert() -> List[str]:
        converter.convert_dataset(
            name, f"{folder}/out", num_shards=1, num_processes=1, exif="auto", **data.options
        )
        return []

    ended = file_faults.run(convert, _SECONDS.value)
    counts["refused" if ended.problems else "converted"] += 1
    if ended.trace:
        yield "traceback", ended.trace
    if ended.hangs:
        yield "hangs", ended.problems[0]
    yield from file_faults.check_messages(folder, ended.problems)
    after = {path for path in file_faults.listing(folder) if path.split(os.sep)[0] != "out"}
    if after != before:
        yield "changes other files", str(after ^ before)
    out = os.path.join(folder, "out")
    if ended.problems and os.path.isdir(out) and os.listdir(out):
        yield "leaves files", str(os.listdir(out))


# Faults of text


def _change_word(rng: random.Random, path: str) -> None:
    def changed(data: bytes) -> bytes:
        words = list(re.finditer(rb"[^\s<>\"=,:\[\]{}]+", data))
        if not words:
            return data
        word = rng.choice(words)
        return data[: word.start()] + rng.choice(_WORDS).encode() + data[word.end() :]

    file_faults.change(path, changed)


def _change_line(rng: random.Random, path: str) -> None:
    def changed(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        if not lines:
            return data
        i = rng.randrange(len(lines))
        lines[i : i + 1] = rng.choice(([], [lines[i]] * 2, [rng.choice(lines), lines[i]]))
        return b"".join(lines)

    file_faults.change(path, changed)


_TEXT_FAULTS = (
    *(_change_word, _change_word, _change_word, _change_line),
    *(file_faults.flip, file_faults.cut, file_faults.replace_file),
)
_PICTURE_FAULTS = (
    *(file_faults.flip, file_faults.cut, file_faults.rewrite_header),
    *(file_faults.other_image, file_faults.replace_file),
)


# Data sets


def _write_images(folder: pathlib.Path) -> List[str]:
    (folder / "images").mkdir(parents=True)
    paths = [str(folder / "images" / f"{i}.png") for i in range(2)]
    for path in paths:
        Image.fromarray(np.full([_HEIGHT, _WIDTH, 3], 90, np.uint8)).save(path)
    return paths


def _write(path: pathlib.Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def _write_coco(folder: pathlib.Path) -> _DataSet:
    pictures = _write_images(folder)
    polygon = [float(value) for point in _SQUARE for value in point]
    runs = {"size": [_HEIGHT, _WIDTH], "counts": [20, 30, _HEIGHT * _WIDTH - 50]}
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": _HEIGHT, "width": _WIDTH} for i in range(2)
        ],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [polygon], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "segmentation": runs, "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}],
    }
    path = _write(folder / "instances.json", json.dumps(content, indent=1))
    return _DataSet({"source": path, "image_dir": str(folder / "images")}, [path], pictures)


def _write_yolo(folder: pathlib.Path) -> _DataSet:
    pictures = _write_images(folder)
    settings = _write(folder / "data.yaml", "train: images\nnames:\n  0: car\n  1: bus\n")
    corners = " ".join(f"{x / _WIDTH} {y / _HEIGHT}" for x, y in _SQUARE)
    labels = [_write(folder / "labels" / f"{i}.txt", f"{i} {corners}\n") for i in range(2)]
    return _DataSet({"source": settings}, [settings, *labels], pictures)


def _write_labelme(folder: pathlib.Path) -> _DataSet:
    pictures = _write_images(folder)
    texts = []
    for i in range(2):
        shapes = [
            {"label": "car", "points": _SQUARE, "shape_type": "polygon", "group_id": None},
            {"label": "sky", "points": [[0, 0], [5, 3]], "shape_type": "rectangle"},
            {"label": "bus", "points": [[8, 6], [10, 6]], "shape_type": "circle", "group_id": 1},
        ]
        content = {
            "shapes": shapes,
            "imagePath": f"{i}.png",
            "imageHeight": _HEIGHT,
            "imageWidth": _WIDTH,
        }
        texts.append(_write(folder / "images" / f"{i}.json", json.dumps(content, indent=1)))
    return _DataSet({"source": str(folder / "images")}, texts, pictures)


def _write_cvat(folder: pathlib.Path) -> _DataSet:
    pictures = _write_images(folder)
    points = ";".join(f"{x}.0,{y}.0" for x, y in _SQUARE)
    shapes = f"""
      <polygon label="car" points="{points}" z_order="0"/>
      <box label="bus" xtl="1.0" ytl="2.0" xbr="5.0" ybr="6.0" z_order="1" group_id="3"/>
      <mask label="car" rle="2, 3, 1" left="4" top="5" width="3" height="2" z_order="0"/>
      <ellipse label="bus" cx="8.0" cy="6.0" rx="3.0" ry="2.0" z_order="2"/>"""
    images = "".join(
        f"""
    <image id="{i}" name="{i}.png" width="{_WIDTH}" height="{_HEIGHT}">{shapes}
    </image>"""
        for i in range(2)
    )
    labels = "".join(
        f"<label><name>{name}</name><color>#33ddff</color></label>" for name in ("car", "bus")
    )
    text = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
    <version>1.1</version>
    <meta><task><labels>{labels}</labels></task></meta>{images}
</annotations>
"""
    path = _write(folder / "annotations.xml", text)
    return _DataSet({"source": path}, [path], pictures)


def _write_masks(folder: pathlib.Path) -> _DataSet:
    pictures = _write_images(folder)
    (folder / "masks").mkdir()
    for i in range(2):
        mask = np.ones([_HEIGHT, _WIDTH], np.uint8)
        mask[2:6, 3:9], mask[:, 14:] = 2, 255
        pictures.append(str(folder / "masks" / f"{i}.png"))
        Image.fromarray(mask).save(pictures[-1])
    legend = _write(
        folder / "categories.yaml",
        "- {id: 1, name: road, isthing: 0, color: [1, 2, 3]}\n- {id: 2, name: car, isthing: 1}\n",
    )
    options = {
        "source": str(folder / "masks"),
        "image_dir": str(folder / "images"),
        "categories": legend,
        "things_by_components": True,
    }
    return _DataSet(options, [legend], pictures)


def _write_export(name: str, folder: pathlib.Path) -> _DataSet:
    write, options = drawn_exports.EXPORTS[name]
    source = folder / "data"
    write(str(source), 2, size=_SMALL)
    paths = sorted(str(path) for path in source.rglob("*.*") if path.is_file())
    return _DataSet(
        {key: text.format(source) for key, text in options.items()},
        [path for path in paths if path.endswith(".json")],
        [path for path in paths if not path.endswith(".json")],
    )


_DRAWN = ("semantic_and_instance_masks", "cityscapes", "ade20k_panoptic", "mapillary_vistas")
_WRITERS: Dict[str, Callable[[pathlib.Path], _DataSet]] = {
    "coco_instances": _write_coco,
    "yolo": _write_yolo,
    "labelme": _write_labelme,
    "cvat": _write_cvat,
    "semantic_masks": _write_masks,
    **{name: functools.partial(_write_export, name) for name in _DRAWN},
}


if __name__ == "__main__":
    app.run(main)
