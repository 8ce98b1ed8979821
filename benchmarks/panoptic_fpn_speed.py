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

from typing import Any, Dict, List, Tuple

import numpy as np
import panoptic_fpn_workload
import speed
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


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    speed.run(
        argv,
        title=f"{_EXPERIMENT.value}, {_SIZE.value}x{_SIZE.value}",
        build=lambda: panoptic_fpn_workload.build(_EXPERIMENT.value, _SIZE.value),
        measure=measure,
        rows=_ROWS,
    )


def measure(workload: speed.Workload) -> Dict[str, Any]:
    """Ours, in this process.

    Args:
      workload: see `panoptic_fpn_workload.build`.

    Returns:
      `seconds` and `counts`, as a reference command prints them.
    """
    params = panoptic_fpn_workload.get_params(_EXPERIMENT.value, _SIZE.value)
    task = task_factory.get_task(params.task)
    model = task.build_model()
    panoptic_fpn_workload.load_weights(model, workload)
    seconds, counts = _measure_inference(model, workload)
    more_seconds, more_counts = _measure_training(task, params, model, workload)
    return {"seconds": {**seconds, **more_seconds}, "counts": {**counts, **more_counts}}


def _measure_inference(model: Any, workload: speed.Workload) -> Measured:
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
    seconds = {"network": speed.cpu_seconds(detect), "post": speed.cpu_seconds(merge)}
    return seconds, {name: int(np.sum(flags)) for name, flags in counts.items()}


def _measure_training(task: Any, params: Any, model: Any, workload: speed.Workload) -> Measured:
    images = workload["train_image"]
    samples = panoptic_fpn_workload.draw_samples(images, task.dataset_info)
    generator = task.build_target_generator()
    targets = tf.function(lambda: [generator(sample) for sample in samples], autograph=False)

    features = {"image": tf.constant(images), **speed.select_tensors(workload, "features/")}
    labels = speed.select_tensors(workload, "labels/")
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
    return {"training_step": speed.cpu_seconds(step), "targets": speed.cpu_seconds(targets)}, counts


if __name__ == "__main__":
    app.run(main)
