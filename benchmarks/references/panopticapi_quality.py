"""panopticapi on the images of `panoptic_quality.py`.

python benchmarks/panoptic_quality.py --rounds=2 --reference_python=other/bin/python

`other` is an environment with panopticapi from its repository; measured with 7bb4655, NumPy 1.26.4
and Pillow 13.0.0, as ours. The time is of `pq_compute_single_core`. "ids" is without decoding: the
function gets arrays of ids that are at hand, without a copy. "boundary" is the same function of
boundary-iou-api (37d2558), where the environment has it, and OpenCV on one thread.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import types
from typing import Any, Dict, Iterator, List, Tuple
from unittest import mock

import measuring
import numpy as np
from panopticapi import evaluation, utils
from PIL import Image

try:
    import cv2
    from boundary_iou.coco_panoptic_api import evaluation as boundary_evaluation
except ImportError:
    boundary_evaluation = None

Pairs = List[Tuple[Dict[str, Any], Dict[str, Any]]]
_SPLITS = {"": None, "_things": True, "_stuff": False}


def main() -> None:
    """Measures, prints JSON."""
    arguments = measuring.parse_arguments(__doc__)
    workload = measuring.load(arguments.workload)
    folder, parts = str(workload["folder"]), set(workload["parts"])
    truth, pairs = _read(folder)
    ids = {
        path: utils.rgb2id(np.array(Image.open(path), dtype=np.uint32))
        for pair in (pairs if {"ids", "masks"} & parts else [])
        for path in _paths(folder, *pair)
    }

    def from_files() -> None:
        _compute(folder, *_read(folder))

    def from_ids() -> None:
        with _at_hand(ids):
            _compute(folder, truth, pairs)

    functions = {"files": from_files, **({"ids": from_ids} if ids else {})}
    seconds = {
        name: measuring.seconds_of(function, arguments.repetitions, 1)
        for name, function in functions.items()
    }
    if ids:
        seconds["masks"] = seconds["ids"]  # It has no other way in.
    counts = _counts(truth, _compute(folder, truth, pairs))
    if boundary_evaluation and "boundary" in parts:
        cv2.setNumThreads(arguments.threads)
        seconds["boundary"] = measuring.seconds_of(
            lambda: _compute_boundary(folder), arguments.repetitions, 1
        )
        found = _counts(truth, _compute_boundary(folder))
        for name in [name for name in found if name not in ("tp", "fp", "fn")]:
            counts[name.replace("Q", "Q_boundary", 1)] = found[name]
    measuring.print_result(seconds, counts)


def _read(folder: str) -> Tuple[Dict[str, Any], Pairs]:
    """The annotations and the pairs of images."""
    sides = []
    for name in ("truth.json", "found.json"):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            sides.append(json.load(file))
    found = {annotation["image_id"]: annotation for annotation in sides[1]["annotations"]}
    return sides[0], [(one, found[one["image_id"]]) for one in sides[0]["annotations"]]


def _paths(folder: str, truth: Dict[str, Any], found: Dict[str, Any]) -> Tuple[str, str]:
    """Of the PNGs, spelt as `pq_compute_single_core` does."""
    return (
        os.path.join(folder, "truth", truth["file_name"]),
        os.path.join(folder, "found", found["file_name"]),
    )


def _compute(folder: str, truth: Dict[str, Any], pairs: Pairs) -> evaluation.PQStat:
    categories = {category["id"]: category for category in truth["categories"]}
    folders = [os.path.join(folder, name) for name in ("truth", "found")]
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluation.pq_compute_single_core(0, pairs, *folders, categories)


def _compute_boundary(folder: str) -> evaluation.PQStat:
    truth, pairs = _read(folder)  # it adds to the annotations
    categories = {category["id"]: category for category in truth["categories"]}
    folders = [os.path.join(folder, name) for name in ("truth", "found")]
    with contextlib.redirect_stdout(io.StringIO()):
        return boundary_evaluation.pq_compute_single_core(
            0, pairs, *folders, categories, "boundary", 0.02
        )


class _NumpyWithoutCopy:
    """NumPy whose array() of an array is that array."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def array(x: np.ndarray, dtype: Any = None) -> np.ndarray:
        del dtype
        return x


@contextlib.contextmanager
def _at_hand(ids: Dict[str, np.ndarray]) -> Iterator[None]:
    """What is opened is an array of ids already."""
    replaced = {
        "Image": types.SimpleNamespace(open=ids.__getitem__),
        "rgb2id": lambda x: x,
        "np": _NumpyWithoutCopy(),
    }
    with mock.patch.multiple(evaluation, **replaced):
        yield


def _counts(truth: Dict[str, Any], stat: evaluation.PQStat) -> Dict[str, Any]:
    """What must be equal: the averages to 8 digits, and what was counted in all categories."""
    categories = {category["id"]: category for category in truth["categories"]}
    counts: Dict[str, Any] = {}
    for split, is_thing in _SPLITS.items():
        average, _ = stat.pq_average(categories, isthing=is_thing)
        for name in ("pq", "sq", "rq"):
            counts[name.upper() + split] = round(100 * average[name], 8)
    for name in ("tp", "fp", "fn"):
        counts[name] = sum(getattr(one, name) for one in stat.pq_per_cat.values())
    return counts


if __name__ == "__main__":
    main()
