"""Tables like 3a, 3c and 3d of Panoptic FPN and a sweep of lambda_s, on shapes, at equal steps.

python benchmarks/panoptic_fpn_tables.py --steps=700 --output_dir=runs/panoptic_fpn_tables

Every row is the shapes experiment with one change. Rows that were trained already are kept, so the
benchmark goes on where it was stopped. Table 3b is `panoptic-tf analyze`: nothing to train.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Tuple

import common
from absl import app, flags

from panoptic_tf.datasets import files, shapes_records

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/panoptic_fpn_tables", "Of everything.")
_STEPS = flags.DEFINE_integer("steps", 700, "Steps of every row.")
_ROWS = flags.DEFINE_list("rows", [], "Names of rows; all where empty.")

# The experiment's average is over more steps than a row has.
_TRAINER = {"optimizer_config": {"ema": {"average_decay": 0.99}}}
_COLUMNS = ("AP", "PQ_things", "mIoU", "PQ_stuff", "PQ", "train_cpu_seconds")

ROWS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "panoptic": ("panoptic_fpn_shapes", {}),
    "instance_alone": ("mask_rcnn_shapes", {}),
    "semantic_alone": ("semantic_fpn_shapes", {}),
    "alternating": ("panoptic_fpn_shapes", {"losses": {"updates": "alternating"}}),
    "split": ("panoptic_fpn_shapes", {"model": {"fpn": {"sharing": "split"}}}),
    "other_class": (
        "panoptic_fpn_shapes",
        {"model": {"semantic": {"thing_classes": "other"}}},
    ),
    "lambda_s_0.1": ("panoptic_fpn_shapes", {"losses": {"semantic_weight": 0.1}}),
    "lambda_s_0.5": ("panoptic_fpn_shapes", {"losses": {"semantic_weight": 0.5}}),
    "lambda_s_2": ("panoptic_fpn_shapes", {"losses": {"semantic_weight": 2.0}}),
}
"""Name: experiment and overrides of its task; the experiment itself has lambda_s 1."""


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    unknown = sorted(set(_ROWS.value) - set(ROWS))
    if unknown:
        raise app.UsageError(f"--rows: unknown {', '.join(unknown)}; known: {', '.join(ROWS)}.")
    records = shapes_records.write_records(os.path.join(_OUTPUT_DIR.value, "data"))
    rows = {}
    for name in _ROWS.value or ROWS:
        rows[name] = _row(name, records)
        _write(rows)
    print("\n".join(_table(rows)))


def _row(name: str, records: shapes_records.ShapesRecords) -> Dict[str, Any]:
    """Metrics of a row, from its file where it was trained before."""
    folder = os.path.join(_OUTPUT_DIR.value, name)
    path = os.path.join(folder, f"row_{_STEPS.value}.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    experiment, overrides = ROWS[name]
    metrics = common.train_and_score(
        experiment,
        train_path=records.train,
        val_path=records.val,
        output_dir=folder,
        overrides={"task": overrides, "trainer": _TRAINER},
        steps=_STEPS.value,
    )
    files.write_json(path, metrics)
    return metrics


def _write(rows: Dict[str, Dict[str, Any]]) -> None:
    path = os.path.join(_OUTPUT_DIR.value, f"tables_{_STEPS.value}.md")
    files.write_bytes(path, ("\n".join(_table(rows)) + "\n").encode())


def _table(rows: Dict[str, Dict[str, Any]]) -> List[str]:
    """Lines of a Markdown table."""

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.1f}"

    lines = [" | ".join(["| row", *_COLUMNS]) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for name, metrics in rows.items():
        cells = [cell(metrics[column]) for column in _COLUMNS]
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return lines


if __name__ == "__main__":
    app.run(main)
