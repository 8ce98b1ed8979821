"""The input pipeline of every system: records in, batches of (features, labels) out.

train:    read -> decode -> random geometry -> photometric -> normalise -> targets -> batch
evaluate: read -> decode -> fit and pad -> normalise; labels are the annotation in its own frame
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Mapping, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf import addons
from panoptic_tf.datasets import record
from panoptic_tf.inputs import geometry, instances, lookup, normalize, photometric
from panoptic_tf.structures import GroundTruth, InstanceAnnotations, PanopticSample, Tensors

TargetGenerator = Callable[[PanopticSample], Tuple[Tensors, Tensors]]
"""Maps a sample in the network's frame to (additional features, labels) of static shapes."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to an image; the defaults leave it alone but for fitting it in.

    Attributes:
      scale_min, scale_max: range of the scale, 1 being the one that just fits the image.
      flip_horizontally, flip_vertically: whether to flip half of the images.
      brightness, contrast, saturation, hue: see `photometric.jitter_colors`.
      policy: `core`, or `addons`: `addons.augment_sample` between geometry and colours.
      addons: keyword arguments of that.

    Raises:
      ValueError: an unknown policy.
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

    def __post_init__(self):
        if self.policy not in ("core", "addons"):
            raise ValueError(f"augmentation.policy must be core or addons, got {self.policy!r}.")
        if self.policy == "addons":
            addons.require("augmentation.policy 'addons'")


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Keyword arguments of `normalize.normalize_image`."""

    mean: Sequence[float]
    std: Sequence[float]
    channel_order: str = "RGB"


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
    input_context: Optional[tf.distribute.InputContext] = None,
) -> tf.data.Dataset:
    """Endless shuffled batches.

    Args:
      input_path: file pattern of the records.
      thing_ids: contiguous ids of the thing categories.
      network_size: static (height, width).
      normalization: how pixel values become the network's input.
      augmentation: geometry and colours.
      target_generator: the system's targets, called inside tf.data.
      batch_size: images of one replica's (or worker's) batch.
      shuffle_buffer_size: images that are shuffled among each other.
      max_examples: use only the first so many records; 0 uses all.
      cache: keep decoded images in memory after the first pass.
      seed: makes order and augmentation repeatable, and those of several workers together the same
        as one process's: each reads all records and takes its rows of every global batch.
      with_instances: whether samples hold `instances`: those of the record, which may overlap, or
        derived from the id map where the record has none.
      input_context: this worker's share under tf.distribute.

    Returns:
      Dataset of (features, labels); features hold `image` float32 [B, H, W, 3] and `image_info`
      float32 [B, 4, 2] beside what the target generator adds.

    Raises:
      ValueError: no file matches.
    """
    by_rows = None if seed is None else input_context
    shards = input_context if seed is None else None
    examples = _read(input_path, shards, max_examples, seed=seed, shuffle_files=True)
    examples = _shuffle_and_decode(
        examples,
        shuffle_buffer_size,
        cache=cache,
        seed=seed,
        number=lambda dataset: _number(dataset, by_rows, batch_size),
    )
    first_seed = tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int64) if seed is None else seed
    pipeline_id = 0 if shards is None else shards.input_pipeline_id

    def prepare(index: tf.Tensor, example: Tensors) -> Tuple[Tensors, Tensors]:
        sample = _augment(
            example,
            thing_ids,
            seed=tf.stack([tf.cast(first_seed, tf.int64) + pipeline_id, index]),
            network_size=network_size,
            augmentation=augmentation,
            with_instances=with_instances,
        )
        features = _features(sample.image, sample.image_info, normalization)
        additional, labels = target_generator(sample)
        return {**features, **additional}, labels

    batches = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.batch(batch_size, drop_remainder=True)
    return _finish(batches, deterministic=seed is not None)


def build_evaluation_dataset(
    *,
    input_path: str,
    thing_ids: Sequence[int],
    network_size: geometry.Size,
    normalization: Normalization,
    batch_size: int,
    max_examples: int = 0,
    with_instances: bool = False,
    input_context: Optional[tf.distribute.InputContext] = None,
) -> tf.data.Dataset:
    """One pass in the order of the records; arguments as in `build_training_dataset`.

    Of several workers, worker w of W reads the records w, w + W, w + 2W, ...

    Returns:
      Dataset of (features, labels); labels have the keys of `structures.GroundTruth`, each image in
      its own frame, padded with void to the largest of the batch. `INSTANCE_KEYS` are among them
      only `with_instances`: the masks of the record as they are stored.
    """
    examples = _read(input_path, input_context, max_examples, seed=None, shuffle_files=False)

    def prepare(serialized: tf.Tensor) -> Tuple[Tensors, Tensors]:
        example = _decode(serialized)
        sample = _to_sample(example, thing_ids, with_instances=False)
        image, image_info = geometry.fit_and_pad(sample.image, network_size)
        labels = {
            GroundTruth.CATEGORY_MASK: sample.category_mask,
            GroundTruth.INSTANCE_MASK: sample.instance_mask,
            GroundTruth.CROWD_MASK: sample.crowd_mask,
            GroundTruth.IMAGE_SIZE: tf.shape(sample.category_mask),
            GroundTruth.IMAGE_ID: sample.image_id,
        }
        if with_instances:
            labels.update(_instance_labels(example))
        return _features(image, image_info, normalization), labels

    prepared = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
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
    sample = _to_sample(_with_image(example), thing_ids, with_instances=with_instances)
    return sample._replace(image=tf.cast(sample.image, tf.float32))


def _read(
    input_path: str,
    input_context: Optional[tf.distribute.InputContext],
    max_examples: int,
    *,
    seed: Optional[int],
    shuffle_files: bool,
) -> tf.data.Dataset:
    paths = sorted(tf.io.gfile.glob(input_path))
    if not paths:
        raise ValueError(
            f"no file matches input_path {input_path!r}; expected the records of `convert`."
        )
    shards, index = 1, 0
    if input_context is not None:
        shards, index = input_context.num_input_pipelines, input_context.input_pipeline_id
    if max_examples or len(paths) < shards or not shuffle_files:
        records = tf.data.TFRecordDataset(paths)
        records = records.take(max_examples) if max_examples else records
        return records.shard(shards, index)
    files = tf.data.Dataset.from_tensor_slices(paths).shard(shards, index)
    files = files.shuffle(len(paths), seed=seed)
    return files.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(8, len(paths)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=seed is not None,
    )


def _shuffle_and_decode(
    examples: tf.data.Dataset,
    buffer_size: int,
    *,
    cache: bool,
    seed: Optional[int],
    number: Callable[[tf.data.Dataset], tf.data.Dataset],
) -> tf.data.Dataset:
    """Endless (number, decoded record) in random order."""
    if cache:
        decoded = examples.map(_decode, num_parallel_calls=tf.data.AUTOTUNE).cache()
        return number(decoded.shuffle(buffer_size, seed=seed).repeat())
    # The buffer holds records as they are stored, not pixels.
    numbered = number(examples.shuffle(buffer_size, seed=seed).repeat())
    return numbered.map(
        lambda index, serialized: (index, _decode(serialized)), num_parallel_calls=tf.data.AUTOTUNE
    )


def _number(
    dataset: tf.data.Dataset, by_rows: Optional[tf.distribute.InputContext], batch_size: int
) -> tf.data.Dataset:
    """(number, element); of the global batches only the rows of this worker, where it has some."""
    numbered = dataset.enumerate()
    if by_rows is None or by_rows.num_input_pipelines == 1:
        return numbered
    workers, worker = by_rows.num_input_pipelines, by_rows.input_pipeline_id
    rows = batch_size * by_rows.num_replicas_in_sync // workers
    return numbered.filter(lambda index, _: index // rows % workers == worker)


def _decode(serialized: tf.Tensor) -> Tensors:
    return _with_image(record.decode_example(serialized))


def _with_image(example: Tensors) -> Tensors:
    """Replaces the bytes of the image by its pixels, uint8 [H, W, 3]."""
    decoded = dict(example)
    image = tf.io.decode_image(decoded.pop("image_bytes"), channels=3, expand_animations=False)
    decoded["image"] = tf.ensure_shape(image, [None, None, 3])
    return decoded


def _to_sample(
    example: Tensors,
    thing_ids: Sequence[int],
    *,
    with_instances: bool,
    in_network_frame: bool = False,
    move: Optional[Callable[[tf.Tensor], tf.Tensor]] = None,
) -> PanopticSample:
    """Looks every pixel's category, instance and crowd flag up by its segment row.

    `move` brings the masks that the record stores, [K, W, H], to the frame of the id map.
    """
    id_map = example["id_map"]  # int32 [H, W], segment row + 1, 0 is void
    categories = tf.concat([[0], example["segment_categories"]], axis=0)
    is_crowd = tf.concat([[False], example["segment_is_crowd"]], axis=0)
    things = tf.constant(tuple(thing_ids) or (-1,), tf.int32)
    is_thing = tf.reduce_any(categories[:, tf.newaxis] == things, axis=1)
    tables = [lookup.pad_table(table) for table in (categories, is_thing, is_crowd)]
    # Each size is compiled anew: worth it for the network's, not for those of all images.
    look_up = _look_up_compiled if in_network_frame else _look_up
    category_mask, instance_mask, crowd_mask = look_up(id_map, *tables)
    sample = PanopticSample(
        image=example["image"],
        image_info=tf.zeros([4, 2]),
        category_mask=category_mask,
        instance_mask=instance_mask,
        crowd_mask=crowd_mask,
        image_id=example["image_id"],
    )
    if not with_instances:
        return sample
    own_instances = tf.cond(
        example["has_instances"],
        lambda: _stored_instances(example, move),
        lambda: instances.instances_of_id_map(sample.instance_mask, categories, is_crowd),
    )
    return sample._replace(instances=own_instances)


def _look_up(
    id_map: tf.Tensor, categories: tf.Tensor, is_thing: tf.Tensor, is_crowd: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    instance_mask = tf.where(tf.gather(is_thing, id_map), id_map, 0)
    return tf.gather(categories, id_map), instance_mask, tf.gather(is_crowd, id_map)


_look_up_compiled = lookup.compiled(_look_up)


def _stored_instances(
    example: Tensors, move: Optional[Callable[[tf.Tensor], tf.Tensor]]
) -> InstanceAnnotations:
    masks = record.decode_instance_masks(
        example["instance_rles"],
        example["height"],
        example["width"],
        transposed=move is not None,
    )
    return InstanceAnnotations(
        move(masks) if move else masks,
        example["instance_categories"],
        example["instance_is_crowd"],
    )


def _instance_labels(example: Tensors) -> Tensors:
    """The stored instances, not decoded; -1 of them says that the record has none of its own."""
    count = tf.where(example["has_instances"], tf.size(example["instance_rles"]), -1)
    return {
        GroundTruth.INSTANCE_RLES: example["instance_rles"],
        GroundTruth.INSTANCE_CATEGORIES: example["instance_categories"],
        GroundTruth.INSTANCE_IS_CROWD: example["instance_is_crowd"],
        GroundTruth.NUM_INSTANCES: count,
    }


def _augment(
    example: Tensors,
    thing_ids: Sequence[int],
    *,
    seed: tf.Tensor,
    network_size: geometry.Size,
    augmentation: Augmentation,
    with_instances: bool,
) -> PanopticSample:
    """A decoded record in the network's frame, by draws that depend on the seed, int64 [2], alone.

    What is looked up by pixel comes after the crop.
    """
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
    sample = _to_sample(
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


def _features(image: tf.Tensor, image_info: tf.Tensor, normalization: Normalization) -> Tensors:
    ordered = normalize.reorder_channels(image, normalization.channel_order)
    mean, std = tuple(normalization.mean), tuple(normalization.std)
    normalized = _normalize(ordered, image_info, mean=mean, std=std)
    return {"image": normalized, "image_info": image_info}


_normalize = lookup.compiled(normalize.normalize_image)


def _finish(dataset: tf.data.Dataset, *, deterministic: bool) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = deterministic
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
