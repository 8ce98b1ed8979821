"""Photometric augmentation in core TensorFlow: brightness, contrast, saturation and hue."""

from __future__ import annotations

import tensorflow as tf


def jitter_colors(
    image: tf.Tensor,
    *,
    seed: tf.Tensor,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> tf.Tensor:
    """Jitters the colours of an image; a strength of 0 leaves that property alone.

    Args:
      image: float32 [H, W, 3], 0..255.
      seed: int [2], stateless.
      brightness: largest change, as a fraction of the full range.
      contrast, saturation: the factor is drawn from 1 - strength .. 1 + strength.
      hue: largest turn, as a fraction of the full circle, 0..0.5.

    Returns:
      float32 [H, W, 3], clipped to 0..255.
    """
    if not (brightness or contrast or saturation or hue):
        return image
    seeds = tf.random.experimental.stateless_split(seed, 4)
    unit = image / 255.0
    if brightness:
        unit += tf.random.stateless_uniform([], seeds[0], -brightness, brightness)
    if contrast:
        mean = tf.reduce_mean(unit, axis=[0, 1], keepdims=True)
        unit = mean + (unit - mean) * _factor(seeds[1], contrast)
    if saturation:
        gray = tf.reduce_mean(unit, axis=-1, keepdims=True)
        unit = gray + (unit - gray) * _factor(seeds[2], saturation)
    unit = tf.clip_by_value(unit, 0.0, 1.0)
    if hue:
        unit = tf.image.stateless_random_hue(unit, hue, seeds[3])
    return tf.clip_by_value(unit * 255.0, 0.0, 255.0)


def _factor(seed: tf.Tensor, strength: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], seed, 1.0 - strength, 1.0 + strength)
