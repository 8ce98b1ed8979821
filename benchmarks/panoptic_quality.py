"""CPU-seconds of panoptic quality on images of 640x480, one process, beside a reference.

python benchmarks/panoptic_quality.py
python benchmarks/panoptic_quality.py --rounds=3 --reference_python=other/bin/python

The images (`panoptic_images`: 10 to 25 segments, void, crowds, two of three segments found) are
written to `--data_dir` and kept there. A reference command reads the path `folder` from the file
of the workload and prints JSON that ends its output: `{"seconds": {"files": ..., "ids": ...,
"masks": ...}, "counts": {...}}`, the counts being those of `_counts`.

files: everything between the files on the disk and the numbers, as `panoptic-tf score` does it in
one process with `--crowd_rule=last`. boundary: the same with `--boundary_ratio=0.02`. ids: files
without decoding; the arrays of segment ids are at hand. masks: what an evaluation of a model costs,
by `PanopticEvaluator` without AP, from arrays of categories and instances; mIoU included. Seconds
are of all images together.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Sequence, Tuple
from unittest import mock

import numpy as np
import panoptic_images
import speed
from absl import app, flags

from panoptic_tf.datasets import coco_format, segments
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.metrics.evaluator import PanopticEvaluator

Masks = Dict[str, np.ndarray]

_IMAGES = flags.DEFINE_integer("images", 200, "How many.", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", "runs/panoptic_quality", "Gets the images.")

_BOUNDARY_RATIO = 0.02
_SPLITS = ("", "_things", "_stuff")
_ROWS = {name: (name,) for name in ("files", "boundary", "ids", "masks")}
_PARTS = flags.DEFINE_multi_enum(
    "part", list(_ROWS), list(_ROWS), "What is measured; ids and masks hold all images in memory."
)


def _build() -> speed.Workload:
    folder = os.path.join(os.path.abspath(_DATA_DIR.value), str(_IMAGES.value))
    if not os.path.exists(os.path.join(folder, "found.json")):
        panoptic_images.write_images(folder, _IMAGES.value)
    return {"folder": np.array(folder), "parts": np.array(_PARTS.value)}


def _measure(workload: speed.Workload) -> Dict[str, Any]:
    # Its flags are required ones and must come after ours were read.
    from panoptic_tf.evaluation import result_files as score

    folder = str(workload["folder"])
    files = {
        "panoptic_json": os.path.join(folder, "truth.json"),
        "predictions_json": os.path.join(folder, "found.json"),
    }
    counts = _counts(score.score_files(**files, crowd_rule="last"))
    info, truths = coco_format.read_panoptic_json(
        files["panoptic_json"], panoptic_dir=os.path.join(folder, "truth"), require_images=False
    )
    found = coco_format.read_predictions_json(
        files["predictions_json"],
        predictions_dir=os.path.join(folder, "found"),
        dataset_info=info,
        annotations=truths,
    )
    pairs = list(zip(truths, found))
    in_memory = [*truths, *found] if {"ids", "masks"} & set(_PARTS.value) else []
    id_maps = {a.png_file: coco_format.read_id_map(a.png_file) for a in in_memory}
    is_evaluated = "masks" in _PARTS.value
    masks = [_masks(info, *pair, id_maps) for pair in pairs] if is_evaluated else []

    def score_files() -> Tuple[()]:
        score.score_files(**files, crowd_rule="last")
        return ()

    def score_boundaries() -> Tuple[()]:
        score.score_files(**files, crowd_rule="last", boundary_ratio=_BOUNDARY_RATIO)
        return ()

    def score_ids() -> Tuple[()]:
        with mock.patch.object(coco_format, "read_id_map", lambda path, **_: id_maps[path]):
            score.score_pairs(pairs, info, "last", 0.0)
        return ()

    def evaluate_masks() -> Tuple[()]:
        _evaluate(info, masks)
        return ()

    if masks and _counts(_evaluate(info, masks)) != counts:
        raise ValueError("score and the evaluator do not agree.")
    parts = {
        "files": score_files,
        "boundary": score_boundaries,
        "ids": score_ids,
        "masks": evaluate_masks,
    }
    if "boundary" in _PARTS.value:
        metrics = score.score_files(**files, crowd_rule="last", boundary_ratio=_BOUNDARY_RATIO)
        counts.update(_counts(metrics, "_boundary"))
    seconds = {name: speed.seconds_of(parts[name]) for name in _PARTS.value}
    return {"seconds": seconds, "counts": counts}


def _evaluate(info: DatasetInfo, masks: List[Sequence[Masks]]) -> Dict[str, Any]:
    """Metrics of [(ground truth, prediction)]."""
    evaluator = PanopticEvaluator(
        num_categories=info.num_categories,
        thing_ids=info.thing_ids,
        category_names=info.names,
        crowd_rule="last",
        compute_ap=False,
    )
    for truth, prediction in masks:
        evaluator.update(truth, prediction)
    return evaluator.result()


def _masks(
    info: DatasetInfo,
    truth: coco_format.PanopticAnnotation,
    found: coco_format.PanopticAnnotation,
    id_maps: Dict[str, np.ndarray],
) -> List[Masks]:
    """Ground truth and prediction of one image as the evaluator takes them."""
    sides = []
    for side in (truth, found):
        rows, _ = segments.ids_to_rows(id_maps[side.png_file], [s.id for s in side.segments])
        category, instance, crowd = segments.rows_to_masks(
            rows,
            categories=[info.contiguous_ids()[s.category_id] for s in side.segments],
            is_crowd=[s.is_crowd for s in side.segments],
            thing_ids=info.thing_ids,
        )
        sides.append({"category_mask": category, "instance_mask": instance, "crowd_mask": crowd})
    del sides[1]["crowd_mask"]
    return sides


def _counts(metrics: Dict[str, Any], kind: str = "") -> Dict[str, Any]:
    """What must be equal: the averages to 8 digits, and what was counted in all categories."""
    names = [name + kind + split for split in _SPLITS for name in ("PQ", "SQ", "RQ")]
    averages = {name: round(metrics[name], 8) for name in names}
    if kind:
        return averages
    counts = {n: [row[n] for row in metrics["per_category"]] for n in ("tp", "fp", "fn")}
    return {**averages, **{name: sum(values) for name, values in counts.items()}}


def main(argv):
    """Measures, prints the table."""
    speed.run(
        argv,
        title="panoptic quality",
        build=_build,
        measure=_measure,
        rows=_ROWS,
        reference="panopticapi_quality.py",
    )


if __name__ == "__main__":
    app.run(main)
