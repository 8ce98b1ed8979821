"""What `panoptic-tf init` asks of a system: which of its values follow from a data set.

A system that it offers has a module `recipe` in its folder, whose `RECIPE` is a `SystemRecipe`.
"""

from __future__ import annotations

import math
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

import numpy as np

Value = Tuple[str, Any, str]
"""A key of the configuration, its value, and why it is that."""

_MOST_ROWS = 200


class Frame(NamedTuple):
    """A data set as the network sees it: in the frame that its images are fitted into.

    Attributes:
      size: (height, width) of the network's input.
      thing_areas, stuff_areas: float64 [T], [S], pixels of the frame.
      most_things: things of the image that has most.
      most_segments: things and segments of stuff of the image that has most.
      has_things: whether a category is a thing.
      has_instances: whether records bring instances that may overlap.
    """

    size: Tuple[int, int]
    thing_areas: np.ndarray
    stuff_areas: np.ndarray
    most_things: int
    most_segments: int
    has_things: bool
    has_instances: bool

    def thing_side(self, percentile: float) -> float:
        """Square root of the area that so many percent of the things are below; 64 without any."""
        areas = self.thing_areas
        return float(np.sqrt(np.percentile(areas, percentile))) if areas.size else 64.0


class SystemRecipe(NamedTuple):
    """How a system is trained on data of one's own.

    Attributes:
      experiments: what the names of its experiments `<experiments>_shapes` and
        `<experiments>_small` begin with.
      choose: what it says in pixels or in numbers of things and segments.
      shapes_rate, small_rate: learning rates at 16 images a step, of these experiments.
      bytes_per_pixel: of the input, that a training step of either needs in float32. By default
        for networks that keep 620 to 1,060 for the gradient (tests/accelerator/budget.py, 128x128
        and 512x512); the rest is workspace.
    """

    experiments: str
    choose: Callable[[Frame], List[Value]]
    shapes_rate: float = 2e-3
    small_rate: float = 1e-3
    bytes_per_pixel: int = 2_500


def rows_for(count: int, *, least: int = 16) -> int:
    """Rows of a table for images of so many things or segments: half as many more, at most 200.

    Args:
      count: of the image that has most.
      least: a multiple of 8, as the number is.
    """
    return min(_MOST_ROWS, max(least, 8 * math.ceil(1.5 * count / 8)))


def stuff_area(frame: Frame) -> Value:
    """From which area on a region of stuff stays."""
    area = max(16, min(4096, int(0.004 * frame.size[0] * frame.size[1])))
    if frame.stuff_areas.size:
        area = max(1, min(area, int(np.percentile(frame.stuff_areas, 5) / 2)))
    why = "smaller regions of stuff are dropped; 95 % of the true ones are twice as large"
    return "task.model.postprocessor.stuff_area", area, why


def with_instances(frame: Frame, splits: Sequence[str]) -> List[Value]:
    """That these splits use overlapping instances, where there are any."""
    if not frame.has_instances:
        return []
    why = "the annotations hold occluded things completely"
    return [(f"task.{split}.with_instances", True, why) for split in splits]


def without_things(frame: Frame, switch: str) -> List[Value]:
    """That nothing looks for instances, where no category is a thing; `switch` turns that off."""
    if frame.has_things:
        return []
    why = "no category is a thing"
    return [(switch, False, why), ("task.evaluation.report_mask_ap", False, why)]
