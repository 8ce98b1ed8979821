"""Scores the last checkpoint of a run on its validation data, and writes a report to look at.

panoptic-tf report --model_dir=mydata/run

writes metrics.json and report.html to <model_dir>/report. What `evaluate` has flags for, this
command takes from the run's params.yaml.
"""

import os

from absl import app, flags

from panoptic_tf.experiments import cli, outputs

_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Folder of a run, which `train` wrote.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder of the report; default <model_dir>/report."
)
_INPUT_PATH = flags.DEFINE_string(
    "input_path", None, "Pattern of other records; default the run's validation data."
)


def main(argv) -> None:
    """Scores what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.api import evaluation

    folder = _OUTPUT_DIR.value or os.path.join(_MODEL_DIR.value, "report")
    result = evaluation.evaluate(
        _MODEL_DIR.value, input_path=_INPUT_PATH.value, output_dir=folder, with_ceiling=True
    )
    outputs.print_evaluation(result, folder)


if __name__ == "__main__":
    cli.run_script(__file__, main)
