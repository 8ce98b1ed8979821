"""What the speed of Panoptic FPN is measured on: weights, images and ground truth, in one file.

Random weights give no proposals and no detections, and speed depends on both. Here frozen batch
norm has the statistics of the image, and the layers that answer are scaled so that their answers
vary as those of a trained network do: proposals near their anchors, detections of all categories
with scores near 1, whole masks, a map of `VISIBLE_CLASSES` semantic classes. Nothing else is
touched, so any implementation that is given these weights does the same work.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
import tensorflow as tf
from official.core import exp_factory, task_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.structures import PanopticSample
from panoptic_tf.systems.model import PanopticModel
from panoptic_tf.systems.panoptic_fpn.instance_branch import build_anchors

INSTANCES = 8
POSITIVES = 64
MATCHING_IOU = 0.2
"""IoU from which a proposal is positive: low, so that there are more than `POSITIVES` of them."""
FOREGROUND = 0.4
"""Share of the proposals that some thing category beats the background on."""
VISIBLE_CLASSES = 10

_GRID = 4
_CELLS = (4, 8, 16, 32, 64)
# Of the pyramid's levels; alike, they would leave few proposals but the finest level's.
_LEVEL_STDS = (0.6, 0.8, 1.0, 1.2)


def get_params(experiment: str, size: int) -> Any:
    """The experiment at one image size, with `POSITIVES` positives of its sampled proposals."""
    params = exp_factory.get_exp_config(experiment)
    model, trainer = params.task.model, params.trainer
    model.train_size = model.input_size = model.output_size = [size, size]
    model.roi.sampler.positive_fraction = POSITIVES / model.roi.sampler.count
    model.roi.sampler.iou_threshold = MATCHING_IOU
    # The same work at every step, and the network stays what it was.
    rates = trainer.optimizer_config.learning_rate.get()
    rates.values = [1e-12] * len(rates.values)
    return params


def draw_images(count: int, size: int, *, seed: int) -> np.ndarray:
    """Normalised images: blocks of colour of several sizes, and noise; float32 [count, S, S, 3]."""
    generator = np.random.RandomState(seed)
    image = generator.normal(0, 10, [count, size, size, 3])
    for cells in _CELLS:
        colours = generator.normal(0, 25, [count, cells, cells, 3])
        image += np.kron(colours, np.ones([1, size // cells, size // cells, 1]))
    return image.astype(np.float32)


def draw_samples(images: np.ndarray, dataset_info: Any) -> List[PanopticSample]:
    """The images with ground truth."""
    return [_draw_sample(image, dataset_info, seed=2 + i) for i, image in enumerate(images)]


def make_batch(task: Any, samples: List[PanopticSample]) -> Tuple[Dict, Dict]:
    """(features, labels) of already normalised samples, as the training pipeline makes them."""
    generator = task.build_target_generator()
    elements = []
    for sample in samples:
        features, labels = generator(sample)
        elements.append(
            ({"image": sample.image, "image_info": sample.image_info, **features}, labels)
        )
    return tf.nest.map_structure(lambda *values: tf.stack(values), *elements)


def build(experiment: str, size: int) -> Dict[str, np.ndarray]:
    """The workload.

    Returns:
      `image` float32 [1, S, S, 3] for inference; `train_image` [2, S, S, 3], and for training
      `features/...` and `labels/...` of `PanopticFPNTargetGenerator`, the instances being ellipses
      that fill their `gt_boxes`; `weights/<name>` for each variable; `positive_fraction` and
      `matching_iou` of the sampler.
    """
    tf.keras.utils.set_random_seed(0)
    params = get_params(experiment, size)
    # Batch norm without memory takes the statistics of the one image that it sees.
    params.task.model.backbone.override({"norm": "batch", "norm_momentum": 0.0, "frozen_stages": 0})
    task = task_factory.get_task(params.task)
    model = task.build_model()
    image = draw_images(1, size, seed=0)
    _calibrate(model, params.task.model, tf.constant(image))

    images = draw_images(2, size, seed=1)
    features, labels = make_batch(task, draw_samples(images, task.dataset_info))
    features.pop("image")
    return {
        "image": image,
        "train_image": images,
        **{f"features/{key}": value.numpy() for key, value in features.items()},
        **{f"labels/{key}": value.numpy() for key, value in labels.items()},
        **{f"weights/{w.name}": w.numpy() for w in model.training_network.weights},
        "positive_fraction": np.array(params.task.model.roi.sampler.positive_fraction),
        "matching_iou": np.array(MATCHING_IOU),
    }


def load_weights(model: PanopticModel, workload: Dict[str, np.ndarray]) -> None:
    """Sets every variable of a model."""
    for variable in model.training_network.weights:
        variable.assign(workload[f"weights/{variable.name}"])


def _draw_sample(image: np.ndarray, dataset_info: Any, *, seed: int) -> PanopticSample:
    """Ground truth: `INSTANCES` ellipses, each in a cell of its own, stuff, void on top.

    An ellipse fills its box, whose sides are between half of its cell's and all of it.
    """
    generator = np.random.RandomState(seed)
    size = len(image)
    cell = size // _GRID
    y, x = np.mgrid[:size, :size] + 0.5
    stuff = generator.choice(dataset_info.stuff_ids, [_GRID, _GRID])
    categories = np.kron(stuff, np.ones([cell, cell])).astype(np.int32)
    categories[: size // 32] = 0
    instances = np.zeros([size, size], np.int32)
    for i, k in enumerate(generator.permutation(_GRID * _GRID)[:INSTANCES]):
        height, width = generator.randint(cell // 2, cell, 2)
        top = k // _GRID * cell + generator.randint(cell - height + 1)
        left = k % _GRID * cell + generator.randint(cell - width + 1)
        distance = (2 * (y - top) / height - 1) ** 2 + (2 * (x - left) / width - 1) ** 2
        instances[distance <= 1] = i + 1
        categories[distance <= 1] = generator.choice(dataset_info.thing_ids)
    info = np.array([[size, size], [size, size], [1, 1], [0, 0]], np.float32)
    return PanopticSample(
        image=tf.constant(image),
        image_info=tf.constant(info),
        category_mask=tf.constant(categories),
        instance_mask=tf.constant(instances),
        crowd_mask=tf.zeros([size, size], tf.bool),
        image_id=tf.constant(str(seed)),
    )


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
