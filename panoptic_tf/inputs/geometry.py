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
    image, image_info = transform_image(sample.image, geometry, network_size)
    masks = (sample.category_mask, sample.instance_mask, tf.cast(sample.crowd_mask, tf.int32))
    category_mask, instance_mask, is_crowd = tf.unstack(
        transform_masks(tf.stack(masks), geometry, network_size)
    )
    instances = sample.instances
    if instances is not None:
        masks = transform_masks(instances.masks, geometry, network_size)
        instances = instances._replace(masks=masks)
    return sample._replace(
        image=image,
        image_info=image_info,
        category_mask=category_mask,
        instance_mask=instance_mask,
        crowd_mask=tf.cast(is_crowd, tf.bool),
        instances=instances,
    )


def transform_image(
    image: tf.Tensor, geometry: Geometry, network_size: Size
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Moves an image to the network's frame: scale, crop, flip and pad.

    Args:
      image: uint8 or float32 [h, w, 3].
      geometry: what to do.
      network_size: static (height, width) of the result.

    Returns:
      float32 [height, width, 3], zero outside the image; image_info float32 [4, 2].
    """
    size = tf.minimum(tf.constant(network_size, tf.int32), geometry.scaled_size)
    offset, turned = geometry.offset, image
    # The source is turned, which is uint8 as a rule, and the crop moves with it.
    for axis, flip in enumerate((geometry.flip_vertically, geometry.flip_horizontally)):
        turned = _reverse_if(flip, turned, axis)
        mirrored = tf.logical_and(flip, [axis == 0, axis == 1])
        offset = tf.where(mirrored, geometry.scaled_size - offset - size, offset)
    scaled = tf.image.resize(turned, geometry.scaled_size, method="bilinear")
    crop = tf.slice(scaled, tf.concat([offset, [0]], 0), tf.concat([size, [-1]], 0))
    missing = tf.constant(network_size, tf.int32) - size
    padded = tf.pad(crop, [[0, missing[0]], [0, missing[1]], [0, 0]])
    padded.set_shape([*network_size, image.shape[-1]])
    return padded, _image_info(tf.shape(image)[:2], geometry, network_size)


def transform_masks(
    masks: tf.Tensor, geometry: Geometry, network_size: Size, *, transposed: bool = False
) -> tf.Tensor:
    """Moves masks or id maps as `transform_image` moves their image, by the nearest pixel.

    Only what the crop shows is ever read.

    Args:
      masks: any dtype [K, h, w].
      geometry: what to do.
      network_size: static (height, width) of the result.
      transposed: the masks come as [K, w, h].

    Returns:
      [K, height, width] of the same dtype, zero outside the image.
    """
    _, *size = tf.unstack(tf.shape(masks))
    size = size[::-1] if transposed else size
    rows, columns = (_source_index(size[i], geometry, i, network_size[i]) for i in range(2))
    # A gather copies whole rows fast, and single pixels slowly.
    if not transposed:
        masks = tf.transpose(tf.gather(masks, rows, axis=1), [0, 2, 1])  # [K, w, crop's height]
    moved = tf.transpose(tf.gather(masks, columns, axis=1), [0, 2, 1])  # [K, *, crop's width]
    if transposed:
        moved = tf.gather(moved, rows, axis=1)  # [K, crop's height and width]
    padding = [[0, network_size[i] - tf.size(index)] for i, index in enumerate((rows, columns))]
    padded = tf.pad(moved, [[0, 0], *padding])
    padded.set_shape([masks.shape[0], *network_size])
    return padded


def fit_and_pad(image: tf.Tensor, network_size: Size) -> Tuple[tf.Tensor, tf.Tensor]:
    """Scales a whole image into the network's frame; evaluation, serving and edge all use this.

    It is `transform_image` by `fitting_geometry`, which neither crops nor flips.

    Args:
      image: uint8 or float32 [h, w, 3], RGB 0..255; or a batch of one size, [B, h, w, 3].
      network_size: static (height, width).

    Returns:
      float32 [height, width, 3], 0..255, zero outside the image; image_info float32 [4, 2]. Of a
      batch both have B first.
    """
    original_size = tf.shape(image)[-3:-1]
    geometry = fitting_geometry(original_size, network_size)
    scaled = tf.image.resize(image, geometry.scaled_size, method="bilinear")
    missing = tf.constant(network_size, tf.int32) - geometry.scaled_size
    is_batch = image.shape.rank == 4
    padded = tf.pad(scaled, [[0, 0]] * is_batch + [[0, missing[0]], [0, missing[1]], [0, 0]])
    padded.set_shape([*image.shape[:-3], *network_size, image.shape[-1]])
    image_info = _image_info(original_size, geometry, network_size)
    if is_batch:
        image_info = tf.tile(image_info[tf.newaxis], [tf.shape(image)[0], 1, 1])
    return padded, image_info


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
    return tf.random.stateless_uniform([], seed) < 0.5 if enabled else tf.constant(False)


def _reverse_if(flip: tf.Tensor, values: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.cond(flip, lambda: tf.reverse(values, [axis]), lambda: values)


def _image_info(original_size: tf.Tensor, geometry: Geometry, network_size: Size) -> tf.Tensor:
    original = tf.cast(original_size, tf.float32)
    scaled = tf.cast(geometry.scaled_size, tf.float32)
    offset = tf.cast(geometry.offset, tf.float32)
    return tf.stack([original, tf.constant(network_size, tf.float32), scaled / original, offset])


def _source_index(length: tf.Tensor, geometry: Geometry, axis: int, frame: int) -> tf.Tensor:
    """Row (axis 0) or column (1) of the image that each of the crop's shows: int32 [<= frame]."""
    along = tf.range(length)[:, tf.newaxis, tf.newaxis]  # an image of one column
    scaled = tf.image.resize(along, [geometry.scaled_size[axis], 1], method="nearest")[:, 0, 0]
    index = scaled[geometry.offset[axis] :][:frame]
    flip = geometry.flip_horizontally if axis else geometry.flip_vertically
    return _reverse_if(flip, index, 0)
