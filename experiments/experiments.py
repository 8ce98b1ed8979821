"""Lists the experiments and what each is for.

panoptic-tf experiments [--like=cityscapes]
"""

from __future__ import annotations

from typing import Tuple

from absl import app, flags

from panoptic_tf.experiments import cli

_LIKE = flags.DEFINE_string("like", "", "Only those with this text in their name.")


def main(argv) -> None:
    """Prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.api import configuration

    names = [name for name in configuration.experiment_names() if _LIKE.value in name]
    if not names:
        raise app.UsageError(f"--like={_LIKE.value}: no experiment has that in its name.")
    rows = [("experiment", "backbone", "input", "steps x batch", ""), *map(_describe, names)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


def _describe(name: str) -> Tuple[str, ...]:
    from panoptic_tf.api import configuration

    params = configuration.find_experiment(name)
    height, width = params.task.model.input_size
    steps, batch = params.trainer.train_steps, params.task.train_data.global_batch_size
    return (
        name,
        params.task.model.backbone.name,
        f"{height}x{width}",
        f"{steps:,} x {batch}",
        configuration.describe_experiment(name),
    )


if __name__ == "__main__":
    cli.run_script(__file__, main)
