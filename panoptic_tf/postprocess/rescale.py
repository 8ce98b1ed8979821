"""From the network's frame to the image's own: bilinear sampling with a scale of each image's own.

Everything is static in shape and made of gathers, so that it runs batched, in a SavedModel and with
TFLite's builtin operators.
"""

from __future__ import annotations

from typing import Tuple

import tensorflow as tf

from panoptic_tf.layers.operators import only_builtin_operators
from panoptic_tf.structures import ImageInfo

Size = Tuple[int, int]

_VALUES_AT_ONCE = 2**21


def size_in_output(image_info: tf.Tensor, output_size: Size) -> tf.Tensor:
    """Size at which each image is answered: its own, or the largest that fits `output_size`.

    Args:
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).

    Returns:
      int32 [B, 2].
    """
    original = image_info[:, ImageInfo.ORIGINAL_SIZE]  # [B, 2]
    limit = tf.constant(output_size, tf.float32)
    fit = tf.minimum(tf.reduce_min(limit / original, axis=-1, keepdims=True), 1.0)
    fitted = tf.maximum(tf.round(original * fit), 1.0)
    return tf.cast(tf.minimum(fitted, limit), tf.int32)


def rescale_to_image(
    maps: tf.Tensor, image_info: tf.Tensor, output_size: Size, align_corners: bool = False
) -> tf.Tensor:
    """Samples maps of the network's frame in the image's own frame.

    The pixel centers of the output are mapped to the network's frame, kept inside the part that the
    image fills, then to the maps, whose stride is network size / map size. At scale 1 that equals a
    half-pixel bilinear resize by the stride.

    Args:
      maps: float32 [B, h, w, C], over the whole network frame.
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      align_corners: see `map_positions`.

    Returns:
      float32 [B, height, width, C]; beyond the image's size it repeats the border.
    """
    rows = map_positions(image_info, output_size, 0, maps.shape[1], align_corners)  # [B, H]
    columns = map_positions(image_info, output_size, 1, maps.shape[2], align_corners)  # [B, W]
    maps = _interpolate(maps, columns, axis=2)  # [B, h, W, C]
    return _interpolate(maps, rows, axis=1)  # [B, H, W, C]


