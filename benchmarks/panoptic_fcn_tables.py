"""Small tables like those of Panoptic FCN's ablations, on shapes, at equal steps.

python benchmarks/panoptic_fcn_tables.py --steps=1500 --output_dir=runs/panoptic_fcn_tables

Every row is the shapes experiment with one change; switches of inference are evaluated on the
weights of the unchanged experiment. Rows that were scored already are kept, so the benchmark goes
on where it was stopped.
"""

from __future__ import annotations

import tables
from absl import app, flags

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/panoptic_fcn_tables", "Of everything.")
_STEPS = flags.DEFINE_integer("steps", 1500, "Steps of every training.")
_ROWS = flags.DEFINE_list("rows", [], "Names of rows; all where empty.")

_COLUMNS = ("PQ", "PQ_things", "PQ_stuff", "AP", "mIoU", "train_cpu_seconds")
_PANOPTIC = "panoptic_fcn_shapes"
_NO_COORDINATES = {"coordinates": False}


def _inference(**switches) -> tables.Row:
    return tables.Row(_PANOPTIC, {"model": {"postprocessor": switches}}, trained_as="panoptic")


def _model(**parts) -> tables.Row:
    return tables.Row(_PANOPTIC, {"model": parts})


ROWS = {
    "panoptic": tables.Row(_PANOPTIC, {}),
    "not_fused": _inference(fuse_kernels=False),
    "nms": _inference(fuse_kernels=False, matrix_nms=True),
    "fused_nms": _inference(matrix_nms=True),
    "fused_from_0.80": _inference(similarity_threshold=0.80),
    "fused_from_0.95": _inference(similarity_threshold=0.95),
    "fused_any_class": _inference(class_aware=False),
    "dice_unweighted": _model(sampler={"weighted": False}),
    "dice_1": _model(sampler={"num_positives": 1}),
    "no_coordinates": _model(kernel_head=_NO_COORDINATES, encoder=_NO_COORDINATES),
    "not_deformable": _model(position_head={"deformable": False}),
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
