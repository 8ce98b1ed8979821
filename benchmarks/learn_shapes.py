"""Trains a system's shapes experiment in full and prints its PQ on the validation images.

python benchmarks/learn_shapes.py --system=panoptic_deeplab --output_dir=runs/learn_shapes
"""

from __future__ import annotations

import os

import common
from absl import app, flags

from panoptic_tf.datasets import shapes_records

_SYSTEM = flags.DEFINE_string("system", "panoptic_deeplab", "Folder name of the system.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/learn_shapes", "Folder of everything.")
_STEPS = flags.DEFINE_integer("steps", None, "Fewer steps than the experiment's.")


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    records = shapes_records.write_records(os.path.join(_OUTPUT_DIR.value, "data"))
    metrics = common.train_and_score(
        common.experiment_name(_SYSTEM.value, "shapes"),
        train_path=records.train,
        val_path=records.val,
        output_dir=os.path.join(_OUTPUT_DIR.value, _SYSTEM.value),
        steps=_STEPS.value,
    )
    common.print_figure(metrics)


if __name__ == "__main__":
    app.run(main)
