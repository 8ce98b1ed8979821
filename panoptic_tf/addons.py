"""What tensorflow-addons offers beyond core TensorFlow: an augmentation policy and optimisers.

The only module that imports tensorflow-addons, and only when something of it is used: it is an
extra of the installation and runs with TensorFlow before 2.16. Nothing here reaches its operators
in C++, which some builds cannot load: `transform`, `cutout`, `sharpness` and `equalize` are made of
core operators.
"""

from __future__ import annotations

import math
import types
import warnings
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import tensorflow as tf

from panoptic_tf.structures import PanopticSample

OPTIMIZERS = (
    "AdaBelief",
    "AdamW",
    "LAMB",
    "LazyAdam",
    "Lookahead",
    "NovoGrad",
    "ProximalAdagrad",
    "RectifiedAdam",
    "SGDW",
    "Yogi",
)
"""Names of `build_optimizer`."""

_KERAS_OPTIMIZERS = ("Adagrad", "Adam", "RMSprop", "SGD")
"""Beside those above, what Lookahead may go around."""

_POLICY = "augmentation.policy 'addons'"

_GRAY = 127.5
"""Of a pixel that is cut out."""


def require(what: str) -> types.ModuleType:
    """Imports tensorflow-addons.

    Args:
      what: who asks for it, for the error: the config field and its value.

    Raises:
      ImportError: it is not installed, or does not run with this TensorFlow.
    """
    try:
        with warnings.catch_warnings():
            # It tells on every import that it is no longer developed.
            warnings.simplefilter("ignore")
            import tensorflow_addons
    except (ImportError, AttributeError) as error:  # It looks for attributes that TF has dropped.
        raise ImportError(
            f"{what} needs tensorflow-addons, which cannot be imported ({error}). Install it with "
            "`pip install 'panoptic-tf[addons]'`; it needs TensorFlow before 2.16, this is "
            f"{tf.__version__}."
        ) from error
    return tensorflow_addons


def augment_sample(
    sample: PanopticSample,
    *,
    size: tf.Tensor,
    seed: tf.Tensor,
    rotation: float = 10.0,
    rotation_probability: float = 0.5,
    shear: float = 0.1,
    shear_probability: float = 0.5,
    cutout: float = 0.25,
    cutout_probability: float = 0.5,
    sharpness: float = 0.5,
    sharpness_probability: float = 0.5,
    equalize_probability: float = 0.1,
) -> PanopticSample:
    """Colours, then rotation and shear, then cutout, each on its share of the images.

    Args:
      sample: in the network's frame, [H, W] static.
      size: int32 [2], height and width of the top-left part of the frame that the image fills. The
        rest is black and void, and stays so.
      seed: int [2], stateless.
      rotation: largest angle to either side, degrees.
      rotation_probability: share of the images that are rotated; likewise the others.
      shear: largest slope of either axis, each is drawn; 0..0.9.
      shear_probability: of the images.
      cutout: side of the square, as a fraction of the frame's shorter side.
      cutout_probability: of the images.
      sharpness: the factor is drawn from 1 - strength .. 1 + strength; below 1 blurs.
      sharpness_probability: of the images.
      equalize_probability: of the images; the histograms of their channels become flat.

    Returns:
      The sample, its `image` within 0..255. `image_info` still describes the frame before rotation
      and shear.

    Raises:
      ValueError: a number out of its range.
      ImportError: tensorflow-addons is not there.
    """
    _check("rotation", rotation, 180.0)
    _check("shear", shear, 0.9)
    _check("cutout", cutout)
    _check("sharpness", sharpness)
    seeds = tf.random.experimental.stateless_split(seed, 6)
    image = equalize(sample.image, size=size, is_chosen=_coin(seeds[0], equalize_probability))
    factor = 1.0 + _draw(seeds[1], sharpness, sharpness_probability)
    sample = sample._replace(image=sharpen(image, size=size, factor=factor))
    angle = _draw(seeds[2], math.radians(rotation), rotation_probability)
    slopes = _draw(seeds[3], shear, shear_probability, shape=(2,))
    sample = move_sample(sample, size=size, angle=angle, slopes=slopes)
    if not cutout:
        return sample
    height, width = sample.category_mask.shape
    center = tf.random.stateless_uniform([2], seeds[4]) * tf.cast(size, tf.float32)
    return cut_out(
        sample,
        size=size,
        center=tf.cast(center, tf.int32),
        half_side=max(1, round(cutout * min(height, width) / 2)),
        is_chosen=_coin(seeds[5], cutout_probability),
    )


