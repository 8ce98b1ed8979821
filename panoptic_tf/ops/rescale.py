"""From the network's frame to the image's own: bilinear sampling, each image at its own scale."""

from __future__ import annotations

from typing import Callable, NamedTuple, Tuple

import tensorflow as tf

from panoptic_tf.structures import ImageInfo

Size = Tuple[int, int]
ToMap = Callable[[tf.Tensor], tf.Tensor]


class Taps(NamedTuple):
    """Positions on a map between whose values the output's pixels lie: float32 [B, n] each.

    Attributes:
      low, high: of the nearest pixels of the network's frame.
      share: of `high`.
    """

    low: tf.Tensor
    high: tf.Tensor
    share: tf.Tensor


def size_in_output(image_info: tf.Tensor, output_size: Size) -> tf.Tensor:
    """Size at which each image is predicted: its own, or the largest that fits `output_size`.

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
    maps = sample(maps, (columns,), axis=2)  # [B, h, W, C]
    return sample(maps, (rows,), axis=1)  # [B, H, W, C]


def valid_in_output(sizes: tf.Tensor, output_size: Size) -> tf.Tensor:
    """True on the pixels that belong to the image: bool [B, H, W].

    Args:
      sizes: int32 [B, 2], see `size_in_output`.
      output_size: static (height, width).
    """
    sizes = tf.cast(sizes, tf.float32)
    rows = tf.range(output_size[0], dtype=tf.float32) < sizes[:, 0:1]  # [B, H]
    columns = tf.range(output_size[1], dtype=tf.float32) < sizes[:, 1:2]  # [B, W]
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
    return _on_map(in_network, image_info, axis, map_length, align_corners)


def _on_map(
    in_network: tf.Tensor, image_info: tf.Tensor, axis: int, map_length: int, align_corners: bool
) -> tf.Tensor:
    network = image_info[:, ImageInfo.NETWORK_SIZE, axis, tf.newaxis]
    if align_corners:
        on_map = in_network * (float(map_length - 1) / (network - 1.0))
    else:
        on_map = (in_network + 0.5) * (float(map_length) / network) - 0.5
    return tf.clip_by_value(on_map, 0.0, float(map_length - 1))


def two_step_taps(
    image_info: tf.Tensor, output_size: Size, axis: int, *, count: int, to_map: ToMap
) -> Taps:
    """Where output pixels lie when a map is resized to the network's pixels first, then to them.

    Args:
      image_info: float32 [B, 4, 2].
      output_size: static (height, width).
      axis: 0 for y, 1 for x.
      count: of pixels of the output, from 0 on; static.
      to_map: from positions in the network's frame to those on the map.

    Returns:
      Positions of pixels in that part of the network's frame that the image fills.
    """
    in_network = positions_in_network(image_info, output_size, axis, count=count)
    low, high = tf.floor(in_network), tf.math.ceil(in_network)
    return Taps(to_map(low), to_map(high), share=in_network - low)


def find_taps(
    image_info: tf.Tensor,
    output_size: Size,
    axis: int,
    map_length: int,
    align_corners: bool,
    two_steps: bool,
) -> Tuple[tf.Tensor, ...]:
    """What `sample` takes of every output pixel along an axis: float32 [B, length] each.

    Args:
      image_info, output_size, axis, map_length, align_corners: see `map_positions`.
      two_steps: resize to the pixels of the network's frame first, then to the output.

    Returns:
      (positions,), or (low, high, share) of `Taps`.
    """
    if not two_steps:
        return (map_positions(image_info, output_size, axis, map_length, align_corners),)

    def to_map(in_network: tf.Tensor) -> tf.Tensor:
        return _on_map(in_network, image_info, axis, map_length, align_corners)

    return two_step_taps(image_info, output_size, axis, count=output_size[axis], to_map=to_map)


def sample(maps: tf.Tensor, taps: Tuple[tf.Tensor, ...], *, axis: int) -> tf.Tensor:
    """Linear interpolation along an axis.

    Args:
      maps: float32 [B, h, w, C].
      taps: of P pixels, see `find_taps`.
      axis: 1 or 2.

    Returns:
      float32 [B, P, w, C] or [B, h, P, C].
    """
    first = _interpolate(maps, taps[0], axis=axis)
    if len(taps) == 1:
        return first
    _, high, share = taps
    return first + (_interpolate(maps, high, axis=axis) - first) * _along(share, axis)


def _interpolate(maps: tf.Tensor, positions: tf.Tensor, *, axis: int) -> tf.Tensor:
    """Maps [B, h, w, C] at positions [B, P]."""
    low = tf.floor(positions)
    high = tf.minimum(low + 1.0, maps.shape[axis] - 1.0)
    first, second = (_take(maps, tf.cast(index, tf.int32), axis) for index in (low, high))
    return first + (second - first) * _along(positions - low, axis)


def _take(maps: tf.Tensor, index: tf.Tensor, axis: int) -> tf.Tensor:
    """Maps [B, h, w, C] at int32 [B, P] along an axis."""
    if maps.shape[0] == 1:  # As in a TFLite file: OpenVINO reads no gather of a batch of maps.
        return tf.gather(maps, tf.squeeze(index, axis=0), axis=axis)
    return tf.gather(maps, index, axis=axis, batch_dims=1)


def _along(weights: tf.Tensor, axis: int) -> tf.Tensor:
    """[B, P] to a shape that multiplies maps along their axis."""
    shape = [-1, 1, 1, 1]
    shape[axis] = weights.shape[1]
    return tf.reshape(weights, shape)
