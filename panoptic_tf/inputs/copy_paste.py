"""Copy-paste augmentation: things of one image are laid over another (arXiv:2012.07177).

A random subset of the instances of a second image, augmented by draws of its own, hides what lies
beneath. Edges are not blended: the article finds no gain in it. Departures: nothing is pasted into
the padding of the frame, and of instances that overlap in the record the smallest is in front.
"""

from __future__ import annotations

import dataclasses
from typing import Sequence, Tuple

import tensorflow as tf

from panoptic_tf.inputs import bad_records, geometry, instances, lookup
from panoptic_tf.structures import InstanceAnnotations, PanopticSample

_MOST_INSTANCES = 255  # that a byte can number


@dataclasses.dataclass(frozen=True)
class CopyPaste:
    """How often, and how much.

    Attributes:
      probability: share of the images that things are pasted onto; 0 is off.
      max_instances: of them at most; how many is drawn from 1 to this number, 1..255.

    Raises:
      ValueError: a number out of its range.
    """

    probability: float = 0.0
    max_instances: int = 20

    def __post_init__(self):
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(
                "augmentation.copy_paste.probability must be in 0..1, got "
                f"{self.probability}; 0 is off."
            )
        if not 1 <= self.max_instances <= _MOST_INSTANCES:
            raise ValueError(
                f"augmentation.copy_paste.max_instances must be in 1..{_MOST_INSTANCES}, got "
                f"{self.max_instances}."
            )


