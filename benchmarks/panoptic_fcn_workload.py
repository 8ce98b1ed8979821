"""What the speed of Panoptic FCN is measured on: weights, images, ground truth, drawn outputs.

The network and the training step run on weights as they are initialised, but for two things that
their speed depends on: frozen batch norm has the statistics of the image, and the offsets of the
deformable convolutions vary by `OFFSET_STD` cells. Random weights find no objects, so what the
post-processing gets is drawn: `OBJECTS`, most of them found on two levels with one kernel, over
stuff. Any implementation that is given these does the same work.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import speed
import tensorflow as tf
import workloads
from official.core import exp_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.postprocess import kernel_fusion
from panoptic_tf.structures import Prediction, Tensors
from panoptic_tf.systems.model import PanopticModel

EXPERIMENT = "panoptic_fcn_resnet50_coco"
REFERENCE = "panoptic_fcn_authors.py"
OFFSET_STD = 1.0
OBJECTS = (
    (20, ("3",), (16, 32)),
    (30, ("3", "4"), (32, 64)),
    (20, ("4", "5"), (48, 96)),
    (20, ("5", "6"), (64, 128)),
    (10, ("6", "7"), (128, 256)),
)
"""How many, the levels that find them, the range of their sides in an image of 512 pixels."""
VISIBLE_CLASSES = 10

_LEVELS = ("3", "4", "5", "6", "7")
_REGIONS = 4
_NODES = 24  # rows, and columns, that the shape of an object is given on; linear between
_SHAPE = 2 * _NODES + 1
_DRAWN_SIZE = 512
_DEEP = 8.0  # outside an object, the part of each axis to the mask logit is -8
_QUIET, _LOUD = -6.0, 4.0  # logits of what is not there and of what is

count_network = workloads.count_nothing


def get_params(experiment: str, size: Sequence[int]) -> Any:
    """The experiment at one image size; a step does all its work and leaves the weights alone."""
    params = exp_factory.get_exp_config(experiment)
    workloads.set_size(params, size)
    params.trainer.optimizer_config.learning_rate.get().initial_learning_rate = 1e-12
    return params


def build_network(experiment: str, size: Sequence[int]) -> Dict[str, np.ndarray]:
    """The workload of the network and of the training step.

    Returns:
      `image` float32 [1, H, W, 3] for inference; what `workloads.draw_training` returns;
      `thing_ids`, `stuff_ids` of the categories; `weights/<name>` for each variable.
    """
    task, model, image = _build_calibrated(experiment, size)
    return {
        "image": image,
        **workloads.draw_training(task, size),
        **workloads.keep_weights(model),
        "thing_ids": np.array(task.dataset_info.thing_ids),
        "stuff_ids": np.array(task.dataset_info.stuff_ids),
    }


def build_postprocess(experiment: str, size: Sequence[int], centers: int) -> Dict[str, np.ndarray]:
    """The workload of the post-processing.

    Returns:
      `raw/<output>/<level>` and `raw/encoded`, see `draw_outputs`; `image` and `weights/<name>` as
      of `build_network`; the embeddings are among them.

    Raises:
      ValueError: the size is not square.
    """
    del centers
    if size[0] != size[1]:
        raise ValueError(f"--size must be square for drawn outputs of Panoptic FCN, got {size}.")
    _, model, image = _build_calibrated(experiment, size)
    raw = draw_outputs(model, size[0], seed=2)
    return {
        "image": image,
        **{f"raw/{key}": value for key, value in raw.items()},
        **workloads.keep_weights(model),
    }


def build_raw_network(model: PanopticModel) -> tf.keras.Model:
    """The network up to the logits and kernels of all levels and the encoded feature."""
    network = model.inference_network
    encoded = network.get_layer("postprocessor").input["encoded"]
    raw = {**network.get_layer("kernel_selector").input, "encoded": encoded}
    return tf.keras.Model(network.input, raw)


def network_parts(model: PanopticModel, inputs: Tensors) -> Dict[str, Callable[[], Any]]:
    """The position head, which takes the deformable convolutions' time."""
    pyramid = model.parts["fpn"](model.parts["backbone"](inputs["image"]))
    levels = {level: pyramid[level] for level in _LEVELS}
    head = model.parts["position_head"]
    return {"position_head": lambda: head(levels, training=False)}


