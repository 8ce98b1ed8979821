"""Normalisation: RGB 0..255 in, what the network's weights expect out; zero outside the image."""

from __future__ import annotations

from typing import Sequence

import tensorflow as tf

from panoptic_tf.inputs import geometry


def normalize_image(
    image: tf.Tensor,
    image_info: tf.Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str = "RGB",
) -> tf.Tensor:
    """Reorders the channels, then (image - mean) / std, then zero where there is no image.

    Args:
      image: float32 [..., H, W, 3], RGB 0..255.
      image_info: float32 [..., 4, 2].
      mean, std: three values in the order of the reordered channels.
      channel_order: `RGB` or `BGR`.

    Returns:
      float32 [..., H, W, 3].

    Raises:
      ValueError: unknown channel order, or mean or std are not three values.
    """
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order must be 'RGB' or 'BGR', got {channel_order!r}.")
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean and std must have three values each, got {mean} and {std}.")
    ordered = image[..., ::-1] if channel_order == "BGR" else image
    scale = tf.constant([1.0 / value for value in std], tf.float32)
    normalized = (ordered - tf.constant(mean, tf.float32)) * scale
    return normalized * valid_mask(image_info, image.shape[-3], image.shape[-2])


def valid_mask(image_info: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """1 where the network's frame holds the image, else 0: float32 [..., H, W, 1]."""
    size = geometry.valid_size(image_info)  # [..., 2]
    rows = tf.range(height) < size[..., 0:1]  # [..., H]
    columns = tf.range(width) < size[..., 1:2]  # [..., W]
    rows, columns = tf.cast(rows, tf.float32), tf.cast(columns, tf.float32)
    return (rows[..., :, tf.newaxis] * columns[..., tf.newaxis, :])[..., tf.newaxis]
