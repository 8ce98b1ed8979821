"""Trains a system's shapes experiment in full and prints its PQ on the validation images.

python benchmarks/learn_shapes.py --system=panoptic_deeplab --output_dir=runs/learn_shapes

With `--replicas=2`, two logical CPUs train half of a batch each, which is faster where operations
are too small to be worth dividing.
"""

from __future__ import annotations

import os

import common
import tensorflow as tf
from absl import app, flags

from panoptic_tf.datasets import shapes_records
from panoptic_tf.training import runner

_SYSTEM = flags.DEFINE_string("system", "panoptic_deeplab", "Folder name of the system.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/learn_shapes", "Folder of everything.")
_STEPS = flags.DEFINE_integer("steps", None, "Fewer steps than the experiment's.")
_REPLICAS = flags.DEFINE_integer("replicas", 1, "Logical CPUs, of one thread each if several.")


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    overrides = {}
    if _REPLICAS.value > 1:
        runner.split_cpu(_REPLICAS.value)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(2 * _REPLICAS.value)
        overrides["runtime"] = {"distribution_strategy": "mirrored"}
    records = shapes_records.write_records(os.path.join(_OUTPUT_DIR.value, "data"))
    metrics = common.train_and_score(
        common.experiment_name(_SYSTEM.value, "shapes"),
        train_path=records.train,
        val_path=records.val,
        output_dir=os.path.join(_OUTPUT_DIR.value, _SYSTEM.value),
        overrides=overrides,
        steps=_STEPS.value,
    )
    common.print_figure(metrics)


if __name__ == "__main__":
    app.run(main)
