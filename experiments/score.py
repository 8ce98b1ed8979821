"""Scores predictions in COCO panoptic format, whatever made them, against ground truth.

python experiments/score.py --panoptic_json=GT.json --panoptic_dir=GT/ \
    --predictions_json=P.json --predictions_dir=P/ --output_dir=runs/score

writes metrics.json: panoptic quality and the IoU of the segments' categories in percent, the shares
of void and things, the numbers of segments and the kinds of errors (docs/metrics.md), and the
calibration where segments of the predictions have a score of 0..1. Mask AP is null.
--crowd_rule=last gives the numbers of the COCO panoptic tools, --boundary_ratio=0.02 adds those of
the Boundary IoU tools.
"""

from __future__ import annotations

import os
from typing import Sequence

from absl import app, flags

from panoptic_tf.datasets import files
from panoptic_tf.evaluation import result_files
from panoptic_tf.experiments import cli, outputs
from panoptic_tf.metrics import summary
from panoptic_tf.metrics.coverage import warnings_of
from panoptic_tf.metrics.panoptic_quality import CROWD_RULES

_PANOPTIC_JSON = flags.DEFINE_string("panoptic_json", None, "Ground truth.", required=True)
_PANOPTIC_DIR = flags.DEFINE_string(
    "panoptic_dir", None, "Its PNGs; default the JSON file's path without .json."
)
_PREDICTIONS_JSON = flags.DEFINE_string("predictions_json", None, "Predictions.", required=True)
_PREDICTIONS_DIR = flags.DEFINE_string(
    "predictions_dir", None, "Their PNGs; default the JSON file's path without .json."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for metrics.json.", required=True)
_CROWD_RULE = flags.DEFINE_enum(
    "crowd_rule",
    "all",
    CROWD_RULES,
    "Crowds of its category that forgive an unmatched prediction: all of the image, or the last "
    "one, as the COCO panoptic tools do.",
)
_BOUNDARY_RATIO = flags.DEFINE_float(
    "boundary_ratio",
    0.0,
    "Measure Boundary PQ at boundaries this wide, as a share of the image's diagonal: 0.02 is the "
    "paper's, 0 leaves it out.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", os.cpu_count(), "Processes.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Scores the files of the flags, prints a table and writes metrics.json."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    outputs.make_output_dir(_OUTPUT_DIR.value)
    metrics = result_files.score_files(
        panoptic_json=_PANOPTIC_JSON.value,
        predictions_json=_PREDICTIONS_JSON.value,
        panoptic_dir=_PANOPTIC_DIR.value,
        predictions_dir=_PREDICTIONS_DIR.value,
        crowd_rule=_CROWD_RULE.value,
        boundary_ratio=_BOUNDARY_RATIO.value,
        num_processes=_NUM_PROCESSES.value,
        show_progress=True,
    )
    path = os.path.join(_OUTPUT_DIR.value, "metrics.json")
    files.write_json(path, metrics)
    print(summary.format_metrics(metrics))
    for text in warnings_of(metrics):
        print(f"warning: {text}")
    print(path)


if __name__ == "__main__":
    cli.run_script(__file__, main)
