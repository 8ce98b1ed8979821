"""Trains an experiment, and evaluates it on the way.

panoptic-tf train --experiment=panoptic_deeplab_shapes --mode=train_and_eval --model_dir=runs/shapes
"""

from __future__ import annotations

from absl import app, flags

from panoptic_tf.experiments import common
from panoptic_tf.systems import runner

common.define_experiment_flags()
flags.mark_flags_as_required(["experiment", "mode", "model_dir"])


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    mode, model_dir = flags.FLAGS.mode, flags.FLAGS.model_dir
    # What only evaluates takes the configuration that the run was trained with.
    params = common.parse_experiment(None if "train" in mode else model_dir)
    runner.train(params, mode=mode, model_dir=model_dir)


if __name__ == "__main__":
    app.run(main)
