"""A training for a data set: sizes, schedule and thresholds from what was measured of it.

A pure function. Published configurations are for two sizes of data set and of image; what they say
in pixels is taken relative to the things here, what they say in steps relative to the images here.
Every value comes with its reason, which `train.yaml` shows beside it. What is of one system alone,
its folder says: see `systems.recipe`.
"""

from __future__ import annotations

import importlib
import math
import pathlib
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple

import numpy as np

if TYPE_CHECKING:  # They import TensorFlow, which `init --help` need not wait for.
    from panoptic_tf.datasets.measures import Measures
    from panoptic_tf.systems.recipe import Frame, SystemRecipe
    from panoptic_tf.training.machine import Machine

MAX_SIDE = 512
"""Default of the longer side that images are fitted into."""

LEAST_MAX_SIDE = 64
"""Below it the coarse levels of a network have no cells."""

_MIN_SIDE = 128
_SMALL_IMAGES = 160
"""Longer side up to which the network of the shapes experiments is large enough."""

_MEMORY_SHARE = {True: 0.7, False: 0.4}
"""Of a GPU; of a machine, which has other things to do."""
_CACHED_BYTES_PER_PIXEL = 7
"""A decoded image (3), its map of segments (4)."""
_CACHE_SHARE = 0.25

_MAX_BATCH = 16
_BASE_BATCH = 16
_PASSES = 100
_MIN_SEEN, _MAX_SEEN = 32_000, 400_000
"""Images seen in a whole training, augmented each time."""


class Choice(NamedTuple):
    """One value of a configuration, and why."""

    key: str
    value: Any
    why: str


class Recipe(NamedTuple):
    """An experiment and what is different from it."""

    experiment: str
    choices: List[Choice]


_DEFAULT = "panoptic_deeplab"
_FOLDERS = sorted(
    path.parent.name for path in (pathlib.Path(__file__).parents[1] / "systems").glob("*/recipe.py")
)
SYSTEMS = (_DEFAULT, *(name for name in _FOLDERS if name != _DEFAULT))
"""Folders of systems that have a recipe, the default first; found without importing TensorFlow."""


def check_options(system: str, max_side: int) -> None:
    """Checks arguments of `make_recipe`.

    Raises:
      ValueError: an unknown system, or `max_side` is too small.
    """
    if system not in SYSTEMS:
        raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, got {system!r}.")
    if max_side < LEAST_MAX_SIDE:
        raise ValueError(f"max_side must be at least {LEAST_MAX_SIDE} pixels, got {max_side}.")


def make_recipe(
    measures: Measures,
    machine: Machine,
    system: str,
    *,
    max_side: int = MAX_SIDE,
    has_backbone: bool = False,
    flip_vertically: bool = False,
) -> Recipe:
    """Chooses an experiment and what is to be different from it.

    Args:
      measures: of the training images.
      machine: that trains.
      system: one of `SYSTEMS`.
      max_side: longer side of the network's input, at most; at least `LEAST_MAX_SIDE`.
      has_backbone: training starts from the weights of a ResNet-18.
      flip_vertically: whether images have no up and down.

    Raises:
      ValueError: see `check_options`.
    """
    check_options(system, max_side)
    own: SystemRecipe = importlib.import_module(f"panoptic_tf.systems.{system}.recipe").RECIPE
    frame = _fit(measures, max_side)
    is_small = max(frame.size) <= _SMALL_IMAGES and not has_backbone
    network, rate = ("shapes", own.shapes_rate) if is_small else ("small", own.small_rate)
    experiment = f"{own.experiments}_{network}"
    batch = _batch_size(measures, machine, own.bytes_per_pixel * frame.size[0] * frame.size[1])
    choices = [
        *_sizes(measures, frame),
        *(Choice(*value) for value in own.choose(frame)),
        *_data(measures, machine, batch, flip_vertically),
        *_schedule(measures.num_images, batch, rate, _optimizer_of(experiment)),
        *_runtime(machine),
    ]
    return Recipe(experiment, choices)


