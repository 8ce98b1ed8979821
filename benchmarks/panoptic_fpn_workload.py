"""What the speed of Panoptic FPN is measured on: weights, images and ground truth, in one file.

Random weights give no proposals and no detections, and speed depends on both. Here frozen batch
norm has the statistics of the image, and the layers that answer are scaled so that their answers
vary as those of a trained network do: proposals near their anchors, detections of all categories
with scores near 1, whole masks, a map of `VISIBLE_CLASSES` semantic classes. Nothing else is
touched, so any implementation that is given these weights does the same work.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

import numpy as np
import tensorflow as tf
import workloads
from official.core import exp_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.structures import Prediction, Tensors
from panoptic_tf.systems.model import PanopticModel
from panoptic_tf.systems.panoptic_fpn.instance_branch import build_anchors

EXPERIMENT = "panoptic_fpn_resnet50_coco"
REFERENCE = "detectron2_panoptic_fpn.py"
POSITIVES = 64
MATCHING_IOU = 0.2
"""IoU from which a proposal is positive: low, so that there are more than `POSITIVES` of them."""
FOREGROUND = 0.4
"""Share of the proposals that some thing category beats the background on."""
VISIBLE_CLASSES = 10

# Of the pyramid's levels; alike, they would leave few proposals but the finest level's.
_LEVEL_STDS = (0.6, 0.8, 1.0, 1.2)


def get_params(experiment: str, size: Sequence[int]) -> Any:
    """The experiment at one image size, with `POSITIVES` positives of its sampled proposals."""
    params = exp_factory.get_exp_config(experiment)
    workloads.set_size(params, size)
    sampler = params.task.model.roi.sampler
    sampler.positive_fraction = POSITIVES / sampler.count
    sampler.iou_threshold = MATCHING_IOU
    # The same work at every step, and the network stays what it was.
    rates = params.trainer.optimizer_config.learning_rate.get()
    rates.values = [1e-12] * len(rates.values)
    return params


def build_network(experiment: str, size: Sequence[int]) -> Dict[str, np.ndarray]:
    """The workload of the network and of the training step.

    Returns:
      `image` float32 [1, H, W, 3] for inference; what `workloads.draw_training` returns, the
      instances being ellipses that fill their `features/gt_boxes`; `weights/<name>` for each
      variable; `positive_fraction` and `matching_iou` of the sampler.
    """
    params = get_params(experiment, size)
    # Batch norm without memory takes the statistics of the one image that it sees.
    params.task.model.backbone.override({"norm": "batch", "norm_momentum": 0.0, "frozen_stages": 0})
    task, model = workloads.build_model(params)
    image = workloads.draw_images(1, size, seed=0)
    _calibrate(model, params.task.model, tf.constant(image))
    return {
        "image": image,
        **workloads.draw_training(task, size),
        **workloads.keep_weights(model),
        "positive_fraction": np.array(params.task.model.roi.sampler.positive_fraction),
        "matching_iou": np.array(MATCHING_IOU),
    }


def build_postprocess(experiment: str, size: Sequence[int], centers: int) -> Dict[str, np.ndarray]:
    """The same: the post-processing gets what each side's network says of the image."""
    del centers
    return build_network(experiment, size)


def build_raw_network(model: PanopticModel) -> tf.keras.Model:
    """The network, NMS of the detections included, without post-processing."""
    network = model.inference_network
    return tf.keras.Model(network.input, network.get_layer("postprocessor").input)


def network_parts(model: PanopticModel, inputs: Tensors) -> Dict[str, Callable[[], Any]]:
    """No part is measured alone."""
    del model, inputs
    return {}


def count_network(
    model: PanopticModel, inputs: Tensors, find_raw: Callable[[], Tensors]
) -> Dict[str, Any]:
    """What there is of one kind, as marks."""
    network = model.inference_network
    proposals = tf.keras.Model(network.input, network.get_layer("proposals").output)(inputs)
    return {"proposals": proposals.valid, "detections": find_raw()["valid"]}


def count_training(find_outputs: Callable[[], Tensors]) -> Dict[str, Any]:
    """The same of a training step."""
    outputs = find_outputs()
    return {"sampled": outputs["sampled_weights"], "positives": outputs["sampled_is_positive"]}


