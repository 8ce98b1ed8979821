"""Mutated annotations and PNGs through `doctor` and `convert`.

python benchmarks/fuzz_annotations.py --cases=10000 --output_json=runs/fuzz.json

Every case is a small data set with one to three faults. Wanted of each: no traceback, no hang, one
short message that names a file or a field, nothing written outside of the output folder, nothing
left where `convert` refused, and the same verdict of both commands. What breaks one of these is
printed with its seed; `--first=SEED --cases=1 --keep` looks at one.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import json
import os
import random
import shutil
import tempfile
import time
from typing import Any, Callable, Counter, Dict, Iterator, List, Tuple

import file_faults
import numpy as np
from absl import app, flags, logging
from PIL import Image
from tqdm import tqdm

from panoptic_tf.datasets import converter, doctor, files, segments
from panoptic_tf.metrics.panoptic_quality import PanopticQuality

_CASES = flags.DEFINE_integer("cases", 10000, "How many.")
_FIRST = flags.DEFINE_integer("first", 0, "Seed of the first; they count up.")
_SECONDS = flags.DEFINE_integer("seconds_per_case", 20, "After which a command hangs.")
_OUTPUT_JSON = flags.DEFINE_string("output_json", None, "Counts and violations; optional.")
_KEEP = flags.DEFINE_bool("keep", False, "Leave the folder of the last case and print its path.")

_CATEGORIES = [
    {"id": 1, "name": "car", "isthing": 1, "color": [200, 0, 0]},
    {"id": 2, "name": "bus", "isthing": 1, "color": [0, 200, 0]},
    {"id": 7, "name": "road", "isthing": 0, "color": [90, 90, 90]},
]
_VALUES: Tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**24, 2**31, 2**63, 2**70, 1e300, 0.5, 1.0),
    *(float("nan"), float("inf"), "", "x", "0", "1", "..", "../images/0.png", "/etc/passwd"),
    *("\x00", "\ud800.png", "a" * 5000, ".._x_gtFine_leftImg8bit.png", "0.png", "1.png", "images"),
    *([], {}, [[]], [1, 2, 3, 4], [0, 0, float("nan"), 1], ["a"], {"a": 1}),
)


def main(argv) -> None:
    """Runs the cases."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    counts: Counter[str] = collections.Counter()
    violations: List[Dict[str, Any]] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for seed in tqdm(range(_FIRST.value, _FIRST.value + _CASES.value), unit="case"):
            case = os.path.join(folder, "case")
            shutil.rmtree(case, ignore_errors=True)
            for kind, text in _try_case(random.Random(seed), case, counts):
                violations.append({"seed": seed, "kind": kind, "text": text[:3000]})
                tqdm.write(f"seed {seed}: {kind}: {text[:600]}")
        if _KEEP.value:
            print(shutil.copytree(case, tempfile.mkdtemp() + "/case"))
    result = {
        "cases": _CASES.value,
        "seconds": time.monotonic() - start,
        "counts": dict(counts),
        "violations": violations,
    }
    if _OUTPUT_JSON.value:
        files.write_json(_OUTPUT_JSON.value, result)
    print(json.dumps({**result, "violations": len(violations)}, indent=1))
    raise SystemExit(bool(violations))


def _try_case(rng: random.Random, folder: str, counts: Counter[str]) -> Iterator[Tuple[str, str]]:
    """Writes a data set with faults, runs both commands; yields what is not as wanted."""
    content = _write_data_set(rng, folder)
    faults = [rng.choice(_FAULTS) for _ in range(rng.randint(1, 3))]
    for fault in faults:
        fault(rng, folder, content)
    _write_json(folder, content)
    for damage in (_damage_json, _nest_json):
        if rng.random() < 0.03:
            damage(rng, folder)
    before = file_faults.listing(folder)
    doctors, converts = _run_both(folder)
    for name, ended in (("doctor", doctors), ("convert", converts)):
        counts[f"{name} {'refuses' if ended.problems else 'passes'}"] += 1
    names = ", ".join(fault.__name__.strip("_") for fault in faults)
    for kind, text in (
        *_check_ends(doctors, converts),
        *file_faults.check_messages(folder, [*doctors.problems, *converts.problems]),
        *_check_files(folder, before, is_refused=bool(converts.problems)),
    ):
        yield f"{kind} ({names})", text


def _run_both(folder: str) -> Tuple[file_faults.Ended, file_faults.Ended]:
    paths = {
        "panoptic_json": f"{folder}/panoptic.json",
        "panoptic_dir": f"{folder}/panoptic",
        "image_dir": f"{folder}/images",
    }

    def examine() -> List[str]:
        report = doctor.examine_coco_panoptic(**paths, build_quality=PanopticQuality)
        return list(report["problems"])

    def convert() -> List[str]:
        converter.convert_dataset(
            "coco_panoptic", **paths, output_dir=f"{folder}/out", num_shards=1, num_processes=1
        )
        return []

    return file_faults.run(examine, _SECONDS.value), file_faults.run(convert, _SECONDS.value)


