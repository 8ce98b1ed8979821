"""What the speed of Panoptic FCN is measured on: weights, images, ground truth, drawn outputs.

The network and the training step run on weights as they are initialised, but for two things that
their speed depends on: frozen batch norm has the statistics of the image, and the offsets of the
deformable convolutions vary by `OFFSET_STD` cells. Random weights find no objects, so what the
post-processing gets is drawn: `OBJECTS`, most of them found on two levels with one kernel, over
stuff. Any implementation that is given these does the same work.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import panoptic_fpn_workload as shared
import tensorflow as tf
from official.core import exp_factory, task_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.systems.model import PanopticModel

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

_REGIONS = 4
_NODES = 24  # rows, and columns, that the shape of an object is given on; linear between
_SHAPE = 2 * _NODES + 1
_DRAWN_SIZE = 512
_DEEP = 8.0  # outside an object, the part of each axis to the mask logit is -8
_QUIET, _LOUD = -6.0, 4.0  # logits of what is not there and of what is


def get_params(experiment: str, size: int) -> Any:
    """The experiment at one image size; a step does all its work and leaves the weights alone."""
    params = exp_factory.get_exp_config(experiment)
    model = params.task.model
    model.train_size = model.input_size = model.output_size = [size, size]
    params.trainer.optimizer_config.learning_rate.get().initial_learning_rate = 1e-12
    return params


def build(experiment: str, size: int) -> Dict[str, np.ndarray]:
    """The workload.

    Returns:
      `image` float32 [1, S, S, 3] for inference; `raw/<output>/<level>` and `raw/encoded`, what the
      post-processing gets; `train_image` [2, S, S, 3], their ground truth as
      `truth/category_mask` and `truth/instance_mask` int32 [2, S, S] and, computed from it,
      `features/...` and `labels/...` of `PanopticFCNTargetGenerator`; `thing_ids`, `stuff_ids` of
      the categories; `weights/<name>` for each variable.
    """
    tf.keras.utils.set_random_seed(0)
    params = get_params(experiment, size)
    # Batch norm without memory takes the statistics of the one image that it sees.
    params.task.model.backbone.override({"norm": "batch", "norm_momentum": 0.0, "frozen_stages": 0})
    task = task_factory.get_task(params.task)
    model = task.build_model()
    image = shared.draw_images(1, size, seed=0)
    _calibrate(model, tf.constant(image))
    weights = {w.name: w.numpy() for w in model.training_network.weights}

    images = shared.draw_images(2, size, seed=1)
    samples = shared.draw_samples(images, task.dataset_info)
    features, labels = shared.make_batch(task, samples)
    features.pop("image")
    return {
        "image": image,
        "train_image": images,
        **{f"raw/{key}": value for key, value in draw_outputs(model, size, seed=2).items()},
        "truth/category_mask": np.stack([sample.category_mask for sample in samples]),
        "truth/instance_mask": np.stack([sample.instance_mask for sample in samples]),
        **{f"features/{key}": value.numpy() for key, value in features.items()},
        **{f"labels/{key}": value.numpy() for key, value in labels.items()},
        **{f"weights/{name}": value for name, value in weights.items()},
        "thing_ids": np.array(task.dataset_info.thing_ids),
        "stuff_ids": np.array(task.dataset_info.stuff_ids),
    }


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
    for level in ("3", "4", "5", "6", "7"):
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
    found: Dict[str, List] = {level: [] for level in ("3", "4", "5", "6", "7")}
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


def _calibrate(model: PanopticModel, image: tf.Tensor) -> None:
    """Sets the statistics of batch norm and the kernels that answer offsets; see the module."""
    parts = model.parts
    levels = parts["fpn"](parts["backbone"](image, training=True))
    features = {level: levels[level] for level in ("3", "4", "5", "6", "7")}
    generator = np.random.RandomState(3)
    for conv in parts["position_head"].stack.convs:
        offset = conv.conv.offset
        offset.kernel.assign(generator.normal(size=offset.kernel.shape))
        std = np.std(np.concatenate([np.ravel(offset(x)) for x in features.values()]))
        offset.kernel.assign(offset.kernel * (OFFSET_STD / std))
        features = {level: conv(x) for level, x in features.items()}