def with_next(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Puts beside each element what the next one holds.

    Args:
      dataset: endless, of tuples.

    Returns:
      Dataset of (*element, last of the next element).
    """
    start = bad_records.blank(dataset.element_spec)
    pairs = dataset.scan(start, lambda element, following: (following, (*element, following[-1])))
    return pairs.skip(1)


def paste(
    sample: PanopticSample,
    source: PanopticSample,
    *,
    thing_ids: Sequence[int],
    max_instances: int,
    seed: tf.Tensor,
) -> PanopticSample:
    """Lays a random subset of the things of one sample over another.

    Crowds are not pasted, nor is what would lie in the padding of the frame.

    Args:
      sample: what is pasted onto, in the network's frame.
      source: what is copied from, in the same frame; both have `instances`, or neither has.
      thing_ids: contiguous ids of the thing categories.
      max_instances: see `CopyPaste`.
      seed: int [2], stateless.

    Returns:
      See `lay_over`.
    """
    source = _keep(source, _inside(sample))
    rows, categories = _choose(source, thing_ids=thing_ids, max_instances=max_instances, seed=seed)
    return lay_over(sample, source, rows, categories)


def lay_over(
    sample: PanopticSample, source: PanopticSample, rows: tf.Tensor, categories: tf.Tensor
) -> PanopticSample:
    """Lays instances of one sample over another.

    Args:
      sample: what is pasted onto.
      source: what is copied from, of the same size; both have `instances`, or neither has.
      rows: int32 [S], S <= 255, of `source.instances`, or ids - 1 where it has none. Where several
        have a pixel, the last is in front.
      categories: int32 [S], of these.

    Returns:
      The sample: image, categories, ids and crowds show what is pasted; its ids follow the largest
      of the sample. `instances` are those that are still seen, without what is hidden of them, then
      those that were pasted.
    """
    if source.instances is None:
        numbers = instances.row_of_id(source.instance_mask, rows) + 1
        pasted = _look_up(source.instance_mask, lookup.pad_table(numbers))
    else:
        masks = tf.gather(source.instances.masks, rows)  # [S, H, W]
        pasted = _front(masks)
    image, category_mask, instance_mask, crowd_mask = _lay_over(
        sample.image,
        sample.category_mask,
        sample.instance_mask,
        sample.crowd_mask,
        source.image,
        pasted,
        lookup.pad_table(tf.concat([[0], categories], axis=0)),
    )
    result = sample._replace(
        image=image,
        category_mask=category_mask,
        instance_mask=instance_mask,
        crowd_mask=crowd_mask,
    )
    if sample.instances is None:
        return result
    hidden = tf.cast(pasted > 0, tf.uint8)
    return result._replace(instances=_append(sample.instances, hidden, masks, categories))


def _inside(sample: PanopticSample) -> tf.Tensor:
    """Bool [H, W], where the frame holds the image."""
    height, width = sample.category_mask.shape
    size = geometry.valid_size(sample.image_info)
    return (tf.range(height) < size[0])[:, tf.newaxis] & (tf.range(width) < size[1])


def _keep(sample: PanopticSample, region: tf.Tensor) -> PanopticSample:
    """The sample with its instances cut off at a region, bool [H, W]."""
    if sample.instances is None:
        return sample._replace(instance_mask=tf.where(region, sample.instance_mask, 0))
    masks = sample.instances.masks * tf.cast(region, tf.uint8)
    return sample._replace(instances=sample.instances._replace(masks=masks))


def _choose(
    source: PanopticSample, *, thing_ids: Sequence[int], max_instances: int, seed: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor]:
    """Rows (see `ChosenInstances`) and categories of a random subset, the largest first: [S] each.

    One to `max_instances` of them, all numbers being equally likely, none where there are none.
    """
    candidates = instances.choose_instances(
        source, thing_ids=thing_ids, max_instances=_MOST_INSTANCES
    )
    seeds = tf.random.experimental.stateless_split(seed, 2)
    total = tf.size(candidates.rows)
    most = tf.minimum(total, max_instances)
    share = tf.random.stateless_uniform([], seeds[0])
    count = tf.minimum(1 + tf.cast(share * tf.cast(most, tf.float32), tf.int32), most)
    order = tf.argsort(tf.random.stateless_uniform([total], seeds[1]))
    subset = tf.sort(order[:count])
    categories = tf.gather(tf.constant(tuple(thing_ids), tf.int32), candidates.classes)
    return tf.gather(candidates.rows, subset), tf.gather(categories, subset)


def _front(masks: tf.Tensor) -> tf.Tensor:
    """Number of the last mask that has a pixel, from 1, 0 for none: uint8 [S, H, W] -> [H, W]."""
    numbers = tf.cast(tf.range(1, tf.shape(masks)[0] + 1), tf.uint8)
    numbered = masks * numbers[:, tf.newaxis, tf.newaxis]
    return tf.cast(tf.reduce_max(numbered, axis=0), tf.int32)


@lookup.compiled
def _look_up(ids: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    return tf.gather(table, ids)


@lookup.compiled
def _lay_over(
    image: tf.Tensor,
    category_mask: tf.Tensor,
    instance_mask: tf.Tensor,
    crowd_mask: tf.Tensor,
    source_image: tf.Tensor,
    pasted: tf.Tensor,
    categories: tf.Tensor,
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Image and maps with what is pasted, int32 [H, W] from 1; categories [256] by its number."""
    is_pasted = pasted > 0
    largest = tf.reduce_max(instance_mask)
    return (
        tf.where(is_pasted[..., tf.newaxis], source_image, image),
        tf.where(is_pasted, tf.gather(categories, pasted), category_mask),
        tf.where(is_pasted, pasted + largest, instance_mask),
        tf.logical_and(crowd_mask, tf.logical_not(is_pasted)),
    )


def _append(
    annotations: InstanceAnnotations,
    hidden: tf.Tensor,
    masks: tf.Tensor,
    categories: tf.Tensor,
) -> InstanceAnnotations:
    """The instances of which something is left, then those that are pasted.

    Args:
      annotations: K instances.
      hidden: uint8 [H, W], 1 on pixels that are pasted.
      masks: uint8 [S, H, W], of what is pasted.
      categories: int32 [S].
    """
    kept = annotations.masks * (1 - hidden)
    left = tf.where(tf.reduce_max(kept, axis=[1, 2]) > 0)[:, 0]
    return InstanceAnnotations(
        masks=tf.concat([tf.gather(kept, left), masks], axis=0),
        categories=tf.concat([tf.gather(annotations.categories, left), categories], axis=0),
        is_crowd=tf.concat(
            [tf.gather(annotations.is_crowd, left), tf.zeros_like(categories, tf.bool)], axis=0
        ),
    )
