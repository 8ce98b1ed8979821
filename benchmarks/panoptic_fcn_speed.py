"""CPU-seconds of Panoptic FCN: network, post-processing, training step; beside a reference.

python benchmarks/panoptic_fcn_speed.py
python benchmarks/panoptic_fcn_speed.py --rounds=3 \\
    --reference_command='other_venv/bin/python measure.py --workload={workload} --threads={threads}'

Both sides get the same weights, images, ground truth and outputs of the heads
(`panoptic_fcn_workload`) and run in turn, in processes of their own. A reference command prints
JSON that ends its output:
`{"seconds": {"network": ..., "position_head": ..., "post": ..., "training_step": ...},
"counts": {...}}`.

network: one normalised image to the logits and kernels of all levels and the encoded feature.
position_head: the part of it that its deformable convolutions take. post: from drawn logits,
kernels and encoded feature to the panoptic prediction at the image's size, detections included.
training_step: two images, forward, losses, backward, update of SGD. targets: what our input
pipeline computes for these two images and others compute inside the step.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import panoptic_fcn_workload
import panoptic_fpn_workload
import speed
import tensorflow as tf
from absl import app, flags
from official.core import task_factory

from panoptic_tf.postprocess import kernel_fusion
from panoptic_tf.structures import Prediction

Measured = Tuple[Dict[str, float], Dict[str, int]]
_ROWS = {
    "network": ("network",),
    "position_head": ("position_head",),
    "post": ("post",),
    "network + post": ("network", "post"),
    "training_step": ("training_step",),
    "targets": ("targets",),
    "training_step + targets": ("training_step", "targets"),
}

_EXPERIMENT = flags.DEFINE_string("experiment", "panoptic_fcn_resnet50_coco", "Its network.")
_SIZE = flags.DEFINE_integer("size", 512, "Side of the images.")


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    speed.run(
        argv,
        title=f"{_EXPERIMENT.value}, {_SIZE.value}x{_SIZE.value}",
        build=lambda: panoptic_fcn_workload.build(_EXPERIMENT.value, _SIZE.value),
        measure=measure,
        rows=_ROWS,
    )


def measure(workload: speed.Workload) -> Dict[str, Any]:
    """Ours, in this process.

    Args:
      workload: see `panoptic_fcn_workload.build`.

    Returns:
      `seconds` and `counts`, as a reference command prints them.
    """
    params = panoptic_fcn_workload.get_params(_EXPERIMENT.value, _SIZE.value)
    task = task_factory.get_task(params.task)
    model = task.build_model()
    panoptic_fpn_workload.load_weights(model, workload)
    found = [
        _measure_network(model, workload),
        _measure_post(params.task.model.postprocessor, model, workload),
        _measure_training(task, params, model, workload),
    ]
    return {
        "seconds": {name: value for seconds, _ in found for name, value in seconds.items()},
        "counts": {name: value for _, counts in found for name, value in counts.items()},
    }


def _measure_network(model: Any, workload: speed.Workload) -> Measured:
    network = model.inference_network
    raw = {
        **network.get_layer("kernel_selector").input,
        "encoded": network.get_layer("postprocessor").input["encoded"],
    }
    raw_network = tf.keras.Model(network.input, raw)
    inputs = {"image": tf.constant(workload["image"]), "image_info": _image_info(workload)}
    answer = tf.function(lambda: raw_network(inputs, training=False), autograph=False)

    pyramid = model.parts["fpn"](model.parts["backbone"](inputs["image"]))
    levels = {level: pyramid[level] for level in raw["kernels"]}
    head = model.parts["position_head"]
    locate = tf.function(lambda: head(levels, training=False), autograph=False)
    seconds = {
        "network": speed.cpu_seconds(answer),
        "position_head": speed.cpu_seconds(locate),
    }
    return seconds, {}


def _measure_post(config: Any, model: Any, workload: speed.Workload) -> Measured:
    layer = model.inference_network.get_layer
    raw = _nest(speed.select_tensors(workload, "raw/"))
    encoded = raw.pop("encoded")
    image_info = _image_info(workload)

    def select() -> Dict[str, tf.Tensor]:
        found = layer("kernel_selector")(raw, image_info)
        for name in ("thing", "stuff"):
            found[f"{name}_kernels"] = layer(f"{name}_embedding")(found[f"{name}_kernels"])
        return found

    process = tf.function(
        lambda: layer("postprocessor")({**select(), "encoded": encoded}, image_info),
        autograph=False,
    )
    found, prediction = select(), process()
    things = [found[f"thing_{name}"] for name in ("kernels", "scores", "classes", "valid")]
    fused = kernel_fusion.fuse_kernels(
        *things,
        similarity_threshold=config.similarity_threshold,
        class_aware=config.class_aware,
    )
    is_thing = prediction[Prediction.SEGMENT_INSTANCE] > 0
    scores = prediction[Prediction.DETECTION_SCORES]
    counts = {
        "centers": found["thing_valid"],
        "kernels_after_fusion": fused[-1],
        "stuff_kernels": found["stuff_valid"],
        "detections": scores >= config.min_score,
        "detections_in_merge": scores >= config.score_threshold,
        "thing_segments": is_thing,
        "stuff_segments": (prediction[Prediction.SEGMENT_CATEGORY] > 0) & ~is_thing,
    }
    seconds = {"post": speed.cpu_seconds(process)}
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
        "pairs": int(np.sum(outputs["sampled_valid"])),
        "stuff_pairs": int(np.sum(outputs["sampled_stuff_valid"])),
    }
    del outputs
    return {"training_step": speed.cpu_seconds(step), "targets": speed.cpu_seconds(targets)}, counts


def _image_info(workload: speed.Workload) -> tf.Tensor:
    return tf.constant(workload["features/image_info"][:1])


def _nest(tensors: Dict[str, tf.Tensor]) -> Dict[str, Any]:
    """`a/b` becomes [a][b]."""
    nested: Dict[str, Any] = {}
    for name, tensor in tensors.items():
        key, _, level = name.partition("/")
        if level:
            nested.setdefault(key, {})[level] = tensor
        else:
            nested[key] = tensor
    return nested


if __name__ == "__main__":
    app.run(main)
