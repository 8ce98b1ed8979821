"""Class weights of the semantic losses: given, or by how many pixels each category has.

Median frequency balancing (arXiv:1411.4734): w_c = median(f) / f_c, here to a power p and clipped:

  w_c = min(max((median(f) / f_c)^p, smallest), largest).

f_c are the pixels of what a channel of the logits stands for, the median is that over the channels
that have any; the others weigh 1. Departure: there, f_c is the share of c in the images that have
it, here in all of them, which is what `doctor` counts. Pixels of crowds are among them, whether or
not a system's semantic loss reads those (Panoptic-DeepLab's does not by default).
"""

from __future__ import annotations

import itertools
import numbers
from typing import Any, List, Optional, Sequence

import numpy as np

from panoptic_tf.datasets import files
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.inputs.category_counts import CategoryCounts
from panoptic_tf.systems import config as base_config

_RULES = ("none", "list", "frequency")
_NAME = "task.losses.class_weights"
_EXPECTED = "a report of `doctor --output_json`"


class ClassWeights:
    """The weights of a task; those of the rule `frequency` are known once counts are learned."""

    def __init__(self, config: base_config.ClassWeights, info: DatasetInfo):
        """See the class.

        Args:
          config: see there.
          info: the categories of the model.

        Raises:
          ValueError: an unknown rule, a number out of its range, or not one value for each
            category.
        """
        _check(config, info)
        self._config = config
        self._info = info
        self._pixels: Optional[np.ndarray] = None

    @property
    def wants_counts(self) -> bool:
        """Whether `learn` needs the counts of the training records."""
        return self._config.rule == "frequency" and not self._config.statistics

    def learn(self, counts: Optional[CategoryCounts]) -> None:
        """Takes the pixels of the rule `frequency` from a file or from counts.

        Args:
          counts: of the training records; not needed unless `wants_counts`.

        Raises:
          ValueError: see `check_statistics`.
        """
        if self._config.rule != "frequency":
            return
        if self._config.statistics:
            self._pixels = _read_pixels(self._config.statistics, self._info)
        elif counts is not None:
            self._pixels = counts.pixels

    def check_statistics(self) -> None:
        """Looks at the file that the config names.

        Raises:
          ValueError: it is no report of `doctor`, or one about other categories.
        """
        if self._config.rule == "frequency" and self._config.statistics:
            _read_pixels(self._config.statistics, self._info)

    def check_known(self) -> None:
        """Makes sure that what a training step multiplies with is known.

        Raises:
          ValueError: it is not.
        """
        if self._config.rule == "frequency" and self._pixels is None:
            raise ValueError(
                f"{_NAME}.rule=frequency: build_inputs of task.train_data, which counts the pixels "
                "of each category, must come before a training step."
            )

    def of_channels(self, channel_of_category: Sequence[int]) -> Optional[List[float]]:
        """The weight of each channel of the semantic logits.

        Args:
          channel_of_category: channel + 1 by category id, 0 for none, entry 0 is 0; empty without a
            semantic branch. Several categories may share a channel: it has all their pixels, or the
            mean of their `values`.

        Returns:
          A weight for each channel, or None where all count the same or nothing is known yet.

        Raises:
          ValueError: there is no semantic branch.
        """
        config = self._config
        if config.rule == "none":
            return None
        if not len(channel_of_category):
            raise ValueError(
                f"{_NAME}.rule is {config.rule!r}, but this network has no semantic branch whose "
                "pixels could count differently. Set it to none."
            )
        channels = np.asarray(channel_of_category, np.int64)
        if config.rule == "list":
            totals = np.bincount(channels, weights=[0.0, *config.values])[1:]
            return (totals / np.maximum(np.bincount(channels)[1:], 1)).tolist()
        if self._pixels is None:
            return None
        return _balance(np.bincount(channels, weights=self._pixels)[1:], config)


def _balance(pixels: np.ndarray, config: base_config.ClassWeights) -> List[float]:
    """The formula at the top."""
    present = pixels > 0
    if not present.any():
        return [1.0] * len(pixels)
    ratios = np.median(pixels[present]) / np.where(present, pixels, 1.0)
    weights = np.clip(ratios**config.power, config.smallest, config.largest)
    return np.where(present, weights, 1.0).tolist()


def _check(config: base_config.ClassWeights, info: DatasetInfo) -> None:
    if config.rule not in _RULES:
        raise ValueError(f"{_NAME}.rule must be one of {', '.join(_RULES)}, got {config.rule!r}.")
    values = list(config.values)
    if config.rule == "list":
        is_valid = all(_is_number(value) and value >= 0 for value in values)
        if len(values) != info.num_categories or not is_valid:
            raise ValueError(
                f"{_NAME}.values must be {info.num_categories} numbers of at least 0, one for each "
                f"category of {info.name!r} in their order, got {len(values)}: "
                f"{files.shown(values)}."
            )
    elif values:
        raise ValueError(
            f"{_NAME}.values is for {_NAME}.rule=list, and the rule is {config.rule!r}."
        )
    limits = [config.smallest, config.largest, config.power]
    if not (
        all(_is_number(value) and value > 0 for value in limits)
        and config.smallest <= config.largest
    ):
        raise ValueError(
            f"{_NAME} needs numbers 0 < smallest <= largest and power > 0, got "
            f"{config.smallest!r}, {config.largest!r} and {config.power!r}."
        )


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, numbers.Real) and bool(np.isfinite(value))


def _read_pixels(path: str, info: DatasetInfo) -> np.ndarray:
    """Pixels by category id, int64 [N + 1], of what `doctor --output_json` wrote."""
    content = files.read_json(path, expected=_EXPECTED)
    rows = content.get("per_category") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: 'per_category' must be a list of objects; expected {_EXPECTED}.")
    own = [f"{c.dataset_id!r} {c.name!r}" for c in info.categories]
    found = [f"{row.get('id')!r} {row.get('name')!r}" for row in rows]
    pairs = itertools.zip_longest(found, own, fillvalue="missing")
    for number, (theirs, ours) in enumerate(pairs, 1):
        if theirs == ours:
            continue
        raise ValueError(
            f"{path}: category {number} of {len(found)} is {files.shorten(theirs, most=80)}, and "
            f"category {number} of the {len(own)} of {info.name!r} is {ours}. Set "
            f"{_NAME}.statistics to {_EXPECTED} about the training records, or leave it empty."
        )
    pixels = [row.get("pixels") for row in rows]
    if not all(type(count) is int and count >= 0 for count in pixels):
        raise ValueError(f"{path}: 'pixels' must be integers of at least 0; expected {_EXPECTED}.")
    return np.asarray([0, *pixels], np.int64)
