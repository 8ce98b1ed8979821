"""CPU-seconds of Panoptic FPN: network, post-processing, training step; beside a reference.

python benchmarks/panoptic_fpn_speed.py
python benchmarks/panoptic_fpn_speed.py --rounds=3 \\
    --reference_command='other_venv/bin/python measure.py --workload={workload} --threads={threads}'

Both sides get the same weights, images and ground truth (`panoptic_fpn_workload`) and run in turn,
in processes of their own. A reference command prints JSON that ends its output:
`{"seconds": {"network": ..., "post": ..., "training_step": ...}, "counts": {...}}`.

network: one normalised image to detections with masks and semantic logits, NMS of the detections
included. post: from there to the panoptic prediction at the image's size. training_step: two
images, forward, losses, backward, update of SGD. targets: what our input pipeline computes for
these two images, among it the labels of the anchors, which others compute inside the step.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import panoptic_fpn_workload
import tensorflow as tf
from absl import app, flags
from official.core import task_factory

from panoptic_tf.structures import Prediction

Measured = Tuple[Dict[str, float], Dict[str, int]]
_ROWS = {
    "network": ("network",),
    "post": ("post",),
    "network + post": ("network", "post"),
    "training_step": ("training_step",),
    "targets": ("targets",),
    "training_step + targets": ("training_step", "targets"),
}

_EXPERIMENT = flags.DEFINE_string("experiment", "panoptic_fpn_resnet50_coco", "Its network.")
_SIZE = flags.DEFINE_integer("size", 512, "Side of the images.")
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of an operation.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 7, "Of each measurement; the median counts.")
_ROUNDS = flags.DEFINE_integer("rounds", 1, "How often both sides take their turn.")
_REFERENCE = flags.DEFINE_string(
    "reference_command",
    None,
    "Measures another implementation; {workload}, {threads} and {repetitions} are filled in.",
)
_WORKLOAD = flags.DEFINE_string(
    "workload", None, "File of a workload: measure ours on it and print JSON. For the turns."
)


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _WORKLOAD.value:
        print(json.dumps(measure(dict(np.load(_WORKLOAD.value)))))
        return
    commands = {"ours": [sys.executable, os.path.abspath(__file__), *sys.argv[1:]]}
    if _REFERENCE.value:
        commands["reference"] = shlex.split(_REFERENCE.value)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "workload.npz")
        np.savez(path, **panoptic_fpn_workload.build(_EXPERIMENT.value, _SIZE.value))
        commands["ours"].append(f"--workload={path}")
        settings = {"workload": path, "threads": _THREADS.value, "repetitions": _REPETITIONS.value}
        turns: Dict[str, List[Dict[str, Any]]] = {side: [] for side in commands}
        for _ in range(_ROUNDS.value):
            for side, command in commands.items():
                turns[side].append(_run([part.format(**settings) for part in command]))
    _print_table(turns)


def measure(workload: Dict[str, np.ndarray]) -> Dict[str, Any]:
    """Ours, in this process.

    Args:
      workload: see `panoptic_fpn_workload.build`.

    Returns:
      `seconds` and `counts`, as a reference command prints them.
    """
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    params = panoptic_fpn_workload.get_params(_EXPERIMENT.value, _SIZE.value)
    task = task_factory.get_task(params.task)
    model = task.build_model()
    panoptic_fpn_workload.load_weights(model, workload)
    seconds, counts = _measure_inference(model, workload)
    more_seconds, more_counts = _measure_training(task, params, model, workload)
    return {"seconds": {**seconds, **more_seconds}, "counts": {**counts, **more_counts}}


def _measure_inference(model: Any, workload: Dict[str, np.ndarray]) -> Measured:
    network = model.inference_network
    postprocessor = network.get_layer("postprocessor")
    raw_network = tf.keras.Model(network.input, postprocessor.input)
    image_info = tf.constant(workload["features/image_info"][:1])
    inputs = {"image": tf.constant(workload["image"]), "image_info": image_info}

    detect = tf.function(lambda: raw_network(inputs, training=False), autograph=False)
    raw = detect()
    merge = tf.function(lambda: postprocessor(raw, image_info), autograph=False)
    proposals = tf.keras.Model(network.input, network.get_layer("proposals").output)(inputs)
    prediction = merge()
    is_thing = prediction[Prediction.SEGMENT_INSTANCE] > 0
    counts = {
        "proposals": proposals.valid,
        "detections": raw["valid"],
        "detections_in_merge": raw["scores"] >= 0.5,
        "thing_segments": is_thing,
        "stuff_segments": (prediction[Prediction.SEGMENT_CATEGORY] > 0) & ~is_thing,
    }
    seconds = {"network": _cpu_seconds(detect), "post": _cpu_seconds(merge)}
    return seconds, {name: int(np.sum(flags)) for name, flags in counts.items()}


def _measure_training(
    task: Any, params: Any, model: Any, workload: Dict[str, np.ndarray]
) -> Measured:
    images = workload["train_image"]
    samples = panoptic_fpn_workload.draw_samples(images, task.dataset_info)
    generator = task.build_target_generator()
    targets = tf.function(lambda: [generator(sample) for sample in samples], autograph=False)

    features = {"image": tf.constant(images), **_tensors(workload, "features/")}
    labels = _tensors(workload, "labels/")
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    step = tf.function(
        lambda: task.train_step((features, labels), model, optimizer), autograph=False
    )
    outputs = model.training_network(features, training=True)
    counts = {
        "sampled": int(np.sum(outputs["sampled_weights"])),
        "positives": int(np.sum(outputs["sampled_is_positive"])),
    }
    del outputs
    return {"training_step": _cpu_seconds(step), "targets": _cpu_seconds(targets)}, counts


def _tensors(workload: Dict[str, np.ndarray], prefix: str) -> Dict[str, tf.Tensor]:
    found = {key: value for key, value in workload.items() if key.startswith(prefix)}
    return {key[len(prefix) :]: tf.constant(value) for key, value in found.items()}


def _cpu_seconds(function: Callable[[], Any]) -> float:
    """Median of process time; a call that traces and one that warms up do not count."""
    found = []
    for _ in range(_REPETITIONS.value + 2):
        start = time.process_time()
        tf.nest.map_structure(lambda x: x.numpy(), function())
        found.append(time.process_time() - start)
    return statistics.median(found[2:])


def _run(command: List[str]) -> Dict[str, Any]:
    """Runs a command that prints JSON last, in one line or in many."""
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    start = output.rfind('{"seconds"')
    if start < 0:
        raise ValueError(f"{command[:3]} printed no seconds: {output[-300:]!r}")
    return json.loads(output[start:])


def _print_table(turns: Dict[str, List[Dict[str, Any]]]) -> None:
    print(
        f"{_EXPERIMENT.value}, {_SIZE.value}x{_SIZE.value}, {_THREADS.value} thread(s); CPU-seconds"
    )
    print("".join(f"{title:>24}" for title in ["", *turns, "ratio"]))
    for name, parts in _ROWS.items():
        medians = []
        for found in turns.values():
            # A reference that computes the targets inside the step has none of its own.
            values = [sum(one["seconds"].get(part, 0.0) for part in parts) for one in found]
            medians.append(statistics.median(values))
        ratio = f"{medians[0] / medians[1]:.2f}" if len(medians) > 1 and medians[1] else "-"
        cells = [name, *(f"{value:.3f}" for value in medians), ratio]
        print("".join(f"{cell:>24}" for cell in cells))
    counts = {side: found[0]["counts"] for side, found in turns.items()}
    for side, found in counts.items():
        print(f"{side}: {found}")
    if any(found != counts["ours"] for found in counts.values()):
        print("The sides did not do the same work.")


if __name__ == "__main__":
    app.run(main)