def _fit(measures: Measures, max_side: int) -> Frame:
    """The input that fits all but the largest images, its sides multiples of 32."""
    from panoptic_tf.systems import recipe

    sides = np.percentile(measures.sizes, 95, axis=0)
    longest = min(max(sides.max(), _MIN_SIDE), max_side // 32 * 32)
    height, width = (
        32 * max(2, math.ceil(side * longest / sides.max() / 32 - 1e-6)) for side in sides
    )
    scales = np.minimum(height / measures.sizes[:, 0], width / measures.sizes[:, 1])
    segments = np.concatenate([measures.thing_images, measures.stuff_images])
    return recipe.Frame(
        size=(height, width),
        thing_areas=measures.thing_areas * scales[measures.thing_images] ** 2,
        stuff_areas=measures.stuff_areas * scales[measures.stuff_images] ** 2,
        most_things=measures.most_things,
        most_segments=int(np.bincount(segments, minlength=1).max()),
        has_things=measures.num_things > 0,
        has_instances=measures.has_instances,
    )


def _sizes(measures: Measures, frame: Frame) -> List[Choice]:
    height, width = np.percentile(measures.sizes, 95, axis=0)
    why = f"95 % of the images have at most {height:.0f} x {width:.0f} pixels (height x width)"
    return [
        Choice("task.model.train_size", list(frame.size), why),
        Choice("task.model.input_size", list(frame.size), "the same"),
    ]


# What the number of images and the machine decide


def _batch_size(measures: Measures, machine: Machine, bytes_per_image: int) -> int:
    """A power of two for each device that fits its memory, and not more than there are images."""
    usable = _MEMORY_SHARE[machine.num_gpus > 0] * machine.memory_bytes
    fits = usable / bytes_per_image
    devices = max(1, machine.num_gpus)
    most = max(1.0, min(fits, _MAX_BATCH, measures.num_images / devices))
    return devices * 2 ** int(math.log2(most))


def _data(measures: Measures, machine: Machine, batch: int, flip_vertically: bool) -> List[Choice]:
    cached = _CACHED_BYTES_PER_PIXEL * int(measures.sizes.prod(axis=1).sum())
    fits = cached < _CACHE_SHARE * machine.host_memory_bytes
    verb = "fit" if fits else "do not fit"
    devices = max(1, machine.num_gpus)
    evaluated = devices * max(1, min(batch, 8) // devices)  # As many on each device.
    return [
        Choice("task.train_data.global_batch_size", batch, f"fits {machine.description}"),
        Choice("task.validation_data.global_batch_size", evaluated, "at a time"),
        Choice(
            "task.train_data.cache",
            fits,
            f"{measures.num_images} decoded images, {cached / 2**20:.0f} MiB, {verb} into memory",
        ),
        Choice(
            "task.train_data.shuffle_buffer_size",
            min(measures.num_images, 1000),
            f"of {measures.num_images} images",
        ),
        Choice(
            "task.train_data.augmentation",
            _augmentation(flip_vertically, has_things=measures.num_things > 0),
            "scale 1 fits the image in; copy_paste pastes things of other images into it",
        ),
    ]


def _augmentation(flip_vertically: bool, *, has_things: bool) -> Dict[str, Any]:
    augmentation: Dict[str, Any] = {
        "scale_min": 0.6,
        "scale_max": 1.6,
        "flip_vertically": flip_vertically,
        "brightness": 0.2,
        "contrast": 0.3,
        "saturation": 0.3,
        "hue": 0.1,
    }
    if has_things:  # arXiv:2012.07177 finds that it gains most where images are few.
        augmentation["copy_paste"] = {"probability": 0.5, "max_instances": 8}
    return augmentation


def _optimizer_of(experiment: str) -> str:
    from official.core import exp_factory

    return exp_factory.get_exp_config(experiment).trainer.optimizer_config.optimizer.type


def _schedule(num_images: int, batch: int, rate: float, optimizer: str) -> List[Choice]:
    seen = min(max(_PASSES * num_images, _MIN_SEEN), _MAX_SEEN)
    loop = 50
    steps = loop * math.ceil(seen / batch / loop)
    passes = steps * batch / num_images
    between = max(loop, steps // 5 // loop * loop)
    rate = float(f"{rate * batch / _BASE_BATCH:.2g}")
    config = "trainer.optimizer_config"
    return [
        Choice("trainer.train_steps", steps, f"{passes:.0f} passes over {num_images} images"),
        Choice(f"{config}.learning_rate.cosine.decay_steps", steps, "until the last step"),
        Choice(
            f"{config}.learning_rate.cosine.initial_learning_rate",
            rate,
            f"by the linear rule for {batch} images a step (arXiv:1706.02677)",
        ),
        Choice(
            f"{config}.optimizer.{optimizer}.weight_decay_rate",
            0.05,
            "against overfitting to few images",
        ),
        Choice(f"{config}.warmup.linear.warmup_steps", min(500, steps // 20), "a twentieth"),
        Choice(
            f"{config}.ema.average_decay",
            round(min(0.9998, 1 - 12 / steps), 5),
            "weights are averaged over about a twelfth of the steps",
        ),
        Choice("trainer.steps_per_loop", loop, "steps between two reports of the loss"),
        Choice("trainer.summary_interval", loop, "the same"),
        Choice("trainer.checkpoint_interval", min(between, 500), "most steps that a crash loses"),
        Choice("trainer.validation_interval", between, "five evaluations during training"),
    ]


def _runtime(machine: Machine) -> List[Choice]:
    what = "multiplies bfloat16 faster" if machine.has_bfloat16 else "has no fast bfloat16"
    where = machine.description.split(",")[0]
    choices = [Choice("runtime.mixed_precision_dtype", machine.precision, f"{where} {what}")]
    strategy = "mirrored" if machine.num_gpus > 1 else "one_device"
    return [*choices, Choice("runtime.distribution_strategy", strategy, where)]
