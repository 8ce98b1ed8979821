"""What the weights of most sources were trained with, as settings of a `Description`."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Sequence, Tuple

Normalization = Tuple[Tuple[float, ...], Tuple[float, ...]]
"""Mean and deviation of pixels in 0..1."""

IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of RGB in 0..1: ImageNet's, and what brings it to -1..1."""

SWISH_SQUEEZE: Mapping[str, Any] = {"se_ratio": 0.25, "se_inner_activation": "swish"}
"""Options of EfficientNet as published: official.vision leaves the squeeze out by default."""


def settings(
    normalization: Sequence[Sequence[float]], *, norm_epsilon: float, **options: Any
) -> Dict[str, Any]:
    """Settings of a `Description`.

    Args:
      normalization: mean and standard deviation of RGB in 0..1.
      norm_epsilon: of the norms.
      **options: of the backbone.
    """
    mean, std = ([round(255.0 * value, 6) for value in values] for values in normalization)
    return {
        "normalization.channel_order": "RGB",
        "normalization.mean": mean,
        "normalization.std": std,
        "model.backbone.norm_epsilon": norm_epsilon,
        **{f"model.backbone.options.{name}": value for name, value in options.items()},
    }