def count_training(find_outputs: Callable[[], Tensors]) -> Dict[str, Any]:
    """What a training step has of one kind, as marks."""
    outputs = find_outputs()
    return {"pairs": outputs["sampled_valid"], "stuff_pairs": outputs["sampled_stuff_valid"]}


def prepare_postprocess(
    params: Any, workload: Dict[str, np.ndarray]
) -> Tuple[Callable[[], Tensors], Callable[[Tensors], Dict[str, Any]]]:
    """From drawn outputs to a prediction; and what there is in it, as marks."""
    _, model = workloads.build_model(params)
    workloads.load_weights(model, workload)
    config, layer = params.task.model.postprocessor, model.inference_network.get_layer
    raw = _nest(speed.select_tensors(workload, "raw/"))
    encoded = raw.pop("encoded")
    image_info = tf.constant(workloads.image_info(params.task.model.input_size)[np.newaxis])

    def select() -> Tensors:
        found = layer("kernel_selector")(raw, image_info)
        for name in ("thing", "stuff"):
            found[f"{name}_kernels"] = layer(f"{name}_embedding")(found[f"{name}_kernels"])
        return found

    def count(prediction: Tensors) -> Dict[str, Any]:
        found = select()
        things = [found[f"thing_{name}"] for name in ("kernels", "scores", "classes", "valid")]
        fused = kernel_fusion.fuse_kernels(
            *things,
            similarity_threshold=config.similarity_threshold,
            class_aware=config.class_aware,
        )
        is_thing = prediction[Prediction.SEGMENT_INSTANCE] > 0
        scores = prediction[Prediction.DETECTION_SCORES]
        return {
            "centers": found["thing_valid"],
            "kernels_after_fusion": fused[-1],
            "stuff_kernels": found["stuff_valid"],
            "detections": scores >= config.min_score,
            "detections_in_merge": scores >= config.score_threshold,
            "thing_segments": is_thing,
            "stuff_segments": (prediction[Prediction.SEGMENT_CATEGORY] > 0) & ~is_thing,
        }

    process = tf.function(
        lambda: layer("postprocessor")({**select(), "encoded": encoded}, image_info),
        autograph=False,
    )
    return process, count