def argmax_in_image(
    logits: tf.Tensor, image_info: tf.Tensor, output_size: Size, align_corners: bool = False
) -> tf.Tensor:
    """The channel that is largest in the image's own frame: argmax of `rescale_to_image`.

    The interpolated logits, which are large, never exist as a whole: a few rows at a time are
    interpolated and compared while they are in the processor's cache.

    Args:
      logits: float32 [B, h, w, C], over the whole network frame.
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      align_corners: see `map_positions`.

    Returns:
      int32 [B, height, width], 0..C - 1, the first of equals.
    """
    height, width = output_size
    rows = map_positions(image_info, output_size, 0, logits.shape[1], align_corners)  # [B, H]
    columns = map_positions(image_info, output_size, 1, logits.shape[2], align_corners)  # [B, W]
    logits = _interpolate(logits, columns, axis=2)  # [B, h, W, C]
    most = max(_VALUES_AT_ONCE // (width * logits.shape[-1]), 1)
    blocks = -(-height // most)

    def best(block: tf.Tensor) -> tf.Tensor:  # [B, rows] -> [B, rows, W]
        values = _interpolate(logits, block, axis=1)
        if only_builtin_operators():
            return tf.argmax(values, axis=-1, output_type=tf.int32)
        # The same in half the time.
        return tf.math.top_k(values, k=1).indices[..., 0]

    if blocks == 1:
        return best(rows)
    at_once = -(-height // blocks)
    rows = tf.pad(rows, [[0, 0], [0, blocks * at_once - height]])
    rows = tf.transpose(tf.reshape(rows, [-1, blocks, at_once]), [1, 0, 2])
    found = tf.map_fn(best, rows, fn_output_signature=tf.int32, parallel_iterations=1)
    found = tf.transpose(found, [1, 0, 2, 3])  # [B, blocks, rows, W]
    return tf.reshape(found, [-1, blocks * at_once, width])[:, :height]


def valid_in_output(sizes: tf.Tensor, output_size: Size) -> tf.Tensor:
    """True on the pixels that belong to the image: bool [B, H, W].

    Args:
      sizes: int32 [B, 2], see `size_in_output`.
      output_size: static (height, width).
    """
    rows = tf.range(output_size[0])[tf.newaxis, :] < sizes[:, 0:1]  # [B, H]
    columns = tf.range(output_size[1])[tf.newaxis, :] < sizes[:, 1:2]  # [B, W]
    return tf.logical_and(rows[:, :, tf.newaxis], columns[:, tf.newaxis, :])


def output_scale(image_info: tf.Tensor, output_size: Size) -> tf.Tensor:
    """Output pixels per pixel of the network's input, (y, x): float32 [B, 2]."""
    answered = tf.cast(size_in_output(image_info, output_size), tf.float32)
    return answered / _scaled_size(image_info)


def positions_in_network(
    image_info: tf.Tensor, output_size: Size, axis: int, *, count: int
) -> tf.Tensor:
    """Where output pixels 0..count - 1 lie in the network's frame along one axis, in its pixels.

    Args:
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      axis: 0 for y, 1 for x.
      count: static.

    Returns:
      float32 [B, count], from the first to the last pixel of the image.
    """
    answered = tf.cast(size_in_output(image_info, output_size), tf.float32)
    answered = answered[:, axis, tf.newaxis]  # [B, 1]
    scaled = _scaled_size(image_info)[:, axis, tf.newaxis]
    index = tf.range(count, dtype=tf.float32)[tf.newaxis, :]
    in_network = (index + 0.5) * scaled / answered - 0.5
    return tf.clip_by_value(in_network, 0.0, scaled - 1.0)


def _scaled_size(image_info: tf.Tensor) -> tf.Tensor:
    original = image_info[:, ImageInfo.ORIGINAL_SIZE]
    return tf.maximum(tf.round(original * image_info[:, ImageInfo.SCALE]), 1.0)


def map_positions(
    image_info: tf.Tensor,
    output_size: Size,
    axis: int,
    map_length: int,
    align_corners: bool = False,
) -> tf.Tensor:
    """Where output pixels lie on the map along one axis, in its cells: float32 [B, length].

    Args:
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      axis: 0 for y, 1 for x.
      map_length: of the map along the axis.
      align_corners: the first and last cell lie on the first and last pixel of the network's frame,
        else the borders of the map on those of the frame.
    """
    in_network = positions_in_network(image_info, output_size, axis, count=output_size[axis])
    network = image_info[:, ImageInfo.NETWORK_SIZE, axis, tf.newaxis]
    if align_corners:
        on_map = in_network * (float(map_length - 1) / (network - 1.0))
    else:
        on_map = (in_network + 0.5) * (float(map_length) / network) - 0.5
    return tf.clip_by_value(on_map, 0.0, float(map_length - 1))


def _interpolate(maps: tf.Tensor, positions: tf.Tensor, *, axis: int) -> tf.Tensor:
    """Linear interpolation of [B, h, w, C] at positions [B, P] along axis 1 or 2."""
    low = tf.floor(positions)
    weight = positions - low  # [B, P]
    low = tf.cast(low, tf.int32)
    high = tf.minimum(low + 1, maps.shape[axis] - 1)
    shape = [-1, 1, 1, 1]
    shape[axis] = positions.shape[1]
    weight = tf.reshape(weight, shape)
    first = _take(maps, low, axis)
    return first + (_take(maps, high, axis) - first) * weight


def _take(maps: tf.Tensor, index: tf.Tensor, axis: int) -> tf.Tensor:
    if axis == 1:
        return tf.gather(maps, index, axis=1, batch_dims=1)
    index = tf.tile(index[:, tf.newaxis, :], [1, maps.shape[1], 1])  # [B, h, P]
    return tf.gather(maps, index, axis=2, batch_dims=2)
