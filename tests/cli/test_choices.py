"""Flags whose values are written out, so that `--help` imports no TensorFlow, have all of them."""

import importlib
import json
import subprocess
import sys

import pytest

PROGRAM = """
import importlib, json, sys
from absl import flags
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps({n: flags.FLAGS[n].parser.enum_values for n in flags.FLAGS
                  if hasattr(flags.FLAGS[n].parser, "enum_values")}))
"""

CASES = [
    ("experiments.train", "mode", "api.configuration.MODES"),
    ("experiments.train", "cluster_resolver", "training.cluster.RESOLVERS"),
    ("experiments.train", "log", "training.progress.STYLES"),
    ("experiments.train", "mixed_precision", "training.runner.PRECISIONS"),
    ("experiments.train", "distribution_strategy", "training.runner.STRATEGIES"),
    ("experiments.evaluate", "crowd_rule", "metrics.panoptic_quality.CROWD_RULES"),
    ("experiments.import_checkpoint", "modules", "checkpoints.MODULES"),
    ("experiments.convert", "format", "datasets.importers.FORMATS"),
    ("experiments.convert", "on_top", "datasets.importers.drawing.ON_TOP"),
    ("experiments.convert", "exif", "datasets.importers.photographs.EXIF"),
    ("experiments.predict", "exif", "datasets.images.EXIF"),
    ("experiments.request", "exif", "datasets.images.EXIF"),
    ("export.export_saved_model", "input_type", "serving.export.INPUT_TYPES"),
    ("export.export_saved_model", "target", "api.exporting.TARGETS"),
    ("export.export_saved_model", "precision", "api.exporting.SERVED_PRECISIONS"),
    ("export.export_tflite", "quantization", "serving.tflite.QUANTIZATIONS"),
    ("export.export_tflite", "part", "serving.parts.PARTS"),
    ("export.export_onnx", "part", "serving.parts.PARTS"),
    ("export.evaluate_tflite", "crowd_rule", "metrics.panoptic_quality.CROWD_RULES"),
]


@pytest.mark.parametrize("module, flag, constant", CASES)
def test_choices_are_the_package_s(module, flag, constant):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"panoptic_tf.{module}"],
        capture_output=True,
        text=True,
        check=True,
    )
    where, _, name = f"panoptic_tf.{constant}".rpartition(".")
    expected = getattr(importlib.import_module(where), name)
    assert sorted(json.loads(done.stdout)[flag]) == sorted(expected)


def test_numbers_are_the_package_s():
    from panoptic_tf.datasets import images
    from panoptic_tf.experiments import limits

    assert limits.MAX_PIXELS == images.MAX_PIXELS