def draw_outputs(model: PanopticModel, size: int, *, seed: int) -> Dict[str, np.ndarray]:
    """Outputs of the heads for one image with `OBJECTS` and `VISIBLE_CLASSES` classes of stuff.

    The encoded feature holds where a cell lies between `_NODES` rows and between as many columns, a
    constant, and a channel for each class of stuff; a kernel is a mask's profile along both axes.
    Where an object is found does not depend on where it is.

    Args:
      model: its embeddings map the kernels.
      size: S, the side of the image.
      seed: of everything that is drawn.

    Returns:
      `center_logits/<level>`, `stuff_logits/<level>`, `kernels/<level>` float32 [1, h, w, C] and
      `encoded` float32 [1, S / 4, S / 4, C].
    """
    generator = np.random.RandomState(seed)
    # [D, 2 * C]: kernels that both embeddings answer as wished
    embeddings = [model.parts[f"{name}_embedding"].kernel for name in ("thing", "stuff")]
    inverse = np.linalg.pinv(np.concatenate(embeddings, axis=1))  # [2 * C, D]
    channels = embeddings[0].shape[1]
    classes = {
        name: model.parts["position_head"].predictors[name].bias.shape[0]
        for name in ("centers", "stuff")
    }
    region_classes = generator.permutation(_REGIONS**2).reshape([_REGIONS, _REGIONS])
    region_classes %= VISIBLE_CLASSES
    objects = _draw_objects(generator, channels, classes["centers"])

    outputs = {"encoded": _encode(region_classes, size // 4, channels)}
    for level in _LEVELS:
        cells = -(-size // 2 ** int(level))
        stuff = _classify_cells(region_classes, cells)  # [h, w]
        centers = np.full([cells, cells, classes["centers"]], _QUIET)
        wished = np.zeros([cells, cells, 2 * channels])
        # The kernel of a class is its cells' sum divided by all cells.
        first = channels + _SHAPE
        wished[..., first : first + VISIBLE_CLASSES] = _REGIONS**2 * np.eye(VISIBLE_CLASSES)[stuff]
        places = generator.permutation(cells * cells)
        for place, (category, score, kernel) in zip(places, objects[level]):
            centers.reshape([-1, classes["centers"]])[place, category] = score
            wished.reshape([-1, 2 * channels])[place, :channels] = kernel
        outputs[f"center_logits/{level}"] = centers
        outputs[f"stuff_logits/{level}"] = np.where(
            np.eye(classes["stuff"])[stuff] > 0, _LOUD, _QUIET
        )
        outputs[f"kernels/{level}"] = wished @ inverse
    return {key: value[np.newaxis].astype(np.float32) for key, value in outputs.items()}


def _draw_objects(
    generator: np.random.RandomState, channels: int, num_classes: int
) -> Dict[str, List[Tuple[int, float, np.ndarray]]]:
    """Class, center logit and embedded kernel [C] of the objects that each level finds."""
    found: Dict[str, List] = {level: [] for level in _LEVELS}
    drawn = [(levels, sides) for count, levels, sides in OBJECTS for _ in range(count)]
    for i, (levels, sides) in enumerate(drawn):
        radii = generator.uniform(*sides, 2) / 2 / _DRAWN_SIZE * (_NODES - 1)
        centers = generator.randint(0, _NODES, 2)
        kernel = np.zeros(channels)
        # 4 * (1 - (y' - y)^2 / ry^2 - (x' - x)^2 / rx^2), each of both squares bounded
        distances = (np.arange(_NODES) - centers[:, np.newaxis]) / radii[:, np.newaxis]  # [2, N]
        kernel[: 2 * _NODES] = np.ravel(np.maximum(_DEEP + 2.0 - 4.0 * distances**2, 0.0))
        kernel[2 * _NODES] = -2.0
        for level in levels:
            found[level].append((i % num_classes, generator.uniform(1.0, _LOUD), kernel))
    return found


def _encode(region_classes: np.ndarray, cells: int, channels: int) -> np.ndarray:
    """Encoded feature [cells, cells, C]; see `draw_outputs`."""
    places = np.linspace(0, _NODES - 1, cells)[:, np.newaxis]
    shares = np.maximum(1.0 - np.abs(places - np.arange(_NODES)), 0.0)  # [cells, N]
    encoded = np.zeros([cells, cells, channels])
    encoded[..., :_NODES] = shares[:, np.newaxis]
    encoded[..., _NODES : 2 * _NODES] = shares
    encoded[..., 2 * _NODES] = _DEEP
    is_class = np.eye(VISIBLE_CLASSES)[_classify_cells(region_classes, cells)]
    encoded[..., _SHAPE : _SHAPE + VISIBLE_CLASSES] = _LOUD * (2.0 * is_class - 1.0)
    return encoded


def _classify_cells(region_classes: np.ndarray, cells: int) -> np.ndarray:
    """The class of the region that each of cells x cells lies in."""
    regions = np.arange(cells) * _REGIONS // cells
    return region_classes[regions[:, np.newaxis], regions]


def _nest(tensors: Tensors) -> Dict[str, Any]:
    """`a/b` becomes [a][b]."""
    nested: Dict[str, Any] = {}
    for name, tensor in tensors.items():
        key, _, level = name.partition("/")
        if level:
            nested.setdefault(key, {})[level] = tensor
        else:
            nested[key] = tensor
    return nested


def _build_calibrated(
    experiment: str, size: Sequence[int]
) -> Tuple[Any, PanopticModel, np.ndarray]:
    """The task, the model and the image that it is calibrated on."""
    params = get_params(experiment, size)
    # Batch norm without memory takes the statistics of the one image that it sees.
    params.task.model.backbone.override({"norm": "batch", "norm_momentum": 0.0, "frozen_stages": 0})
    task, model = workloads.build_model(params)
    image = workloads.draw_images(1, size, seed=0)
    _calibrate(model, tf.constant(image))
    return task, model, image


def _calibrate(model: PanopticModel, image: tf.Tensor) -> None:
    """Sets the statistics of batch norm and the kernels that answer offsets; see the module."""
    parts = model.parts
    levels = parts["fpn"](parts["backbone"](image, training=True))
    features = {level: levels[level] for level in _LEVELS}
    generator = np.random.RandomState(3)
    for conv in parts["position_head"].stack.convs:
        offset = conv.conv.offset
        offset.kernel.assign(generator.normal(size=offset.kernel.shape))
        std = np.std(np.concatenate([np.ravel(offset(x)) for x in features.values()]))
        offset.kernel.assign(offset.kernel * (OFFSET_STD / std))
        features = {level: conv(x) for level, x in features.items()}
