"""Group normalisation where 32 groups do not divide the channels."""

from __future__ import annotations

import functools
import math
from typing import Iterable

import tensorflow as tf

from panoptic_tf.layers import normalization

_GROUPS = 32


def fit_groups(layer: tf.keras.layers.Layer, channels: Iterable[int], *, epsilon: float) -> None:
    """Gives every group norm within a layer, not built yet, a number of groups that fits.

    It is one for the whole network: the greatest common divisor of 32 and the channels, so 8 in an
    Xception (728 channels), 16 in HRNet-W48.

    Args:
      layer: has sublayers with a `norm`, such as `convolution.ConvNormAct`.
      channels: every number of channels that is normalised.
      epsilon: added to the variance.
    """
    groups = functools.reduce(math.gcd, channels, _GROUPS)
    for module in list(layer.submodules):
        if isinstance(getattr(module, "norm", None), normalization.GroupNorm):
            module.norm = normalization.build_norm("group", epsilon=epsilon, groups=groups)
