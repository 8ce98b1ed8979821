"""What the workloads of the speed benchmarks share: images, ground truth, weights.

A workload is a file of arrays that both sides get. Normalised images are blocks of colour and
noise; their ground truth is `INSTANCES` ellipses over blocks of stuff, some rows void.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import tensorflow as tf
from official.core import task_factory

from panoptic_tf.ops import forms
from panoptic_tf.structures import PanopticSample
from panoptic_tf.systems.model import PanopticModel

INSTANCES = 8

_GRID = 4
_CELLS = (4, 8, 16, 32, 64)


def set_size(params: Any, size: Sequence[int]) -> None:
    """Makes an experiment train, infer and answer at one (height, width)."""
    model = params.task.model
    model.train_size = model.input_size = model.output_size = list(size)


def build_model(params: Any) -> Tuple[Any, PanopticModel]:
    """The task and the model of an experiment, always with the same random weights."""
    tf.keras.utils.set_random_seed(0)
    task = task_factory.get_task(params.task)
    task.form = forms.current()
    return task, task.build_model()


def draw_images(count: int, size: Sequence[int], *, seed: int) -> np.ndarray:
    """Normalised images: blocks of colour of several sizes, and noise; float32 [count, H, W, 3]."""
    height, width = size
    generator = np.random.RandomState(seed)
    image = generator.normal(0, 10, [count, height, width, 3])
    for cells in _CELLS:
        colours = generator.normal(0, 25, [count, cells, cells, 3])
        rows, columns = (np.arange(length) * cells // length for length in size)
        image += colours[:, rows[:, np.newaxis], columns]
    return image.astype(np.float32)


def image_info(size: Sequence[int]) -> np.ndarray:
    """Of an image that fills the network's frame: float32 [4, 2]."""
    return np.array([size, size, [1, 1], [0, 0]], np.float32)


def inference_inputs(workload: Dict[str, np.ndarray]) -> Dict[str, tf.Tensor]:
    """What the inference network takes."""
    image = workload["image"]
    info = image_info(image.shape[1:3])[np.newaxis]
    return {"image": tf.constant(image), "image_info": tf.constant(info)}


def draw_samples(images: np.ndarray, dataset_info: Any) -> List[PanopticSample]:
    """The images with ground truth."""
    return [_draw_sample(image, dataset_info, seed=2 + i) for i, image in enumerate(images)]


def draw_training(task: Any, size: Sequence[int]) -> Dict[str, np.ndarray]:
    """The arrays of a training step of two images.

    Returns:
      `train_image` float32 [2, H, W, 3], their ground truth as `truth/category_mask` and
      `truth/instance_mask` int32 [2, H, W] and, computed from it, `features/...` and `labels/...`
      of the system's target generator.
    """
    images = draw_images(2, size, seed=1)
    samples = draw_samples(images, task.dataset_info)
    features, labels = _make_batch(task, samples)
    features.pop("image")
    return {
        "train_image": images,
        "truth/category_mask": np.stack([sample.category_mask for sample in samples]),
        "truth/instance_mask": np.stack([sample.instance_mask for sample in samples]),
        **{f"features/{key}": value.numpy() for key, value in features.items()},
        **{f"labels/{key}": value.numpy() for key, value in labels.items()},
    }


def count_nothing(
    model: PanopticModel, inputs: Dict[str, tf.Tensor], find_raw: Callable[[], Any]
) -> Dict[str, Any]:
    """The `count_network` of a system whose work does not depend on what the network returns."""
    del model, inputs, find_raw
    return {}


def keep_weights(model: PanopticModel) -> Dict[str, np.ndarray]:
    """`weights/<name>` of every variable."""
    return {f"weights/{w.name}": w.numpy() for w in model.training_network.weights}


def load_weights(model: PanopticModel, workload: Dict[str, np.ndarray]) -> None:
    """Sets every variable of a model."""
    for variable in model.training_network.weights:
        variable.assign(workload[f"weights/{variable.name}"])


def _make_batch(task: Any, samples: List[PanopticSample]) -> Tuple[Dict, Dict]:
    """(features, labels) of already normalised samples, as the training pipeline makes them."""
    generator = task.build_target_generator()
    elements = []
    for sample in samples:
        features, labels = generator(sample)
        elements.append(
            ({"image": sample.image, "image_info": sample.image_info, **features}, labels)
        )
    return tf.nest.map_structure(lambda *values: tf.stack(values), *elements)


def _draw_sample(image: np.ndarray, dataset_info: Any, *, seed: int) -> PanopticSample:
    """Ground truth: `INSTANCES` ellipses, each in a cell of its own, stuff, void on top.

    An ellipse fills its box, whose sides are between half of its cell's and all of it.
    """
    generator = np.random.RandomState(seed)
    size = image.shape[:2]
    cell = [length // _GRID for length in size]
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    stuff = generator.choice(dataset_info.stuff_ids, [_GRID, _GRID])
    categories = np.kron(stuff, np.ones(cell)).astype(np.int32)
    categories[: size[0] // 32] = 0
    instances = np.zeros(size, np.int32)
    for i, k in enumerate(generator.permutation(_GRID * _GRID)[:INSTANCES]):
        height, width = (generator.randint(length // 2, length) for length in cell)
        top = k // _GRID * cell[0] + generator.randint(cell[0] - height + 1)
        left = k % _GRID * cell[1] + generator.randint(cell[1] - width + 1)
        distance = (2 * (y - top) / height - 1) ** 2 + (2 * (x - left) / width - 1) ** 2
        instances[distance <= 1] = i + 1
        categories[distance <= 1] = generator.choice(dataset_info.thing_ids)
    return PanopticSample(
        image=tf.constant(image),
        image_info=tf.constant(image_info(size)),
        category_mask=tf.constant(categories),
        instance_mask=tf.constant(instances),
        crowd_mask=tf.zeros(size, tf.bool),
        image_id=tf.constant(str(seed)),
    )
