"""What training does to a decoded record on its way to a sample in the network's frame."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf import addons
from panoptic_tf.inputs import copy_paste, geometry, photometric, samples
from panoptic_tf.structures import InstanceAnnotations, PanopticSample, Tensors


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to an image; the defaults leave it alone but for fitting it in.

    Attributes:
      scale_min, scale_max: range of the scale, 1 being the one that just fits the image.
      flip_horizontally, flip_vertically: whether to flip half of the images.
      brightness, contrast, saturation, hue: see `photometric.jitter_colors`.
      policy: `core`, or `addons`: `addons.augment_sample` between geometry and colours.
      addons: keyword arguments of that.
      copy_paste: keyword arguments of `copy_paste.CopyPaste`.

    Raises:
      ValueError: an unknown policy, or a number of `copy_paste` that is out of its range.
      ImportError: the policy `addons` without tensorflow-addons.
    """

    scale_min: float = 1.0
    scale_max: float = 1.0
    flip_horizontally: bool = False
    flip_vertically: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    policy: str = "core"
    addons: Mapping[str, float] = dataclasses.field(default_factory=dict)
    copy_paste: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        copy_paste.CopyPaste(**self.copy_paste)
        if self.policy not in ("core", "addons"):
            raise ValueError(f"augmentation.policy must be core or addons, got {self.policy!r}.")
        if self.policy == "addons":
            addons.require("augmentation.policy 'addons'")

    @property
    def pastes(self) -> bool:
        """Whether things of other images are pasted."""
        return copy_paste.CopyPaste(**self.copy_paste).probability > 0

    def check_things(self, thing_ids: Sequence[int], settings: str = "") -> None:
        """Looks whether a data set has what is to be pasted.

        Args:
          thing_ids: of its categories.
          settings: what the names of settings begin with in the message.

        Raises:
          ValueError: things are to be pasted and there are none.
        """
        if self.pastes and not thing_ids:
            raise ValueError(
                f"{settings}augmentation.copy_paste pastes things, and no category of the data set "
                "is one. Set its probability to 0."
            )


def augment(
    example: Tensors,
    *,
    seed: tf.Tensor,
    thing_ids: Sequence[int],
    network_size: geometry.Size,
    augmentation: Augmentation,
    with_instances: bool,
    other: Optional[Callable[[], Tensors]] = None,
) -> PanopticSample:
    """A decoded record in the network's frame, by draws that depend on the seed, int64 [2], alone.

    Args:
      example: what `samples.build_decoder`'s function returns.
      seed: int64 [2], stateless.
      thing_ids, network_size, augmentation, with_instances: see `build_training_dataset`.
      other: decodes what may be pasted from; called, in the graph, only where something is.
    """
    augment_one = functools.partial(
        _augment_one,
        thing_ids=thing_ids,
        network_size=network_size,
        augmentation=augmentation,
        with_instances=with_instances,
    )
    sample = augment_one(example, seed=seed)
    if other is None or not augmentation.pastes:
        return sample
    decode_other, settings = other, copy_paste.CopyPaste(**augmentation.copy_paste)
    seeds = tf.random.experimental.stateless_split(
        tf.random.experimental.stateless_fold_in(seed, 4), 3
    )

    def pasted() -> Tuple[tf.Tensor, ...]:
        source = augment_one(decode_other(), seed=seeds[0])
        return _changing(
            copy_paste.paste(
                sample,
                source,
                thing_ids=thing_ids,
                max_instances=settings.max_instances,
                seed=seeds[1],
            )
        )

    is_chosen = tf.random.stateless_uniform([], seeds[2]) < settings.probability
    image, category_mask, instance_mask, crowd_mask, *annotations = tf.cond(
        is_chosen, pasted, lambda: _changing(sample)
    )
    return sample._replace(
        image=image,
        category_mask=category_mask,
        instance_mask=instance_mask,
        crowd_mask=crowd_mask,
        instances=InstanceAnnotations(*annotations) if annotations else None,
    )


def _changing(sample: PanopticSample) -> Tuple[tf.Tensor, ...]:
    """What pasting changes, without None."""
    maps = (sample.image, sample.category_mask, sample.instance_mask, sample.crowd_mask)
    return (*maps, *(sample.instances or ()))


def _augment_one(
    example: Tensors,
    *,
    seed: tf.Tensor,
    thing_ids: Sequence[int],
    network_size: geometry.Size,
    augmentation: Augmentation,
    with_instances: bool,
) -> PanopticSample:
    """Geometry and colours; what is looked up by pixel comes after the crop."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    where = geometry.random_geometry(
        tf.shape(example["image"])[:2],
        network_size,
        seed=seeds[0],
        scale_min=augmentation.scale_min,
        scale_max=augmentation.scale_max,
        flip_horizontally=augmentation.flip_horizontally,
        flip_vertically=augmentation.flip_vertically,
    )
    image, image_info = geometry.transform_image(example["image"], where, network_size)
    id_map = geometry.transform_masks(example["id_map"][tf.newaxis], where, network_size)[0]
    sample = samples.to_sample(
        {**example, "image": image, "id_map": id_map},
        thing_ids,
        with_instances=with_instances,
        in_network_frame=True,
        move=lambda masks: geometry.transform_masks(masks, where, network_size, transposed=True),
    )
    sample = sample._replace(image_info=image_info)
    if augmentation.policy == "addons":
        sample = addons.augment_sample(
            sample,
            size=geometry.valid_size(sample.image_info),
            seed=tf.random.experimental.stateless_fold_in(seed, 3),
            **augmentation.addons,
        )
    image = photometric.jitter_colors(
        sample.image,
        seed=seeds[1],
        brightness=augmentation.brightness,
        contrast=augmentation.contrast,
        saturation=augmentation.saturation,
        hue=augmentation.hue,
    )
    return sample._replace(image=image, seed=seeds[2])