def equalize(image: tf.Tensor, *, size: tf.Tensor, is_chosen: tf.Tensor) -> tf.Tensor:
    """Makes the histogram of each channel flat.

    Args:
      image: float32 [H, W, 3], 0..255.
      size: int32 [2], of the part that counts and changes; the rest is black.
      is_chosen: bool [], else the image stays as it is.
    """
    equalized = require(_POLICY).image.equalize
    return _change_colors(image, size, is_chosen, equalized)


def sharpen(image: tf.Tensor, *, size: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends an image with a blurred one: 0 blurs, 1 changes nothing, more sharpens.

    Args:
      image: float32 [H, W, 3], 0..255.
      size: int32 [2], of the part that changes; the rest is black.
      factor: float32 [].
    """
    sharpness = require(_POLICY).image.sharpness
    return _change_colors(image, size, factor != 1.0, lambda part: sharpness(part, factor))


def move_sample(
    sample: PanopticSample, *, size: tf.Tensor, angle: tf.Tensor, slopes: tf.Tensor
) -> PanopticSample:
    """Rotates and shears everything of a sample together: the image bilinearly, ids by nearest.

    About the center of the part that the image fills, the pixel (x, y) of the result shows the
    point R(angle) [[1, slope_x], [slope_y, 1]] (x, y); R turns counterclockwise what is seen.

    Args:
      sample: in the network's frame.
      size: int32 [2], of the part of the frame that the image fills.
      angle: float32 [], radians.
      slopes: float32 [2], slope_x and slope_y.

    Returns:
      The sample; black and void is what comes in from beyond the image.
    """
    region = _region(sample, size)
    transforms = _transforms(size, angle, slopes)
    kept = (sample.image, *_stack_masks(sample))

    def moved() -> Tuple[tf.Tensor, ...]:
        methods = ("bilinear", "nearest", "nearest")
        return tuple(_move(v, transforms, region, method) for v, method in zip(kept, methods))

    is_moved = tf.logical_or(angle != 0.0, tf.reduce_any(slopes != 0.0))
    image, ids, masks = tf.cond(is_moved, moved, lambda: kept)
    return _with_masks(sample._replace(image=image), ids, masks)


def cut_out(
    sample: PanopticSample,
    *,
    size: tf.Tensor,
    center: tf.Tensor,
    half_side: int,
    is_chosen: tf.Tensor,
) -> PanopticSample:
    """Cutout (arXiv:1708.04552): grays a square and makes it void, in the masks of instances too.

    For the classification of the paper the label of the image stays. An annotation of pixels tells
    what is seen of a thing, as behind any other thing in front of it, and nothing is seen there.

    Args:
      sample: in the network's frame.
      size: int32 [2], of the part of the frame that the image fills.
      center: int32 [2], (y, x) of the square; it may reach over the edge.
      half_side: pixels.
      is_chosen: bool [], else the sample stays as it is.
    """
    cutout = require(_POLICY).image.cutout
    whole = tf.ones([1, *sample.category_mask.shape, 1])
    left = cutout(whole, 2 * half_side, center[tf.newaxis])[0, ..., 0] > 0
    is_cut = tf.logical_and(tf.logical_not(left), _region(sample, size))
    is_cut = tf.logical_and(is_cut, is_chosen)[..., tf.newaxis]  # [H, W, 1]
    image = tf.where(is_cut, _GRAY, sample.image)
    ids, masks = (tf.where(is_cut, tf.zeros([], v.dtype), v) for v in _stack_masks(sample))
    return _with_masks(sample._replace(image=image), ids, masks)


def build_optimizer(
    name: str,
    *,
    learning_rate: Any,
    options: Optional[Mapping[str, Any]] = None,
    inner: str = "Adam",
    inner_options: Optional[Mapping[str, Any]] = None,
    **clipping: Any,
) -> tf.keras.optimizers.legacy.Optimizer:
    """An optimiser of tensorflow-addons, of Keras' legacy kind.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: number or schedule; Lookahead hands it to the optimiser inside.
      options: further arguments of the class.
      inner: what Lookahead goes around: another of `OPTIMIZERS`, or Adagrad, Adam, RMSprop, SGD.
      inner_options: arguments of that.
      **clipping: `clipnorm`, `clipvalue`, `global_clipnorm`, `gradient_transformers`,
        `gradient_aggregator`, as all Keras optimisers take them.

    Raises:
      ValueError: an unknown name.
      ImportError: tensorflow-addons is not there.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"optimizer must be one of addons/{{{', '.join(OPTIMIZERS)}}}, got {name}."
        )
    optimizers = require(f"optimizer 'addons/{name}'").optimizers
    arguments: Dict[str, Any] = {**(options or {}), **clipping}
    if name != "Lookahead":
        if name in ("AdamW", "SGDW"):
            arguments.setdefault("weight_decay", 0.0)
        return getattr(optimizers, name)(learning_rate=learning_rate, **arguments)
    if inner in _KERAS_OPTIMIZERS:
        inner_class = getattr(tf.keras.optimizers.legacy, inner)
        base = inner_class(learning_rate=learning_rate, **(inner_options or {}))
    elif inner == "Lookahead":
        raise ValueError("Lookahead around Lookahead: set optimizer.addons.inner to another one.")
    elif inner not in OPTIMIZERS:
        known = ", ".join(sorted({*OPTIMIZERS, *_KERAS_OPTIMIZERS} - {"Lookahead"}))
        raise ValueError(f"optimizer.addons.inner must be one of {known}, got {inner!r}.")
    else:
        base = build_optimizer(inner, learning_rate=learning_rate, options=inner_options)
    return optimizers.Lookahead(base, **arguments)


