"""CPU-seconds of a system's network and training step; beside a reference.

python benchmarks/network.py --system=panoptic_deeplab
python benchmarks/network.py --system=panoptic_deeplab --rounds=3 \\
    --reference_python=other/bin/python

Both sides get the same weights, images and ground truth (`<system>_workload`) and run in turn, in
processes of their own. A reference command prints JSON that ends its output:
`{"seconds": {"network": ..., "training_step": ...}, "counts": {...}, "memory": {...}}`, the last
where it measures memory: in megabytes by part, after the timed calls, how far one more raises the
resident memory, and the peak, which alone has what an allocator keeps between calls.

network: one normalised image to what the post-processing gets; Panoptic FPN: NMS of the detections
included. beside an expert's: the same, and the reference as an expert runs it, see
`references/experts.py`. position_head: the part of Panoptic FCN's that its deformable convolutions
take; pixel_decoder, transformer_decoder: parts of a mask transformer's.
training_step: two images, forward, losses, backward, update of the optimizer. targets: what our
input pipeline computes for these two images, some of which others compute inside the step.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import speed
import subjects
import tensorflow as tf
import workloads
from absl import app, flags
from references import measuring

from panoptic_tf.evaluation import analysis
from panoptic_tf.systems import optimization

_OF_TRAINING = ("train_image", "truth/", "features/", "labels/")

Measured = Tuple[Dict[str, float], Dict[str, Any], Dict[str, measuring.Megabytes]]
_ROWS = {
    "network": ("network",),
    "beside an expert's": ("network_expert",),
    "position_head": ("position_head",),
    "pixel_decoder": ("pixel_decoder",),
    "transformer_decoder": ("transformer_decoder",),
    "training_step": ("training_step",),
    "targets": ("targets",),
    "training_step + targets": ("training_step", "targets"),
}

_PARTS = flags.DEFINE_multi_enum(
    "part", ["network", "training_step"], ["network", "training_step"], "What is measured of it."
)


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    subject = subjects.get_subject()
    speed.run(
        argv,
        title=str(subject),
        build=lambda: _build(subject),
        measure=measure,
        rows=_ROWS,
        reference=subject.workload.REFERENCE,
        compare=speed.print_memory,
    )


def _build(subject: subjects.Subject) -> speed.Workload:
    workload = subject.workload.build_network(subject.experiment, subject.size)
    if "training_step" in _PARTS.value:
        return workload
    return {key: x for key, x in workload.items() if not key.startswith(_OF_TRAINING)}


def measure(workload: speed.Workload) -> Dict[str, Any]:
    """Ours, in this process.

    Args:
      workload: see `build_network` of the system.

    Returns:
      `seconds`, `counts` and `memory`, as a reference command prints them.
    """
    subject = subjects.get_subject()
    system, params = subject.workload, subject.params
    task, model = workloads.build_model(params)
    workloads.load_weights(model, workload)
    found: List[Measured] = []
    if "network" in _PARTS.value:
        found.append(_measure_network(system, model, workload))
    if "training_step" in _PARTS.value:
        found.append(_measure_training(system, task, params, model, workload))
    multiply_adds = {}
    if "network" in _PARTS.value:
        cost = analysis.analyze_model(model, (subject.size[0], subject.size[1])).total
        multiply_adds["network"] = cost.multiply_adds
    return {
        "seconds": {name: value for seconds, _, _ in found for name, value in seconds.items()},
        "counts": {
            name: int(np.sum(marks)) for _, counts, _ in found for name, marks in counts.items()
        },
        "memory": {part: megabytes for _, _, memory in found for part, megabytes in memory.items()},
        "multiply_adds": multiply_adds,
    }


def _measure_network(system: Any, model: Any, workload: speed.Workload) -> Measured:
    raw_network = system.build_raw_network(model)
    inputs = workloads.inference_inputs(workload)
    functions = {
        "network": lambda: raw_network(inputs, training=False),
        **system.network_parts(model, inputs),
    }
    functions = {name: tf.function(f, autograph=False) for name, f in functions.items()}
    seconds = {name: speed.seconds_of(function) for name, function in functions.items()}
    seconds["network_expert"] = seconds["network"]
    memory = {"network": measuring.megabytes_of(functions["network"])}
    return seconds, system.count_network(model, inputs, functions["network"]), memory


def _measure_training(
    system: Any, task: Any, params: Any, model: Any, workload: speed.Workload
) -> Measured:
    images = workload["train_image"]
    samples = workloads.draw_samples(images, task.dataset_info)
    generator = task.build_target_generator()
    targets = tf.function(lambda: [generator(sample) for sample in samples], autograph=False)

    features = {"image": tf.constant(images), **speed.select_tensors(workload, "features/")}
    info = workloads.image_info(images.shape[1:3])
    features["image_info"] = tf.constant(np.stack([info] * len(images)))
    labels = speed.select_tensors(workload, "labels/")
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    optimization.create_variables(optimizer, model.trainable_variables)
    step = tf.function(
        lambda: task.train_step((features, labels), model, optimizer), autograph=False
    )
    counts = system.count_training(lambda: model.training_network(features, training=True))
    seconds = {"training_step": speed.seconds_of(step), "targets": speed.seconds_of(targets)}
    return seconds, counts, {"training_step": measuring.megabytes_of(step)}


if __name__ == "__main__":
    app.run(main)