def prepare_postprocess(
    params: Any, workload: Dict[str, np.ndarray]
) -> Tuple[Callable[[], Tensors], Callable[[Tensors], Dict[str, Any]]]:
    """From what the network found to a prediction; and what there is in it, as marks."""
    _, model = workloads.build_model(params)
    workloads.load_weights(model, workload)
    inputs = workloads.inference_inputs(workload)
    raw = build_raw_network(model)(inputs, training=False)
    postprocessor = model.inference_network.get_layer("postprocessor")

    def count(prediction: Tensors) -> Dict[str, Any]:
        is_thing = prediction[Prediction.SEGMENT_INSTANCE] > 0
        return {
            "detections": raw["valid"],
            "detections_in_merge": raw["scores"] >= 0.5,
            "thing_segments": is_thing,
            "stuff_segments": (prediction[Prediction.SEGMENT_CATEGORY] > 0) & ~is_thing,
        }

    return tf.function(lambda: postprocessor(raw, inputs["image_info"]), autograph=False), count


def _calibrate(model: PanopticModel, config: Any, image: tf.Tensor) -> None:
    """Sets the statistics of batch norm and scales the answers; see the module."""
    parts, layer = model.parts, model.inference_network.get_layer
    stages = parts["backbone"](image, training=True)
    pyramid = parts["fpn"](stages)
    for i, std in enumerate(_LEVEL_STDS):
        _scale(parts["fpn"].outputs[i].conv, std / np.std(pyramid[str(i + 2)]))
    features = parts["fpn"](stages)

    logits, deltas = parts["rpn"](features)
    _scale(parts["rpn"].objectness.conv, 1.0 / _std_of_levels(logits))
    _scale(parts["rpn"].deltas.conv, 0.1 / _std_of_levels(deltas))
    size = image.shape[1:3]
    anchors = build_anchors(config, size)
    proposals = layer("proposals")(*parts["rpn"](features), anchors, tf.constant([size]))
    _calibrate_box(parts["box"], layer("box_roi_align")(features, proposals.boxes))
    _calibrate_mask(parts["mask"], layer("mask_roi_align")(features, proposals.boxes[:, :100]))
    _calibrate_semantic(parts["semantic"], features)


def _calibrate_box(head: tf.keras.layers.Layer, pooled: tf.Tensor) -> None:
    x = tf.reshape(pooled, [-1, int(np.prod(pooled.shape[2:]))])  # [R, S * S * C]
    for hidden in head.hidden:
        x = hidden(x)
    _standardize(head.deltas.kernel, head.deltas.bias, x, std=0.5)
    _standardize(head.classes.kernel, head.classes.bias, x, std=6.0)
    logits = head.classes(x).numpy()
    margins = logits[:, :-1].max(axis=1) - logits[:, -1]
    background = np.eye(logits.shape[1])[-1] * np.quantile(margins, 1.0 - FOREGROUND)
    head.classes.bias.assign_add(background.astype(np.float32))


def _calibrate_mask(head: tf.keras.layers.Layer, pooled: tf.Tensor) -> None:
    x = tf.reshape(pooled, [-1, *pooled.shape[2:]])  # [K, S, S, C]
    for conv in head.convs:
        x = conv(x)
    x = head.deconv(x)
    _standardize(head.predictor.kernel, head.predictor.bias, x, std=3.0)
    head.predictor.bias.assign_add(tf.ones_like(head.predictor.bias))  # more inside than outside


def _calibrate_semantic(branch: tf.keras.layers.Layer, features: Mapping[str, tf.Tensor]) -> None:
    conv = branch.predictor.conv
    conv.bias.assign_sub(tf.reduce_mean(branch(features), [0, 1, 2]))
    _scale(conv, 3.0 / np.std(branch(features)))
    is_hidden = tf.range(conv.bias.shape[0]) >= VISIBLE_CLASSES
    conv.bias.assign_sub(tf.where(is_hidden, 50.0, 0.0))


def _standardize(kernel: tf.Variable, bias: tf.Variable, x: tf.Tensor, *, std: float) -> None:
    """Answers x [..., C] with mean 0 per output and standard deviation `std` over all."""
    x = tf.reshape(x, [-1, x.shape[-1]])
    mean = tf.reduce_mean(x, axis=0, keepdims=True)  # [1, C]
    matrix = tf.reshape(kernel, [x.shape[-1], -1])  # [C, outputs]
    matrix *= std / tf.math.reduce_std(tf.matmul(x - mean, matrix))
    kernel.assign(tf.reshape(matrix, kernel.shape))
    bias.assign(-tf.matmul(mean, matrix)[0])


def _scale(layer: tf.keras.layers.Layer, factor: float) -> None:
    layer.kernel.assign(layer.kernel * factor)
    layer.bias.assign(layer.bias * factor)


def _std_of_levels(values: Mapping[str, tf.Tensor]) -> float:
    return float(np.std(np.concatenate([np.ravel(x) for x in values.values()])))
