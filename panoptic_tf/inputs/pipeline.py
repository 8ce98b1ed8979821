"""The input pipeline of every system: records in, batches of (features, labels) out.

train:    read -> decode -> random geometry -> photometric -> copy-paste -> normalise -> targets
          -> batch
evaluate: read -> decode -> fit and pad -> normalise; labels are the annotation in its own frame
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import record
from panoptic_tf.datasets.size_limit import SizeLimit
from panoptic_tf.inputs import (
    bad_records,
    copy_paste,
    geometry,
    lookup,
    normalize,
    reading,
    repeat_factors,
    samples,
)
from panoptic_tf.inputs.augmentation import Augmentation, augment
from panoptic_tf.inputs.bad_records import BadRecords
from panoptic_tf.inputs.data_service import DataService
from panoptic_tf.inputs.shards import Shards, find_shards
from panoptic_tf.structures import GroundTruth, PanopticSample, Tensors

TargetGenerator = Callable[[PanopticSample], Tuple[Tensors, Tensors]]
"""Maps a sample in the network's frame to (additional features, labels) of static shapes."""


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Keyword arguments of `normalize.normalize_image`."""

    mean: Sequence[float]
    std: Sequence[float]
    channel_order: str = "RGB"


# No AutoGraph in either: no function here needs it, and it takes seconds.
@tf.autograph.experimental.do_not_convert
def build_training_dataset(
    *,
    input_path: str,
    thing_ids: Sequence[int],
    network_size: geometry.Size,
    normalization: Normalization,
    augmentation: Augmentation,
    target_generator: TargetGenerator,
    batch_size: int,
    shuffle_buffer_size: int = 1000,
    max_examples: int = 0,
    cache: bool = False,
    seed: Optional[int] = None,
    with_instances: bool = False,
    num_categories: Optional[int] = None,
    allow_partial: bool = False,
    max_bad_records: int = 0,
    settings: str = "",
    factors: Optional[np.ndarray] = None,
    service: Optional[DataService] = None,
    input_context: Optional[tf.distribute.InputContext] = None,
) -> tf.data.Dataset:
    """Endless shuffled batches.

    Args:
      input_path: file pattern of the records.
      thing_ids: contiguous ids of the thing categories.
      network_size: static (height, width).
      normalization: how pixel values become the network's input.
      augmentation: what training does to an image.
      target_generator: the system's targets, called inside tf.data.
      batch_size: images of one replica's (or worker's) batch.
      shuffle_buffer_size: images that are shuffled among each other.
      max_examples: use only the first so many records; 0 uses all.
      cache: keep decoded images in memory after the first pass.
      seed: makes order and augmentation repeatable, and those of several workers together the same
        as one process's: each reads all records and takes its rows of every global batch.
      with_instances: whether samples hold `instances`: those of the record, which may overlap, or
        derived from the id map where the record has none.
      num_categories: N, where a record with a larger category id is bad.
      allow_partial: see `shards.find_shards`; the files are found once, here.
      max_bad_records: how many records that cannot be decoded are skipped; every worker counts its
        own. One more ends the iteration, see `bad_records`.
      settings: what the names of `input_path` and the like begin with in messages.
      factors: by category id, how often images of the category come in a pass; see
        `repeat_factors`. None: each image comes once.
      service: makes the batches in other processes, each of which reads all records in an order of
        its own; `cache` is one of each. It goes with neither `seed` nor `max_bad_records`.
      input_context: this worker's share under tf.distribute; with `service` there are none.

    Returns:
      Dataset of (features, labels); features hold `image` float32 [B, H, W, 3] and `image_info`
      float32 [B, 4, 2] beside what the target generator adds.

    Raises:
      ValueError: the files are no whole data set, see `shards.find_shards`, or things are to be
        pasted and there are none.
    """
    augmentation.check_things(thing_ids, settings)
    share = input_context if seed is None and service is None else None
    shards = find_shards(input_path, name=f"{settings}input_path", allow_partial=allow_partial)
    bad = _build_bad_records(shards, max_bad_records, max_examples, settings)
    # Where none is skipped, run lengths are checked when the masks are decoded.
    check_rles = with_instances and max_bad_records > 0
    decode = samples.build_decoder(num_categories=num_categories, check_rles=check_rles)
    examples = reading.read_records(
        shards.paths,
        max_examples=max_examples,
        shuffle_files=True,
        seed=seed,
        input_context=share,
    )
    if cache:
        examples = bad.decode(examples, decode).cache()
    if factors is not None:
        examples = repeat_factors.repeat_elements(
            examples, factors, _categories_of(cache, skips_bad=max_bad_records > 0), seed=seed
        )
    examples = examples.shuffle(shuffle_buffer_size, seed=seed).repeat()
    if augmentation.pastes:
        examples = copy_paste.with_next(examples)
    numbered = reading.number_records(
        examples,
        batch_size=batch_size,
        input_context=None if seed is None else input_context,
    )
    if not cache:  # The buffer holds records as they are stored, not pixels.
        numbered = bad.decode(numbered, decode)

    def decode_other(other: Any, example: Tensors) -> Tensors:
        """The record to paste from; where it cannot be decoded, one without any segment."""
        if cache:
            return other
        if not max_bad_records:
            return decode(other)
        is_good, decoded = bad_records.attempt(other, decode)
        return tf.cond(is_good, lambda: decoded, lambda: samples.without_segments(example))

    def prepare(example: Tensors, *rest: Any) -> Tuple[Tensors, Tensors]:
        *others, index = rest
        sample = augment(
            example,
            seed=_random_seed() if seed is None else tf.stack([tf.constant(seed, tf.int64), index]),
            thing_ids=thing_ids,
            network_size=network_size,
            augmentation=augmentation,
            with_instances=with_instances,
            other=(lambda: decode_other(others[0], example)) if others else None,
        )
        features = _features(sample.image, sample.image_info, normalization)
        additional, labels = target_generator(sample)
        return {**features, **additional}, labels

    prepared = numbered.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    batches = prepared.batch(batch_size, drop_remainder=True)
    return _finish(batches, deterministic=seed is not None, service=service)


@tf.autograph.experimental.do_not_convert
def build_evaluation_dataset(
    *,
    input_path: str,
    thing_ids: Sequence[int],
    network_size: geometry.Size,
    normalization: Normalization,
    batch_size: int,
    max_examples: int = 0,
    with_instances: bool = False,
    num_categories: Optional[int] = None,
    allow_partial: bool = False,
    max_bad_records: int = 0,
    settings: str = "",
    size_limit: Optional[SizeLimit] = None,
    input_context: Optional[tf.distribute.InputContext] = None,
) -> tf.data.Dataset:
    """One pass in the order of the records; arguments as in `build_training_dataset`.

    Of several workers, worker w of W reads the records w, w + W, w + 2W, ...

    Args:
      size_limit: leaves out what is larger; default nothing.

    Returns:
      Dataset of (features, labels); labels have the keys of `structures.GroundTruth`, each image in
      its own frame, padded with void to the largest of the batch. `INSTANCE_KEYS` are among them
      only `with_instances`: the masks of the record as they are stored.
    """
    shards = find_shards(input_path, name=f"{settings}input_path", allow_partial=allow_partial)
    bad = _build_bad_records(shards, max_bad_records, max_examples, settings)
    decode = samples.build_decoder(num_categories=num_categories, check_rles=with_instances)
    records = reading.read_records(
        shards.paths, max_examples=max_examples, input_context=input_context
    )
    if size_limit is not None:
        records = size_limit.filter(records)

    def prepare(example: Tensors) -> Tuple[Tensors, Tensors]:
        sample = samples.to_sample(example, thing_ids, with_instances=False)
        image, image_info = geometry.fit_and_pad(sample.image, network_size)
        labels = {
            GroundTruth.CATEGORY_MASK: sample.category_mask,
            GroundTruth.INSTANCE_MASK: sample.instance_mask,
            GroundTruth.CROWD_MASK: sample.crowd_mask,
            GroundTruth.IMAGE_SIZE: tf.shape(sample.category_mask),
            GroundTruth.IMAGE_ID: sample.image_id,
        }
        if with_instances:
            labels.update(samples.instance_labels(example))
        return _features(image, image_info, normalization), labels

    prepared = bad.decode(records, decode).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    return _finish(prepared.padded_batch(batch_size), deterministic=True)


def sample_from_example(
    example: Tensors, thing_ids: Sequence[int], *, with_instances: bool = False
) -> PanopticSample:
    """A decoded record as a `PanopticSample` in its own frame, `image` float32.

    Args:
      example: what `record.decode_example` returns.
      thing_ids: contiguous ids of the thing categories.
      with_instances: see `build_training_dataset`.
    """
    sample = samples.to_sample(
        samples.with_image(example), thing_ids, with_instances=with_instances
    )
    return sample._replace(image=tf.cast(sample.image, tf.float32))


def _categories_of(is_decoded: bool, *, skips_bad: bool) -> Callable[..., tf.Tensor]:
    """Maps what is read, a position and a record or a decoded record, to category ids."""
    if is_decoded:
        return lambda example: tf.cast(example["segment_categories"], tf.int64)

    def read(serialized: tf.Tensor) -> tf.Tensor:
        return record.parse_fields(serialized, record.Field.SEGMENT_CATEGORIES)[0]

    if not skips_bad:
        return lambda _, serialized: read(serialized)
    return lambda _, serialized: bad_records.attempt(serialized, read)[1]


def _build_bad_records(
    shards: Shards, max_bad_records: int, max_examples: int, settings: str
) -> BadRecords:
    count = shards.num_records
    return BadRecords(
        shards.paths,
        max_bad_records=max_bad_records,
        num_records=min(count, max_examples) if count and max_examples else count,
        name=f"{settings}max_bad_records",
    )


def _features(image: tf.Tensor, image_info: tf.Tensor, normalization: Normalization) -> Tensors:
    ordered = normalize.reorder_channels(image, normalization.channel_order)
    mean, std = tuple(normalization.mean), tuple(normalization.std)
    normalized = _normalize(ordered, image_info, mean=mean, std=std)
    return {"image": normalized, "image_info": image_info}


_normalize = lookup.compiled(normalize.normalize_image)


def _random_seed() -> tf.Tensor:
    """Drawn where the pipeline runs, so that no two processes draw the same: int64 [2]."""
    return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int64)


def _finish(
    dataset: tf.data.Dataset, *, deterministic: bool, service: Optional[DataService] = None
) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = deterministic
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.with_options(options)
    if service is not None:
        dataset = service.distribute(dataset)
    return dataset.prefetch(tf.data.AUTOTUNE)
