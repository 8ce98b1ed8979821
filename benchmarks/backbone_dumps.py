"""What benchmarks of other libraries' backbones share: build as weights want it, run, compare.

A dump is a folder with files of weights and `reference.npz`, as
`references/backbone_weights.py` writes it.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Mapping, NamedTuple, Optional

import numpy as np
import tensorflow as tf

import panoptic_tf.backbones  # noqa: F401  (registers the backbones)
from panoptic_tf import checkpoints
from panoptic_tf.backbones import factory
from panoptic_tf.systems.config import Normalization

LEVELS = ("2", "3", "4", "5")
_PREFIX = "model.backbone."


class Row(NamedTuple):
    """One file beside its source.

    Attributes:
      title: what the file was recognised as.
      errors: relative L2 by level.
      noise: what a millionth of noise on the image changes, relative L2 by level. With random
        weights deep networks enlarge it, and float32's rounding with it, more than a thousandfold.
      normalization: whose the image has: the settings', which ought to be those of the source.
    """

    title: str
    errors: Mapping[str, float]
    noise: Mapping[str, float]
    normalization: str


def compare(folder: str, path: str, backbone: Optional[str]) -> Row:
    """Loads a file of a dump, runs its photograph, and compares.

    Args:
      folder: of the dump.
      path: of one of its files of weights.
      backbone: its name here.

    Raises:
      ValueError: the file cannot be read or does not fit, or there is no such backbone.
    """
    title, description = checkpoints.describe(path)
    if not backbone:
        raise ValueError(f"No backbone here is meant by {os.path.basename(folder)!r}: --backbone.")
    layer = build(backbone, description.settings)
    checkpoints.load_weights(path, layer.weights, modules="all", network=layer)
    with np.load(os.path.join(folder, "reference.npz")) as file:
        reference = dict(file)
    theirs = _normalization_of(reference)
    ours = normalization(description.settings)
    is_equal = ours.channel_order == theirs.channel_order and np.allclose(
        [ours.mean, ours.std], [theirs.mean, theirs.std], atol=1e-3
    )
    image = normalized(reference["image"], ours if is_equal else theirs)
    features = _run(layer, image)
    errors = {level: _error(features[level], reference, level) for level in LEVELS}
    noise = 1.0 + 1e-6 * np.random.default_rng(0).standard_normal(image.shape)
    moved = _run(layer, tf.constant(image.numpy() * noise, tf.float32))
    changes = {level: _relative(moved[level], features[level]) for level in LEVELS}
    return Row(title, errors, changes, "as set" if is_equal else "the dump's")


def _run(layer: tf.keras.layers.Layer, image: tf.Tensor) -> Dict[str, np.ndarray]:
    return {level: x[0].numpy() for level, x in layer(image, training=False).items()}


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def build(name: str, settings: Mapping[str, Any]) -> tf.keras.layers.Layer:
    """A backbone as weights want it, with its variables made."""
    options = {
        key[len(_PREFIX) :].replace("options.", ""): value
        for key, value in settings.items()
        if key.startswith(_PREFIX)
    }
    layer = factory.build_backbone(name, **options)
    layer(tf.zeros([1, 64, 64, 3]), training=False)
    return layer


def normalization(settings: Mapping[str, Any]) -> Normalization:
    """Of images, as weights want it."""
    prefix = "normalization."
    return Normalization(
        **{key[len(prefix) :]: value for key, value in settings.items() if key.startswith(prefix)}
    )


def normalized(image: np.ndarray, how: Normalization) -> tf.Tensor:
    """uint8 RGB [H, W, 3] -> float32 [1, H, W, 3]."""
    ordered = image[..., ::-1] if how.channel_order == "BGR" else image
    values = (ordered.astype(np.float32) - np.float32(how.mean)) / np.float32(how.std)
    return tf.constant(values[np.newaxis])


def _normalization_of(reference: Mapping[str, np.ndarray]) -> Normalization:
    return Normalization(
        mean=reference["normalization_mean"].tolist(),
        std=reference["normalization_std"].tolist(),
        channel_order=str(reference["channel_order"]),
    )


def _error(ours: np.ndarray, reference: Mapping[str, np.ndarray], level: str) -> float:
    """Relative L2; a library's own levels are taken where they are what ours are."""
    candidates = [name for name in (f"timm_C{level}", f"C{level}") if name in reference]
    for name in candidates:
        if reference[name].shape == ours.shape:
            return _relative(ours, reference[name])
    shapes = [reference[name].shape for name in candidates]
    raise ValueError(f"C{level} is {ours.shape} here and {shapes} in the dump.")
