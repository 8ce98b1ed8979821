"""Tables like 3a, 3c and 3d of Panoptic FPN and a sweep of lambda_s, on shapes, at equal steps.

python benchmarks/panoptic_fpn_tables.py --steps=700 --output_dir=runs/panoptic_fpn_tables

Every row is the shapes experiment with one change. Rows that were trained already are kept, so the
benchmark goes on where it was stopped. Table 3b is `panoptic-tf analyze`: nothing to train.
"""

from __future__ import annotations

import tables
from absl import app, flags

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/panoptic_fpn_tables", "Of everything.")
_STEPS = flags.DEFINE_integer("steps", 700, "Steps of every row.")
_ROWS = flags.DEFINE_list("rows", [], "Names of rows; all where empty.")

_COLUMNS = ("AP", "PQ_things", "mIoU", "PQ_stuff", "PQ", "train_cpu_seconds")
_PANOPTIC = "panoptic_fpn_shapes"

# The experiment itself has lambda_s 1.
ROWS = {
    "panoptic": tables.Row(_PANOPTIC, {}),
    "instance_alone": tables.Row("mask_rcnn_shapes", {}),
    "semantic_alone": tables.Row("semantic_fpn_shapes", {}),
    "alternating": tables.Row(_PANOPTIC, {"losses": {"updates": "alternating"}}),
    "split": tables.Row(_PANOPTIC, {"model": {"fpn": {"sharing": "split"}}}),
    "other_class": tables.Row(_PANOPTIC, {"model": {"semantic": {"thing_classes": "other"}}}),
    "lambda_s_0.1": tables.Row(_PANOPTIC, {"losses": {"semantic_weight": 0.1}}),
    "lambda_s_0.5": tables.Row(_PANOPTIC, {"losses": {"semantic_weight": 0.5}}),
    "lambda_s_2": tables.Row(_PANOPTIC, {"losses": {"semantic_weight": 2.0}}),
}


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    tables.run(
        ROWS,
        names=_ROWS.value,
        columns=_COLUMNS,
        output_dir=_OUTPUT_DIR.value,
        steps=_STEPS.value,
    )


if __name__ == "__main__":
    app.run(main)
