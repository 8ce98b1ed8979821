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
    if brightness or contrast or saturation:
        image = _mix_channels(
            image,
            shift=255.0 * tf.random.stateless_uniform([], seeds[0], -brightness, brightness),
            contrast=_factor(seeds[1], contrast),
            saturation=_factor(seeds[2], saturation),
        )
    if not hue:
        return image
    turned = tf.image.stateless_random_hue(image / 255.0, hue, seeds[3])
    return tf.clip_by_value(turned * 255.0, 0.0, 255.0)


def _mix_channels(
    image: tf.Tensor, *, shift: tf.Tensor, contrast: tf.Tensor, saturation: tf.Tensor
) -> tf.Tensor:
    """Brightness, then contrast around the mean colour, then saturation around each pixel's gray.

    Each is affine in a pixel's three channels, so all are one product and one sum:
    (contrast * image + (1 - contrast) * mean + shift) * m, m = s * 1 + (1 - s) / 3 everywhere.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    columns = tf.reduce_sum(tf.reshape(image, [height, -1]), axis=0)  # [W * 3]
    mean = tf.reduce_sum(tf.reshape(columns, [width, 3]), axis=0) / tf.cast(
        height * width, tf.float32
    )
    mixing = saturation * tf.eye(3) + (1.0 - saturation) / 3.0
    constant = ((1.0 - contrast) * mean + shift)[tf.newaxis] @ mixing  # [1, 3]
    mixed = tf.matmul(tf.reshape(image, [-1, 3]), contrast * mixing)
    # Whole rows: three channels are too few to broadcast along.
    lines = tf.reshape(mixed, [height, -1]) + tf.tile(constant, [1, width])
    return tf.reshape(tf.clip_by_value(lines, 0.0, 255.0), tf.shape(image))


def _factor(seed: tf.Tensor, strength: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], seed, 1.0 - strength, 1.0 + strength)