def _check(name: str, value: float, highest: float = 1.0) -> None:
    if not 0.0 <= value <= highest:
        raise ValueError(f"augmentation.addons.{name} must be 0..{highest:g}, got {value}.")


def _coin(seed: tf.Tensor, probability: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], seed) < probability


def _draw(
    seed: tf.Tensor, largest: float, probability: float, shape: Tuple[int, ...] = ()
) -> tf.Tensor:
    """Numbers of -largest..largest, or 0 for the images that are left alone."""
    seeds = tf.random.experimental.stateless_split(seed, 2)
    drawn = tf.random.stateless_uniform(shape, seeds[0], -largest, largest)
    return tf.where(_coin(seeds[1], probability), drawn, 0.0)


def _change_colors(
    image: tf.Tensor,
    size: tf.Tensor,
    is_chosen: tf.Tensor,
    change: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Changes the colours of the top-left part of an image, where it is chosen."""

    def changed() -> tf.Tensor:
        part = tf.ensure_shape(change(image[: size[0], : size[1]]), [None, None, 3])
        padding = tf.shape(image)[:2] - size
        return tf.pad(part, [[0, padding[0]], [0, padding[1]], [0, 0]])

    return tf.ensure_shape(tf.cond(is_chosen, changed, lambda: image), image.shape)


def _region(sample: PanopticSample, size: tf.Tensor) -> tf.Tensor:
    """bool [H, W], whether the image fills the pixel."""
    height, width = sample.category_mask.shape
    return tf.logical_and(tf.range(height)[:, tf.newaxis] < size[0], tf.range(width) < size[1])


def _transforms(size: tf.Tensor, angle: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
    """Of `move_sample`, as `transform` takes them: float32 [1, 8], from output to input points."""
    image = require(_POLICY).image
    height, width = tf.unstack(tf.cast(size, tf.float32))
    rotation = image.transform_ops.angles_to_projective_transforms(angle, height, width)
    offset_x = -slopes[0] * (height - 1.0) / 2.0
    offset_y = -slopes[1] * (width - 1.0) / 2.0
    shear = tf.stack([1.0, slopes[0], offset_x, slopes[1], 1.0, offset_y, 0.0, 0.0])
    return image.compose_transforms([rotation, shear[tf.newaxis]])


def _move(
    values: tf.Tensor, transforms: tf.Tensor, region: tf.Tensor, interpolation: str
) -> tf.Tensor:
    """Moves [..., H, W, C] and leaves zeros outside of the region [H, W]."""
    moved = require(_POLICY).image.transform(values, transforms, interpolation)
    moved = tf.ensure_shape(moved, values.shape)
    return tf.where(region[..., tf.newaxis], moved, tf.zeros([], values.dtype))


def _stack_masks(sample: PanopticSample) -> Tuple[tf.Tensor, tf.Tensor]:
    """Category, instance, crowd, int32 [H, W, 3]; masks of instances, uint8 [K, H, W, 1]."""
    crowds = tf.cast(sample.crowd_mask, tf.int32)
    ids = tf.stack([sample.category_mask, sample.instance_mask, crowds], axis=-1)
    if sample.instances is None:
        return ids, tf.zeros([0, *sample.category_mask.shape, 1], tf.uint8)
    return ids, sample.instances.masks[..., tf.newaxis]


def _with_masks(sample: PanopticSample, ids: tf.Tensor, masks: tf.Tensor) -> PanopticSample:
    """The inverse of `_stack_masks`."""
    instances = sample.instances
    return sample._replace(
        category_mask=ids[..., 0],
        instance_mask=ids[..., 1],
        crowd_mask=tf.cast(ids[..., 2], tf.bool),
        instances=None if instances is None else instances._replace(masks=masks[..., 0]),
    )
