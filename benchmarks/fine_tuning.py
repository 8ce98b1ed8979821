"""Fine-tuning from another library's file into other categories, beside random weights.

python benchmarks/fine_tuning.py --output_dir=runs/fine_tuning

Panoptic FPN learns shapes, and its weights are written as detectron2 would have saved them. A
second data set has three of the six things and two of the four stuff textures, under other ids; the
rest is void. There the experiment trains for a few steps from the file, with
`task.init_checkpoint_modules=matching`, and for as many from random weights.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any, Dict

import common
import numpy as np
from absl import app, flags
from PIL import Image

from panoptic_tf.datasets import converter, shapes, shapes_records
from panoptic_tf.datasets.coco_writer import CocoPanopticWriter
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.training import runner

# The tests' writer of other libraries' files.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir, "tests", "checkpoints"))
import source_files  # noqa: E402

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/fine_tuning", "Folder of everything.")
_SOURCE_STEPS = flags.DEFINE_integer("source_steps", 2000, "Steps of the training on shapes.")
_STEPS = flags.DEFINE_integer("steps", 300, "Steps of each of the two trainings compared.")
_IMAGES = flags.DEFINE_integer("images", 500, "Training images of the second data set.")

_EXPERIMENT = "panoptic_fpn_shapes"
_KEPT = ("ring", "disc", "star", "plain", "stripes")
_NUM_VAL = 200
_SEEDS = {"train": 77, "val": 78}


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    weights = _source_weights(os.path.join(_OUTPUT_DIR.value, "source"))
    records = _second_data_set(os.path.join(_OUTPUT_DIR.value, "data"))
    start = {"init_checkpoint": weights, "init_checkpoint_modules": "matching"}
    found = {
        name: _train_and_score(name, records, overrides)
        for name, overrides in (("random", {}), ("fine_tuned", start))
    }
    for name, metrics in found.items():
        print(f"{name}: PQ {metrics['PQ']:.2f}, things {metrics['PQ_things']:.2f}")


def _source_weights(folder: str) -> str:
    """Trains on shapes and writes what was learned under detectron2's names."""
    path = os.path.join(folder, "model_final.pkl")
    if os.path.exists(path):
        return path
    data = shapes_records.write_records(os.path.join(folder, "data"), num_train=4000)
    params = common.build_params(
        _EXPERIMENT, train_path=data.train, val_path=data.val, steps=_SOURCE_STEPS.value
    )
    model_dir = os.path.join(folder, "model")
    common.train(params, model_dir)
    model = runner.load_model(params, runner.build_task(params), checkpoint_path=model_dir)
    state = source_files.panoptic_fpn(source_files.values_of(model.weights))
    return source_files.write_pickle(state, path, __author__="benchmarks/fine_tuning.py")


def _second_data_set(folder: str) -> str:
    """Writes it and returns the folder of its records."""
    whole = DatasetInfo.load("shapes")
    by_name = {category.name: category for category in whole.categories}
    info = DatasetInfo(
        name="some_shapes",
        categories=tuple(
            dataclasses.replace(by_name[name], id=i + 1, dataset_id=11 * (i + 1))
            for i, name in enumerate(_KEPT)
        ),
    )
    records = os.path.join(folder, "records")
    new_ids = {by_name[name].dataset_id: i + 1 for i, name in enumerate(_KEPT)}
    for split, count in (("train", _IMAGES.value), ("val", _NUM_VAL)):
        split_dir = os.path.join(folder, split)
        os.makedirs(os.path.join(split_dir, "images"), exist_ok=True)
        with CocoPanopticWriter(
            split_dir, info, json_name="panoptic.json", png_dir="panoptic"
        ) as writer:
            for index in range(count):
                _write_image(writer, split_dir, new_ids, _SEEDS[split], index)
        converter.convert_dataset(
            "coco_panoptic",
            panoptic_json=os.path.join(split_dir, "panoptic.json"),
            panoptic_dir=os.path.join(split_dir, "panoptic"),
            image_dir=os.path.join(split_dir, "images"),
            output_dir=records,
            name=info.name,
            split=split,
            overwrite=True,
        )
    return records


def _write_image(
    writer: CocoPanopticWriter, split_dir: str, new_ids: Dict[int, int], seed: int, index: int
) -> None:
    image, id_map, segments = shapes.generate_image(seed, index)
    categories = np.zeros(id_map.max() + 1, np.int32)
    is_thing = np.zeros_like(categories)
    for segment in segments:
        categories[segment["id"]] = new_ids.get(segment["category_id"], 0)
        is_thing[segment["id"]] = segment["category_id"] <= len(shapes.THING_NAMES)
    category_mask = categories[id_map]
    instance_mask = np.where(category_mask > 0, is_thing[id_map] * id_map, 0)
    crowds = [segment["id"] for segment in segments if segment["iscrowd"]]
    name = f"{index:06d}"
    Image.fromarray(image).save(os.path.join(split_dir, "images", f"{name}.png"))
    writer.add(
        index,
        name,
        category_mask,
        instance_mask,
        crowd=np.isin(id_map, crowds) & (category_mask > 0),
        image_file=f"{name}.png",
    )


def _train_and_score(name: str, records: str, overrides: Dict[str, Any]) -> Dict[str, Any]:
    task = {"dataset_info": os.path.join(records, "dataset_info.json"), **overrides}
    return common.train_and_score(
        _EXPERIMENT,
        train_path=os.path.join(records, "train-*"),
        val_path=os.path.join(records, "val-*"),
        output_dir=os.path.join(_OUTPUT_DIR.value, name),
        # Averages over thousands of steps would hold the start.
        overrides={
            "task": task,
            "trainer": {
                "optimizer_config": {
                    "ema": {"average_decay": 0.98},
                    "warmup": {"linear": {"warmup_steps": 30}},
                }
            },
        },
        steps=_STEPS.value,
    )


if __name__ == "__main__":
    app.run(main)
