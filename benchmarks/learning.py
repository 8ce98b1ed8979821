"""Mask2Former and that of `transformers` trained on the same images: what both have learnt.

python benchmarks/learning.py --reference_python=other/bin/python --output_dir=runs/learning

For every seed both start from the weights that the reference draws and read one folder of batches,
augmented by our pipeline. Optimiser, clipping and schedule are equal: AdamW, a warm-up, then one
rate. Predictions of both go through one post-processing and one evaluator. Ours is scored after as
many steps as the reference makes, and again after as much CPU time as the reference took. The
points of the losses are drawn by each side.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

import numpy as np
import tensorflow as tf
from absl import app, flags
from official.core import exp_factory, task_factory
from tqdm import tqdm

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.datasets import shapes_records
from panoptic_tf.layers import dynamic_conv
from panoptic_tf.ops import forms
from panoptic_tf.systems import optimization
from panoptic_tf.systems.mask_transformer import network

Arrays = Mapping[str, np.ndarray]

_PYTHON = flags.DEFINE_string(
    "reference_python", None, "Python of an environment with torch and transformers.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/learning", "Folder of everything.")
_STEPS = flags.DEFINE_integer("steps", 300, "Of the reference.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of runs.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "After the warm-up.")
_WARMUP_STEPS = flags.DEFINE_integer("warmup_steps", 50, "Of the rate, from 0.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of a step.")
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of an operation.")

_SCRIPT = os.path.join(os.path.dirname(__file__), "references", "transformers_learning.py")
_MOST_TIMES = 3  # as many steps as the reference
_WEIGHT_DECAY = 0.05
_CLIP_NORM = 0.01
# The network of the reference's script.
_MODEL = {
    "backbone": {
        "name": "resnet",
        "norm": "batch",
        "options": {
            "block": "bottleneck",
            "num_blocks": [1, 1, 2, 1],
            "widths": [16, 16, 24, 32],
            "stem": "basic",
            "stem_width": 16,
        },
    },
    "decoder": {"num_queries": 32, "num_layers": 3, "num_heads": 4, "levels": ["5", "4", "3"]},
}


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    records = shapes_records.write_records(os.path.join(_OUTPUT_DIR.value, "data"))
    results = [_run(seed, records) for seed in range(_SEEDS.value)]
    names = list(results[0])
    print(f"{_STEPS.value} steps of {_BATCH_SIZE.value} images, {_THREADS.value} thread(s)")
    print("| seed | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for seed, result in enumerate(results):
        print(f"| {seed} | " + " | ".join(f"{result[name]:.2f}" for name in names) + " |")
    if len(results) > 1:
        columns = ([result[name] for result in results] for name in names)
        cells = (f"{statistics.mean(c):.2f} +- {statistics.stdev(c):.2f}" for c in columns)
        print("| mean and deviation | " + " | ".join(cells) + " |")


def _run(seed: int, records: shapes_records.ShapesRecords) -> Dict[str, float]:
    folder = os.path.join(_OUTPUT_DIR.value, f"seed_{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "batches"))
    task = task_factory.get_task(_params(records, seed).task)
    task.form = forms.Form.CPU
    truths = _write_inputs(task, folder)
    _reference(folder, "--draw", f"--seed={seed}")
    theirs = _reference(
        folder,
        f"--steps={_STEPS.value}",
        f"--learning_rate={_LEARNING_RATE.value}",
        f"--warmup_steps={_WARMUP_STEPS.value}",
        f"--weight_decay={_WEIGHT_DECAY}",
        f"--clip_norm={_CLIP_NORM}",
    )
    score = _build_score(task, truths)
    predictions = np.load(os.path.join(folder, "predictions.npz"))
    found = {"PQ of the reference": score(iter([predictions]))}
    ours = _Ours(task, folder)
    ours.train(lambda: ours.num_steps == _STEPS.value)
    found["PQ"] = score(ours.predict(truths))
    found["loss of the reference"] = statistics.mean(theirs["losses"][-20:])
    found["loss"] = statistics.mean(ours.losses[-20:])
    found["CPU-s of the reference"] = theirs["seconds"]["training"]
    found["CPU-s"] = ours.seconds
    ours.train(lambda: ours.seconds >= theirs["seconds"]["training"])
    found["steps in its CPU time"] = ours.num_steps
    found["PQ in its CPU time"] = score(ours.predict(truths))
    with open(os.path.join(folder, "losses.json"), "w", encoding="utf-8") as file:
        json.dump({"ours": ours.losses, "reference": theirs["losses"]}, file)
    shutil.rmtree(os.path.join(folder, "batches"))
    print(f"seed {seed}: {found}")
    return found


def _params(records: shapes_records.ShapesRecords, seed: int) -> Any:
    params = exp_factory.get_exp_config("mask2former_shapes")
    size = {"global_batch_size": _BATCH_SIZE.value}
    params.override(
        {
            "task": {
                "model": _MODEL,
                "train_data": {"input_path": records.train, "seed": seed, **size},
                "validation_data": {"input_path": records.val, **size},
            }
        }
    )
    return params


def _write_inputs(task: Any, folder: str) -> List[Tuple[Arrays, Arrays]]:
    """Writes batches and validation images; returns the latter with their truth."""
    config = task.task_config
    count = _MOST_TIMES * _STEPS.value
    batches = task.build_inputs(config.train_data).take(count).as_numpy_iterator()
    for number, (features, labels) in enumerate(tqdm(batches, total=count, desc="batches")):
        kept = {key: labels[key] for key in ("segment_map", "segment_classes", "segment_valid")}
        np.savez(
            os.path.join(folder, "batches", f"{number:06d}.npz"),
            image=features["image"].astype(np.float16),
            **{**kept, "segment_map": kept["segment_map"].astype(np.uint8)},
            seed=labels["seed"],
            is_annotated=labels["is_annotated"],
        )
    truths = list(task.build_inputs(config.validation_data).as_numpy_iterator())
    images = np.concatenate([features["image"] for features, _ in truths]).astype(np.float16)
    np.savez(os.path.join(folder, "validation.npz"), image=images)
    return truths


def _reference(folder: str, *flags_of_it: str) -> Dict[str, Any]:
    command = [_PYTHON.value, _SCRIPT, f"--folder={folder}", f"--threads={_THREADS.value}"]
    done = subprocess.run([*command, *flags_of_it], stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if "--draw" not in flags_of_it else {}


class _Ours:
    """Our training on the batches of a folder.

    Attributes:
      losses: of every step.
      seconds: of CPU, tracing included.
    """

    def __init__(self, task: Any, folder: str):
        self.losses: List[float] = []
        self.seconds = 0.0
        self._folder = folder
        self._model = task.build_model()
        start = os.path.join(folder, "start", "model.safetensors")
        checkpoints.load_weights(start, self._model.weights, modules="all", network=self._model)
        config = optimization.trainer_config(
            train_steps=_STEPS.value,
            optimizer="adamw",
            optimizer_options=optimization.adamw_options(
                weight_decay=_WEIGHT_DECAY, clip_norm=_CLIP_NORM, epsilon=1e-8
            ),
            schedule="constant",
            schedule_options={"learning_rate": _LEARNING_RATE.value},
            warmup_steps=_WARMUP_STEPS.value,
        )
        optimizer = task.create_optimizer(config.optimizer_config)
        self._step = tf.function(
            lambda *batch: task.train_step(batch, self._model, optimizer)["loss"], autograph=False
        )
        self._predict = tf.function(
            lambda features: _last(self._model.training_network(features, training=False)),
            autograph=False,
            reduce_retracing=True,
        )

    @property
    def num_steps(self) -> int:
        """Steps that were made."""
        return len(self.losses)

    def train(self, is_done: Callable[[], bool]) -> None:
        """Makes steps until it is done or there is no batch left."""
        paths = sorted(os.listdir(os.path.join(self._folder, "batches")))
        before, start = self.seconds, time.process_time()
        for path in paths[self.num_steps :]:
            if is_done():
                break
            batch = dict(np.load(os.path.join(self._folder, "batches", path)))
            image = batch.pop("image").astype(np.float32)
            features = {"image": image, "image_info": np.zeros([len(image), 4, 2], np.float32)}
            batch["segment_map"] = batch["segment_map"].astype(np.int32)
            tensors = tf.nest.map_structure(tf.constant, (features, batch))
            self.losses.append(float(self._step(*tensors)))
            self.seconds = before + time.process_time() - start

    def predict(self, truths: List[Tuple[Arrays, Arrays]]) -> Iterator[Arrays]:
        """What the post-processing takes, by batch."""
        for features, _ in truths:
            outputs = self._predict(tf.nest.map_structure(tf.constant, features))
            yield {key: value.numpy() for key, value in outputs.items()}


def _last(outputs: Mapping[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
    masks = dynamic_conv.mask_logits(outputs["mask_embeddings"][:, -1], outputs["mask_features"])
    return {"class_logits": outputs["class_logits"][:, -1], "mask_logits": masks}


def _build_score(
    task: Any, truths: List[Tuple[Arrays, Arrays]]
) -> Callable[[Iterator[Arrays]], float]:
    """The PQ of what was predicted for the validation images, in any parts."""
    layer = network.build_postprocessor(task.task_config.model, task.dataset_info)

    @tf.function(autograph=False, reduce_retracing=True)
    def process(outputs, image_info):
        with forms.use(forms.Form.CPU):
            return layer(outputs, image_info)

    def score(predicted: Iterator[Arrays]) -> float:
        parts = list(predicted)
        outputs = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        evaluator = task.build_evaluator()
        first = 0
        for features, labels in truths:
            batch = slice(first, first + len(features["image"]))
            first = batch.stop
            tensors = {key: tf.constant(value[batch]) for key, value in outputs.items()}
            found = process(tensors, tf.constant(features["image_info"]))
            for i in range(len(features["image"])):
                truth = {key: value[i] for key, value in labels.items()}
                evaluator.update(truth, {key: value[i].numpy() for key, value in found.items()})
        return evaluator.result()["PQ"]

    return score


if __name__ == "__main__":
    app.run(main)
