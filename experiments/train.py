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
    params = common.parse_experiment()
    runner.train(params, mode=flags.FLAGS.mode, model_dir=flags.FLAGS.model_dir)


if __name__ == "__main__":
    app.run(main)