def _check_ends(
    doctors: file_faults.Ended, converts: file_faults.Ended
) -> Iterator[Tuple[str, str]]:
    for name, ended in (("doctor", doctors), ("convert", converts)):
        if ended.trace:
            yield f"{name}: traceback", ended.trace
        if ended.hangs:
            yield f"{name}: hangs", ended.problems[0]
    # Claims about areas and boxes are all that doctor alone looks at.
    claims = (": area must be ", ": bbox must be ")
    errors = [p for p in doctors.problems if not any(claim in p for claim in claims)]
    if bool(errors) != bool(converts.problems):
        yield "verdicts differ", f"doctor: {doctors.problems}; convert: {converts.problems}"


def _check_files(folder: str, before: set, *, is_refused: bool) -> Iterator[Tuple[str, str]]:
    after = {path for path in file_faults.listing(folder) if path.split(os.sep)[0] != "out"}
    if after != before:
        yield "changes other files", str(after ^ before)
    out = os.path.join(folder, "out")
    if is_refused and os.path.isdir(out) and os.listdir(out):
        yield "leaves files", str(os.listdir(out))


def _write_data_set(rng: random.Random, folder: str) -> Dict[str, Any]:
    """Two images with four segments each."""
    for name in ("images", "panoptic"):
        os.makedirs(os.path.join(folder, name))
    draw = np.random.default_rng(rng.getrandbits(32))
    images, annotations = [], []
    for i in range(2):
        rows = np.zeros((12, 16), np.int64)
        rows[1:5, 1:6], rows[2:6, 8:14], rows[7:, :] = 1, 2, 3
        rows[0, 10:], ids = 4, [0, 5, 300, 70000, 9]
        pixels = draw.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{folder}/images/{i}.png")
        Image.fromarray(segments.id_to_rgb(np.array(ids)[rows])).save(f"{folder}/panoptic/{i}.png")
        areas, boxes = segments.areas_and_boxes(rows.astype(np.int32), 4)
        table = [
            {"id": id_, "category_id": c, "area": int(a), "bbox": b.tolist(), "iscrowd": crowd}
            for id_, c, a, b, crowd in zip(ids[1:], (1, 2, 7, 1), areas, boxes, (0, 0, 0, 1))
        ]
        images.append({"id": i, "file_name": f"{i}.png", "height": 12, "width": 16})
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": table})
    return {
        "images": images,
        "annotations": annotations,
        "categories": copy.deepcopy(_CATEGORIES),
    }


def _write_json(folder: str, content: Any) -> None:
    with open(f"{folder}/panoptic.json", "w", encoding="utf-8") as file:
        json.dump(content, file)


# Faults of the JSON file


def _places(value: Any) -> Iterator[Tuple[Any, Any]]:
    """Every (container, key) in a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, (dict, list)):
            yield from _places(item)


def _replace(rng: random.Random, folder: str, content: Dict[str, Any]) -> None:
    container, key = rng.choice(list(_places(content)))
    container[key] = copy.deepcopy(rng.choice(_VALUES))


def _remove(rng: random.Random, folder: str, content: Dict[str, Any]) -> None:
    container, key = rng.choice(list(_places(content)) or [(content, None)])
    if key is not None:
        del container[key]


def _repeat(rng: random.Random, folder: str, content: Dict[str, Any]) -> None:
    lists = [c[k] for c, k in _places(content) if isinstance(c[k], list) and c[k]]
    if lists:
        chosen = rng.choice(lists)
        chosen.append(copy.deepcopy(rng.choice(chosen)))


def _swap(rng: random.Random, folder: str, content: Dict[str, Any]) -> None:
    places = list(_places(content))
    (a, i), (b, j) = rng.choice(places), rng.choice(places)
    with contextlib.suppress(KeyError, IndexError):
        x, y = copy.deepcopy(a[i]), copy.deepcopy(b[j])
        a[i], b[j] = y, x


def _nudge(rng: random.Random, folder: str, content: Dict[str, Any]) -> None:
    numbers = [(c, k) for c, k in _places(content) if isinstance(c[k], int)]
    if numbers:
        container, key = rng.choice(numbers)
        container[key] = int(container[key]) + rng.choice((-1, 1))


def _damage_json(rng: random.Random, folder: str) -> None:
    path = f"{folder}/panoptic.json"
    data = bytearray(open(path, "rb").read())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    open(path, "wb").write(bytes(data))


def _nest_json(rng: random.Random, folder: str) -> None:
    deep = rng.choice((50, 2000, 100_000))
    with open(f"{folder}/panoptic.json", "w", encoding="utf-8") as file:
        file.write('{"images": ' + "[" * deep + "]" * deep + "}")


# Faults of files


def _of_a_png(fault: Callable[[random.Random, str], None]) -> _Fault:
    def damage(rng: random.Random, folder: str, content: Dict[str, Any]) -> None:
        fault(rng, _any_png(rng, folder))

    damage.__name__ = fault.__name__
    return damage


def _any_png(rng: random.Random, folder: str) -> str:
    return f"{folder}/{rng.choice(('images', 'panoptic'))}/{rng.randrange(2)}.png"


_Fault = Callable[[random.Random, str, Dict[str, Any]], None]
_FAULTS: Tuple[_Fault, ...] = (
    *(_replace, _replace, _replace, _remove, _repeat, _swap, _nudge),
    *(
        _of_a_png(fault)
        for fault in (
            file_faults.flip,
            file_faults.cut,
            file_faults.rewrite_header,
            file_faults.other_image,
            file_faults.replace_file,
        )
    ),
)


if __name__ == "__main__":
    app.run(main)
