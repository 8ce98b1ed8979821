"""Where pixels go: one function that moves an image and its id maps together.

Scale, crop, flip, pad, in this order. Resizing follows half-pixel centers: bilinear for the image,
nearest for ids. The image sits in the top-left corner of the network's frame, zero outside.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import tensorflow as tf

from panoptic_tf.structures import ImageInfo, PanopticSample

Size = Tuple[int, int]


class Geometry(NamedTuple):
    """One choice of scale, crop and flip.

    Attributes:
      scaled_size: int32 [2], (height, width) that the whole image is resized to.
      offset: int32 [2], top-left corner of the crop in the resized image.
      flip_horizontally: bool [].
      flip_vertically: bool [].
    """

    scaled_size: tf.Tensor
    offset: tf.Tensor
    flip_horizontally: tf.Tensor
    flip_vertically: tf.Tensor


def fitting_geometry(original_size: tf.Tensor, network_size: Size) -> Geometry:
    """The whole image, scaled up or down until it just fits.

    Args:
      original_size: int32 [2].
      network_size: static (height, width).
    """
    original = tf.cast(original_size, tf.float32)
    scale = tf.reduce_min(tf.constant(network_size, tf.float32) / original)
    scaled = tf.maximum(tf.cast(tf.round(original * scale), tf.int32), 1)
    return Geometry(
        scaled_size=tf.minimum(scaled, tf.constant(network_size, tf.int32)),
        offset=tf.zeros([2], tf.int32),
        flip_horizontally=tf.constant(False),
        flip_vertically=tf.constant(False),
    )


def random_geometry(
    original_size: tf.Tensor,
    network_size: Size,
    *,
    seed: tf.Tensor,
    scale_min: float,
    scale_max: float,
    flip_horizontally: bool,
    flip_vertically: bool,
) -> Geometry:
    """Scale jitter, random crop and flips.

    Args:
      original_size: int32 [2].
      network_size: static (height, width) of the crop.
      seed: int [2], stateless.
      scale_min, scale_max: range of the scale, 1 being the one that just fits the image.
      flip_horizontally, flip_vertically: whether to flip half of the images.
    """
    seeds = tf.random.experimental.stateless_split(seed, 4)
    original = tf.cast(original_size, tf.float32)
    fit = tf.reduce_min(tf.constant(network_size, tf.float32) / original)
    jitter = tf.random.stateless_uniform([], seeds[0], scale_min, scale_max)
    scaled = tf.maximum(tf.cast(tf.round(original * fit * jitter), tf.int32), 1)
    room = tf.maximum(scaled - tf.constant(network_size, tf.int32), 0)
    position = tf.random.stateless_uniform([2], seeds[1])
    offset = tf.cast(tf.floor(position * tf.cast(room + 1, tf.float32)), tf.int32)
    return Geometry(
        scaled_size=scaled,
        offset=tf.minimum(offset, room),
        flip_horizontally=_coin(seeds[2], flip_horizontally),
        flip_vertically=_coin(seeds[3], flip_vertically),
    )


def transform_sample(
    sample: PanopticSample, geometry: Geometry, network_size: Size
) -> PanopticSample:
    """Moves everything of a sample to the network's frame.

    Args:
      sample: any size; its `image` may be uint8 or float32.
      geometry: what to do.
      network_size: static (height, width) of the result.

    Returns:
      The sample with masks [height, width]; `image` is float32 0..255, zero outside.
    """
    ids = tf.stack(
        [sample.category_mask, sample.instance_mask, tf.cast(sample.crowd_mask, tf.int32)], axis=-1
    )  # [H, W, 3]
    moved = _move(ids, geometry, network_size, method="nearest")
    instances = sample.instances
    if instances is not None:
        instances = instances._replace(masks=_move_masks(instances.masks, geometry, network_size))
    return sample._replace(
        image=_move(sample.image, geometry, network_size, method="bilinear"),
        image_info=_image_info(tf.shape(sample.image)[:2], geometry, network_size),
        category_mask=moved[..., 0],
        instance_mask=moved[..., 1],
        crowd_mask=tf.cast(moved[..., 2], tf.bool),
        instances=instances,
    )


def fit_and_pad(image: tf.Tensor, network_size: Size) -> Tuple[tf.Tensor, tf.Tensor]:
    """Scales a whole image into the network's frame; evaluation, serving and edge all use this.

    Args:
      image: uint8 or float32 [h, w, 3], RGB 0..255.
      network_size: static (height, width).

    Returns:
      float32 [height, width, 3], 0..255, zero outside the image; image_info float32 [4, 2].
    """
    original_size = tf.shape(image)[:2]
    geometry = fitting_geometry(original_size, network_size)
    moved = _move(image, geometry, network_size, method="bilinear")
    return moved, _image_info(original_size, geometry, network_size)


def valid_size(image_info: tf.Tensor) -> tf.Tensor:
    """Size of the part of the network's frame that the image fills: int32 [..., 2].

    Args:
      image_info: float32 [..., 4, 2].
    """
    scaled = tf.round(
        image_info[..., ImageInfo.ORIGINAL_SIZE, :] * image_info[..., ImageInfo.SCALE, :]
    )
    visible = scaled - image_info[..., ImageInfo.OFFSET, :]
    network_size = image_info[..., ImageInfo.NETWORK_SIZE, :]
    return tf.cast(tf.minimum(visible, network_size), tf.int32)


def _coin(seed: tf.Tensor, enabled: bool) -> tf.Tensor:
    return tf.logical_and(enabled, tf.random.stateless_uniform([], seed) < 0.5)


def _image_info(original_size: tf.Tensor, geometry: Geometry, network_size: Size) -> tf.Tensor:
    original = tf.cast(original_size, tf.float32)
    scaled = tf.cast(geometry.scaled_size, tf.float32)
    offset = tf.cast(geometry.offset, tf.float32)
    return tf.stack([original, tf.constant(network_size, tf.float32), scaled / original, offset])


def _move_masks(masks: tf.Tensor, geometry: Geometry, network_size: Size) -> tf.Tensor:
    """What `_move` with `nearest` does to masks [K, h, w], without resizing what the crop drops."""
    size = tf.shape(masks)
    rows, columns = (_source_index(size[1 + i], geometry, i, network_size[i]) for i in range(2))
    # A gather copies whole rows fast, and single pixels slowly.
    moved = tf.gather(tf.transpose(masks, [0, 2, 1]), columns, axis=1)  # [K, crop's width, h]
    moved = tf.gather(tf.transpose(moved, [0, 2, 1]), rows, axis=1)  # [K, crop's height and width]
    padding = [[0, network_size[i] - tf.size(index)] for i, index in enumerate((rows, columns))]
    padded = tf.pad(moved, [[0, 0], *padding])
    padded.set_shape([masks.shape[0], *network_size])
    return padded


def _source_index(length: tf.Tensor, geometry: Geometry, axis: int, frame: int) -> tf.Tensor:
    """Row (axis 0) or column (1) of the image that each of the crop's shows: int32 [<= frame]."""
    along = tf.range(length)[:, tf.newaxis, tf.newaxis]  # an image of one column
    scaled = tf.image.resize(along, [geometry.scaled_size[axis], 1], method="nearest")[:, 0, 0]
    index = scaled[geometry.offset[axis] :][:frame]
    flip = geometry.flip_horizontally if axis else geometry.flip_vertically
    return tf.cond(flip, lambda: tf.reverse(index, [0]), lambda: index)


def _move(values: tf.Tensor, geometry: Geometry, network_size: Size, *, method: str) -> tf.Tensor:
    """Scale, crop, flip and pad `values` [..., h, w, c]."""
    channels = values.shape[-1]
    scaled = tf.image.resize(values, geometry.scaled_size, method=method)
    end = tf.minimum(geometry.offset + tf.constant(network_size, tf.int32), geometry.scaled_size)
    top, left = geometry.offset[0], geometry.offset[1]
    crop = scaled[..., top : end[0], left : end[1], :]
    crop = tf.cond(geometry.flip_horizontally, lambda: tf.reverse(crop, [-2]), lambda: crop)
    crop = tf.cond(geometry.flip_vertically, lambda: tf.reverse(crop, [-3]), lambda: crop)
    padding = tf.constant(network_size, tf.int32) - (end - geometry.offset)
    around = [[0, 0]] * (values.shape.rank - 3)
    padded = tf.pad(crop, around + [[0, padding[0]], [0, padding[1]], [0, 0]])
    padded.set_shape(values.shape[:-3] + [*network_size, channels])
    return padded
