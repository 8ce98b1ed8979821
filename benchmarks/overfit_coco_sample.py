"""Learns a folder of COCO panoptic images by heart, from random weights, and prints the PQ.

python benchmarks/overfit_coco_sample.py --system=panoptic_deeplab --coco_sample=coco_sample

The folder holds images/, panoptic/ and panoptic_examples.json (all 133 categories). The images are
scored through the evaluation of the package at their own size, crowds included.
"""

from __future__ import annotations

import os

import common
from absl import app, flags

from panoptic_tf.datasets import converter

_SYSTEM = flags.DEFINE_string("system", "panoptic_deeplab", "Folder name of the system.")
_COCO_SAMPLE = flags.DEFINE_string("coco_sample", None, "The folder.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/overfit_coco_sample", "Of everything.")
_STEPS = flags.DEFINE_integer("steps", None, "Fewer steps than the recipe's.")


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    records = os.path.join(_OUTPUT_DIR.value, "records")
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=os.path.join(_COCO_SAMPLE.value, "panoptic_examples.json"),
        panoptic_dir=os.path.join(_COCO_SAMPLE.value, "panoptic"),
        image_dir=os.path.join(_COCO_SAMPLE.value, "images"),
        output_dir=records,
        name="coco_panoptic",
        split="sample",
        num_processes=1,
    )
    metrics = common.train_and_score(
        common.experiment_name(_SYSTEM.value, "resnet50_coco"),
        train_path=os.path.join(records, "sample-*"),
        val_path=os.path.join(records, "sample-*"),
        output_dir=os.path.join(_OUTPUT_DIR.value, _SYSTEM.value),
        recipe=common.recipe_path(_SYSTEM.value, "coco_sample"),
        steps=_STEPS.value,
    )
    common.print_figure(metrics)


if __name__ == "__main__":
    app.run(main)
