"""Scores a .tflite file on records and measures its size and latency.

panoptic-tf evaluate-tflite --tflite_path=model_float32.tflite --input_path='data/val-*' \
    --output_dir=runs/tflite

writes metrics.json: PQ and the rest in percent, size_bytes, latency_ms (median of one image through
the interpreter, scaling it to the input included) and latency_ms_p90.
"""

from __future__ import annotations

import os

from absl import app, flags
from tqdm import tqdm

import panoptic_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)
from panoptic_tf.datasets import files
from panoptic_tf.evaluation import records
from panoptic_tf.experiments import cli, limits, outputs
from panoptic_tf.metrics import coverage
from panoptic_tf.metrics.evaluator import METRIC_NAMES
from panoptic_tf.metrics.panoptic_quality import CROWD_RULES
from panoptic_tf.serving.predictor import Predictor

_TFLITE_PATH = flags.DEFINE_string("tflite_path", None, "The model.", required=True)
_INPUT_PATH = flags.DEFINE_string("input_path", None, "Pattern of the records.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for metrics.json.", required=True)
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", None, "Threads of the interpreter; default is the runtime's choice."
)
_MAX_EXAMPLES = flags.DEFINE_integer("max_examples", 0, "Only the first so many; 0 is all.")
_CROWD_RULE = flags.DEFINE_enum(
    "crowd_rule", "all", CROWD_RULES, "Crowds of a category that forgive a prediction."
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
    path = os.path.join(_OUTPUT_DIR.value, "metrics.json")
    outputs.check_can_write("output_dir", path)
    total = records.count_records(_INPUT_PATH.value, _MAX_EXAMPLES.value)
    predictor = Predictor(
        _TFLITE_PATH.value, num_threads=_NUM_THREADS.value, max_pixels=_MAX_PIXELS.value
    )
    with tqdm(total=total, unit="image") as progress:
        metrics, latency = records.evaluate_records(
            predictor,
            _INPUT_PATH.value,
            crowd_rule=_CROWD_RULE.value,
            max_examples=_MAX_EXAMPLES.value,
            with_instances=_WITH_INSTANCES.value,
            on_example=lambda _: progress.update(),
        )
    metrics["size_bytes"] = os.path.getsize(_TFLITE_PATH.value)
    metrics["latency_ms"], metrics["latency_ms_p90"] = latency["median"], latency["p90"]
    files.write_json(path, metrics)
    for name in (*METRIC_NAMES, "size_bytes", "latency_ms"):
        print(f"{name}: {metrics[name]}")
    for text in coverage.warnings_of(metrics):
        print(f"warning: {text}")
    print(path)


if __name__ == "__main__":
    cli.run_script(__file__, main)
