"""What the speed of Panoptic-DeepLab is measured on: weights, images, ground truth, drawn outputs.

The network runs on weights as they are initialised, batch norm having the statistics of the image,
which it learns in the training step. Random weights find no centers, so what the post-processing
gets is drawn: things around their centers, offsets that miss these by a few pixels, over blocks of
stuff. Any implementation that is given these does the same work.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence, Tuple

import numpy as np
import speed
import tensorflow as tf
import workloads
from official.core import exp_factory, task_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.structures import Prediction, Tensors
from panoptic_tf.systems.model import PanopticModel
from panoptic_tf.systems.panoptic_deeplab import network as deeplab_network

EXPERIMENT = "panoptic_deeplab_resnet52_coco"
REFERENCE = "detectron2_panoptic_deeplab.py"
VISIBLE_CLASSES = 10
"""Of stuff in the drawn outputs."""
OFFSET_ERROR = 3.0
"""Standard deviation in pixels of where drawn offsets point to."""

_BLOCKS = 4
_STRIDE = 4
_ENCODER_STRIDE = 16
_SIGMA = 8.0

count_network = workloads.count_nothing


def get_params(experiment: str, size: Sequence[int]) -> Any:
    """The experiment at one image size; a step does all its work and leaves the weights alone.

    Batch norm takes the moments of its replica, the image pooling of ASPP the whole map, and
    nothing is dropped, so that the losses of both sides can be compared.
    """
    params = exp_factory.get_exp_config(experiment)
    workloads.set_size(params, size)
    model = params.task.model
    model.norm = model.backbone.norm = "batch"
    if model.aspp_pool_size:
        model.aspp_pool_size = [length // _ENCODER_STRIDE for length in size]
    model.aspp_dropout = 0.0
    params.trainer.optimizer_config.learning_rate.get().initial_learning_rate = 1e-12
    return params


def build_network(experiment: str, size: Sequence[int]) -> Dict[str, np.ndarray]:
    """The workload of the network and of the training step.

    Returns:
      `image` float32 [1, H, W, 3] for inference; what `workloads.draw_training` returns;
      `weights/<name>` for each variable.
    """
    task, model = workloads.build_model(get_params(experiment, size))
    image = workloads.draw_images(1, size, seed=0)
    for layer in model.training_network.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            # Without memory it takes the statistics of the one image that it sees.
            layer.momentum = 0.0
    info = tf.constant(workloads.image_info(size)[np.newaxis])
    model({"image": tf.constant(image), "image_info": info}, training=True)
    return {"image": image, **workloads.draw_training(task, size), **workloads.keep_weights(model)}


def build_postprocess(experiment: str, size: Sequence[int], centers: int) -> Dict[str, np.ndarray]:
    """The workload of the post-processing.

    Returns:
      `raw/...`, see `draw_outputs`; `size` of the image, `thing_ids` and the arguments
      `center_threshold`, `nms_kernel`, `top_k` and `stuff_area` of the post-processing.
    """
    params = get_params(experiment, size)
    info = task_factory.get_task(params.task).dataset_info
    raw = draw_outputs(info, size, centers, seed=2)
    settings = params.task.model.postprocessor.as_dict()
    # At most top_k - 1 remain.
    settings["top_k"] = max(settings["top_k"], centers + 1)
    return {
        **{f"raw/{key}": value for key, value in raw.items()},
        "size": np.array(size),
        "thing_ids": np.array(info.thing_ids),
        **{key: np.array(value) for key, value in settings.items()},
    }


def draw_outputs(
    dataset_info: Any, size: Sequence[int], centers: int, *, seed: int
) -> Dict[str, np.ndarray]:
    """Outputs of the heads for one image with things in a jittered grid over blocks of stuff.

    Args:
      dataset_info: of the categories.
      size: (height, width) of the image.
      centers: how many things.
      seed: of everything that is drawn.

    Returns:
      `semantic_logits`, `center_heatmap`, `offsets` float32 [1, H / 4, W / 4, C].
    """
    generator = np.random.RandomState(seed)
    shape = [length // _STRIDE for length in size]
    y, x = (np.mgrid[: shape[0], : shape[1]] + 0.5) * _STRIDE - 0.5  # pixels of the image
    rows = max(round(np.sqrt(centers * size[0] / size[1])), 1)
    columns = -(-centers // rows)
    cell = np.array([size[0] / rows, size[1] / columns])
    stuff = generator.choice(dataset_info.stuff_ids, VISIBLE_CLASSES, replace=False)
    blocks = generator.choice(stuff, [_BLOCKS, _BLOCKS])
    category = np.kron(blocks, np.ones([length // _BLOCKS for length in shape])).astype(int)
    heatmap = np.zeros(shape)
    offsets = generator.normal(0.0, 20.0, [*shape, 2])
    for k in range(centers):
        jitter = generator.uniform(0.4, 0.6, 2)
        center = np.round((np.array([k // columns, k % columns]) + jitter) * cell / _STRIDE)
        center = (center + 0.5) * _STRIDE - 0.5
        radii = generator.uniform(0.3, 0.6, 2) * cell
        square = (y - center[0]) ** 2 + (x - center[1]) ** 2
        inside = ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 <= 1.0
        category[inside] = generator.choice(dataset_info.thing_ids)
        pointing = np.stack([center[0] - y, center[1] - x], axis=-1)
        offsets[inside] = pointing[inside] + generator.normal(0.0, OFFSET_ERROR, [inside.sum(), 2])
        peak = generator.uniform(0.5, 1.0)
        heatmap = np.maximum(heatmap, peak * np.exp(-square / (2.0 * _SIGMA**2)))
    heatmap += generator.normal(0.0, 0.003, shape)
    logits = generator.normal(0.0, 1.5, [*shape, dataset_info.num_categories])
    logits += 9.0 * (category[..., np.newaxis] == np.arange(1, dataset_info.num_categories + 1))
    outputs = {"semantic_logits": logits, "center_heatmap": heatmap[..., None], "offsets": offsets}
    return {key: value[np.newaxis].astype(np.float32) for key, value in outputs.items()}


def build_raw_network(model: PanopticModel) -> tf.keras.Model:
    """The network up to the three heads."""
    network = model.inference_network
    return tf.keras.Model(network.input, network.get_layer("postprocessor").input)


def network_parts(model: PanopticModel, inputs: Tensors) -> Dict[str, Callable[[], Any]]:
    """No part is measured alone."""
    del model, inputs
    return {}


def count_training(find_outputs: Callable[[], Tensors]) -> Dict[str, Any]:
    """Nothing: the work does not depend on the answers."""
    del find_outputs
    return {}


def prepare_postprocess(
    params: Any, workload: Dict[str, np.ndarray]
) -> Tuple[Callable[[], Tensors], Callable[[Tensors], Dict[str, Any]]]:
    """From drawn outputs to a prediction; and what there is in it, as marks."""
    params.task.model.postprocessor.top_k = int(workload["top_k"])
    info = task_factory.get_task(params.task).dataset_info
    layer = deeplab_network.build_postprocessor(params.task.model, info)
    raw = speed.select_tensors(workload, "raw/")
    image_info = tf.constant(workloads.image_info(workload["size"])[np.newaxis])

    def count(prediction: Tensors) -> Dict[str, Any]:
        is_thing = prediction[Prediction.SEGMENT_INSTANCE] > 0
        return {
            "thing_segments": is_thing,
            "stuff_segments": (prediction[Prediction.SEGMENT_CATEGORY] > 0) & ~is_thing,
            "void_pixels": prediction[Prediction.CATEGORY_MASK] == 0,
        }

    return tf.function(lambda: layer(raw, image_info), autograph=False), count
