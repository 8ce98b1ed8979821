"""Normalisation: RGB 0..255 in, what the network's weights expect out; zero outside the image."""

from __future__ import annotations

from typing import Sequence, Tuple

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
    height, width = image.shape[-3:-1]
    rows, columns = _valid_rows_and_columns(image_info, height, width)
    # Whole rows, [..., H, W * 3]: three channels are too few to broadcast along.
    shape = tf.shape(ordered)
    lines = tf.reshape(ordered, tf.concat([shape[:-2], [width * 3]], axis=0))
    scale = tf.constant([1.0 / value for value in std] * width, tf.float32)
    scale *= tf.repeat(columns, 3, axis=-1)  # [..., W * 3]
    lines = (lines - tf.constant(tuple(mean) * width, tf.float32)) * scale[..., tf.newaxis, :]
    return tf.reshape(lines * rows[..., tf.newaxis], shape)


def reorder_channels(image: tf.Tensor, channel_order: str) -> tf.Tensor:
    """The image in a channel order, by a product: reading pixels backwards takes four times longer.

    Args:
      image: float32 [H, W, 3], RGB, finite.
      channel_order: `RGB` or `BGR`.
    """
    if channel_order != "BGR":
        return image
    backwards = tf.constant([[0, 0, 1], [0, 1, 0], [1, 0, 0]], tf.float32)
    return tf.reshape(tf.matmul(tf.reshape(image, [-1, 3]), backwards), tf.shape(image))


def valid_mask(image_info: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """1 where the network's frame holds the image, else 0: float32 [..., H, W, 1]."""
    rows, columns = _valid_rows_and_columns(image_info, height, width)
    return (rows[..., :, tf.newaxis] * columns[..., tf.newaxis, :])[..., tf.newaxis]


def _valid_rows_and_columns(
    image_info: tf.Tensor, height: int, width: int
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Float32 [..., H] and [..., W], 1 within the image."""
    size = geometry.valid_size(image_info)  # [..., 2]
    rows = tf.range(height) < size[..., 0:1]
    columns = tf.range(width) < size[..., 1:2]
    return tf.cast(rows, tf.float32), tf.cast(columns, tf.float32)
