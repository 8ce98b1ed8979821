"""A training for a data set: sizes, schedule and thresholds from what was measured of it.

A pure function. Published configurations are for two sizes of data set and of image; what they say
in pixels is taken relative to the things here, what they say in steps relative to the images here.
Every value comes with its reason, which `train.yaml` shows beside it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

if TYPE_CHECKING:  # Both import TensorFlow, which `init --help` need not wait for.
    from panoptic_tf.datasets.measures import Measures
    from panoptic_tf.training.machine import Machine

MAX_SIDE = 512
"""Default of the longer side that images are fitted into."""

LEAST_MAX_SIDE = 64
"""Below it the coarse levels of a network have no cells."""

_MIN_SIDE = 128
_SMALL_IMAGES = 160
"""Longer side up to which the network of the shapes experiments is large enough."""

_BYTES_PER_PIXEL = 2_500
"""Of a training step in float32. The networks below keep 620 to 1,060 bytes a pixel for the
gradient (tests/accelerator/budget.py, 128x128 and 512x512); the rest is workspace."""
_MEMORY_SHARE = {True: 0.7, False: 0.4}
"""Of a GPU; of a machine, which has other things to do."""
_CACHED_BYTES_PER_PIXEL = 7
"""A decoded image (3), its map of segments (4)."""
_CACHE_SHARE = 0.25

_MAX_BATCH = 16
_BASE_BATCH = 16
_RATES = {"shapes": 3e-3, "small": 1e-3}
"""Of AdamW at `_BASE_BATCH` images."""
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


class _Frame(NamedTuple):
    """The network's input, and the sizes of what the images show in it.

    Attributes:
      size: (height, width).
      thing_areas, stuff_areas: float64 [T], [S], pixels of the frame.
      most_things: things of the image that has most.
    """

    size: Tuple[int, int]
    thing_areas: np.ndarray
    stuff_areas: np.ndarray
    most_things: int


SYSTEMS = ("panoptic_deeplab", "panoptic_fpn", "panoptic_fcn")


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
    frame = _fit(measures, max_side)
    is_small = max(frame.size) <= _SMALL_IMAGES and not has_backbone
    network = "shapes" if is_small else "small"
    batch = _batch_size(measures, machine, frame.size)
    choices = [
        *_sizes(measures, frame),
        *_OF_SYSTEM[system](frame),
        *_data(measures, machine, batch, flip_vertically),
        *_schedule(measures.num_images, batch, _RATES[network]),
        *_runtime(machine),
    ]
    if measures.has_instances and system != "panoptic_deeplab":
        why = "the annotations have things whole where others hide them"
        for split in ("train_data", "validation_data"):
            choices.append(Choice(f"task.{split}.with_instances", True, why))
    if not measures.num_things and system != "panoptic_fcn":
        why = "no category is a thing: only the semantic half"
        choices.append(Choice("task.model.has_instance_branch", False, why))
        choices.append(Choice("task.evaluation.report_mask_ap", False, why))
    return Recipe(f"{system}_{network}", choices)


def _fit(measures: Measures, max_side: int) -> _Frame:
    """The input that fits all but the largest images, its sides multiples of 32."""
    sides = np.percentile(measures.sizes, 95, axis=0)
    longest = min(max(sides.max(), _MIN_SIDE), max_side // 32 * 32)
    height, width = (
        32 * max(2, math.ceil(side * longest / sides.max() / 32 - 1e-6)) for side in sides
    )
    scales = np.minimum(height / measures.sizes[:, 0], width / measures.sizes[:, 1])
    return _Frame(
        (height, width),
        measures.thing_areas * scales[measures.thing_images] ** 2,
        measures.stuff_areas * scales[measures.stuff_images] ** 2,
        measures.most_things,
    )


def _sizes(measures: Measures, frame: _Frame) -> List[Choice]:
    height, width = np.percentile(measures.sizes, 95, axis=0)
    size = list(frame.size)
    why = f"95 % of the images have at most {height:.0f} x {width:.0f} pixels (height x width)"
    area = max(16, min(4096, int(0.004 * size[0] * size[1])))
    if frame.stuff_areas.size:
        area = max(1, min(area, int(np.percentile(frame.stuff_areas, 5) / 2)))
    return [
        Choice("task.model.train_size", size, why),
        Choice("task.model.input_size", size, "the same"),
        Choice(
            "task.model.postprocessor.stuff_area",
            area,
            "smaller regions of stuff are dropped; 95 % of the true ones are twice as large",
        ),
    ]


# What each system says in pixels or in numbers of things


def _side(frame: _Frame, percentile: float) -> float:
    """Square root of the area of a thing that so many percent of them are below."""
    areas = frame.thing_areas
    return float(np.sqrt(np.percentile(areas, percentile))) if areas.size else 64.0


def _num_things(frame: _Frame) -> Tuple[int, str]:
    count = min(200, max(16, 8 * math.ceil(1.5 * frame.most_things / 8)))
    return count, f"no image has more than {frame.most_things} things"


def _panoptic_deeplab(frame: _Frame) -> List[Choice]:
    side, (count, why) = _side(frame, 50), _num_things(frame)
    seen = f"half of the things are below {side:.0f} x {side:.0f} pixels"
    return [
        Choice("task.model.postprocessor.top_k", count, why),
        Choice("task.targets.sigma", round(min(8.0, max(3.0, side / 5))), seen),
        Choice("task.targets.small_instance_area", round(min(4096.0, max(64.0, side**2))), seen),
    ]


def _panoptic_fpn(frame: _Frame) -> List[Choice]:
    side, (count, why) = _side(frame, 10), _num_things(frame)
    # Anchors of level 2 are 4 times the scale wide; those of the levels above twice as much each.
    scale = 2.0 ** min(3, max(1, round(math.log2(side / 4))))
    seen = f"all but 10 % of the things are above {side:.0f} x {side:.0f} pixels"
    return [
        Choice("task.model.rpn.anchor_scale", scale, seen),
        Choice("task.targets.max_instances", count, why),
        Choice("task.model.postprocessor.max_detections", count, why),
    ]


def _panoptic_fcn(frame: _Frame) -> List[Choice]:
    side, (count, why) = _side(frame, 25), _num_things(frame)
    seen = f"a quarter of the things is below {side:.0f} x {side:.0f} pixels"
    min_level = 2 if side < 32 else 3
    levels = range(min_level, 8)
    # As published, in strides: 1 to 64 pixels at stride 8, 32 to 128 at 16, and so on.
    low = [1] + [2 ** (level + 1) for level in levels[1:]]
    high = [2 ** (level + 3) for level in levels[:-1]] + [2048]
    return [
        Choice("task.model.min_level", min_level, seen),
        Choice("task.targets.min_scales", low, "one for each level"),
        Choice("task.targets.max_scales", high, "they overlap, as published"),
        Choice("task.model.selector.smoothing_sizes", [3] * len(low), "one for each level"),
        Choice("task.model.selector.top_k", count, why),
        Choice("task.targets.max_instances", count, why),
        Choice("task.model.postprocessor.max_instances", count, why),
    ]


_OF_SYSTEM: Dict[str, Callable[[_Frame], List[Choice]]] = {
    "panoptic_deeplab": _panoptic_deeplab,
    "panoptic_fpn": _panoptic_fpn,
    "panoptic_fcn": _panoptic_fcn,
}


# What the number of images and the machine decide


def _batch_size(measures: Measures, machine: Machine, size: Tuple[int, int]) -> int:
    """A power of two for each device that fits its memory, and not more than there are images."""
    usable = _MEMORY_SHARE[machine.num_gpus > 0] * machine.memory_bytes
    fits = usable / (_BYTES_PER_PIXEL * size[0] * size[1])
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
            "scale 1 fits the image in; copy_paste lays things of other images over this one",
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


def _schedule(num_images: int, batch: int, rate: float) -> List[Choice]:
    seen = min(max(_PASSES * num_images, _MIN_SEEN), _MAX_SEEN)
    loop = 50
    steps = loop * math.ceil(seen / batch / loop)
    passes = steps * batch / num_images
    between = max(loop, steps // 5 // loop * loop)
    rate = float(f"{rate * batch / _BASE_BATCH:.2g}")
    optimizer = "trainer.optimizer_config"
    return [
        Choice("trainer.train_steps", steps, f"{passes:.0f} passes over {num_images} images"),
        Choice(f"{optimizer}.learning_rate.cosine.decay_steps", steps, "that is to the end"),
        Choice(
            f"{optimizer}.learning_rate.cosine.initial_learning_rate",
            rate,
            f"by the linear rule for {batch} images a step (arXiv:1706.02677)",
        ),
        Choice(
            f"{optimizer}.optimizer.adamw.weight_decay_rate",
            0.05,
            "against learning few images by heart",
        ),
        Choice(f"{optimizer}.warmup.linear.warmup_steps", min(500, steps // 20), "a twentieth"),
        Choice(
            f"{optimizer}.ema.average_decay",
            round(min(0.9998, 1 - 12 / steps), 5),
            "weights are averaged over about a twelfth of the steps",
        ),
        Choice("trainer.steps_per_loop", loop, "between two looks at the loss"),
        Choice("trainer.summary_interval", loop, "the same"),
        Choice(
            "trainer.checkpoint_interval", min(between, 500), "steps that a crash costs at most"
        ),
        Choice("trainer.validation_interval", between, "five evaluations on the way"),
    ]


def _runtime(machine: Machine) -> List[Choice]:
    dtype = "bfloat16" if machine.has_bfloat16 else "float32"
    what = "multiplies bfloat16 faster" if machine.has_bfloat16 else "has no fast bfloat16"
    where = machine.description.split(",")[0]
    choices = [Choice("runtime.mixed_precision_dtype", dtype, f"{where} {what}")]
    strategy = "mirrored" if machine.num_gpus > 1 else "one_device"
    return [*choices, Choice("runtime.distribution_strategy", strategy, where)]
