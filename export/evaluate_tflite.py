"""Scores a .tflite file on records and measures its size and latency.

panoptic-tf evaluate-tflite --tflite_path=model_float32.tflite --input_path='data/val-*' \\
    --output_dir=runs/tflite

writes report.html and metrics.json: PQ and the rest in percent, size_bytes, latency_ms (median of
one image through the interpreter, scaling it to the input included) and latency_ms_p90.
"""

from __future__ import annotations

import os

from absl import app, flags

from panoptic_tf.experiments import cli, limits
from panoptic_tf.metrics.evaluator import METRIC_NAMES

_TFLITE_PATH = flags.DEFINE_string("tflite_path", None, "The model.", required=True)
_INPUT_PATH = flags.DEFINE_string("input_path", None, "Pattern of the records.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the results.", required=True)
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", None, "Threads of the interpreter; default is the runtime's choice."
)
_MAX_EXAMPLES = flags.DEFINE_integer("max_examples", 0, "Only the first so many; 0 is all.")
_CROWD_RULE = flags.DEFINE_enum(
    "crowd_rule", "all", ["all", "last"], "Crowds of a category that forgive a prediction."
)
_WITH_INSTANCES = flags.DEFINE_bool(
    "with_instances",
    False,
    "Measure AP on the records' overlapping instances (`convert --instances_json`).",
)
_MAX_PIXELS = limits.define_max_pixels("larger ones are not decoded and left out")


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.api import evaluation, models

    if models.kind_of(_TFLITE_PATH.value) != models.TFLITE:
        raise ValueError(
            f"--tflite_path={_TFLITE_PATH.value} is no .tflite file. `panoptic-tf evaluate` scores "
            "runs, checkpoints, SavedModels and .onnx files."
        )
    result = evaluation.evaluate(
        _TFLITE_PATH.value,
        input_path=_INPUT_PATH.value,
        output_dir=_OUTPUT_DIR.value,
        crowd_rule=_CROWD_RULE.value,
        with_instances=_WITH_INSTANCES.value,
        max_examples=_MAX_EXAMPLES.value,
        max_pixels=_MAX_PIXELS.value,
        num_threads=_NUM_THREADS.value,
    )
    for name in (*METRIC_NAMES, "size_bytes", "latency_ms"):
        print(f"{name}: {result.metrics[name]}")
    for text in result.warnings:
        print(f"warning: {text}")
    print(os.path.join(_OUTPUT_DIR.value, "metrics.json"))


if __name__ == "__main__":
    cli.run_script(__file__, main)
