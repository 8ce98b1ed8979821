"""A record decoded, checked, and looked up: what every pixel is."""

from __future__ import annotations

from typing import Callable, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.datasets import record, rle_decoding
from panoptic_tf.inputs import instances, lookup
from panoptic_tf.structures import GroundTruth, InstanceAnnotations, PanopticSample, Tensors


def build_decoder(
    *, num_categories: Optional[int] = None, check_rles: bool = False
) -> Callable[[tf.Tensor], Tensors]:
    """What decodes a record and checks that its parts agree.

    Args:
      num_categories: N, where larger category ids are an error.
      check_rles: whether run lengths of instances are checked.

    Returns:
      Function of a serialized record, string []; its results are those of `record.decode_example`,
      with `image` uint8 [H, W, 3] for `image_bytes`. An InvalidArgumentError says, where it runs,
      that a record cannot be decoded or does not agree with itself.
    """

    def decode(serialized: tf.Tensor) -> Tensors:
        example = with_image(record.decode_example(serialized))
        _check(example, num_categories)
        if check_rles:
            example["instance_rles"] = rle_decoding.check_rles(
                example["instance_rles"], example["height"], example["width"]
            )
        return example

    return decode


def with_image(example: Tensors) -> Tensors:
    """Replaces the bytes of the image by its pixels, uint8 [H, W, 3]."""
    decoded = dict(example)
    image = tf.io.decode_image(decoded.pop("image_bytes"), channels=3, expand_animations=False)
    decoded["image"] = tf.ensure_shape(image, [None, None, 3])
    return decoded


def without_segments(example: Tensors) -> Tensors:
    """A decoded record whose pixels are all void, and which brings no instance of its own."""
    return {
        **example,
        "id_map": tf.zeros_like(example["id_map"]),
        "has_instances": tf.constant(False),
    }


def _check(example: Tensors, num_categories: Optional[int]) -> None:
    """The first line of each message stands for itself."""
    id_map, height, width = (example[key] for key in ("id_map", "height", "width"))
    size, num_segments = tf.shape(id_map), tf.size(example["segment_ids"])
    equal, at_most = tf.debugging.assert_equal, tf.debugging.assert_less_equal
    equal(tf.shape(example["image"])[:2], size, "image and id map differ in size")
    equal(tf.stack([height, width]), size, "height and width are not those of the id map")
    at_most(tf.reduce_max(id_map), num_segments, "the id map holds a segment that is not listed")
    for name, count in (("segment", num_segments), ("instance", tf.size(example["instance_rles"]))):
        categories, is_crowd = example[f"{name}_categories"], example[f"{name}_is_crowd"]
        lengths = tf.stack([tf.size(categories), tf.size(is_crowd)])
        equal(lengths, count, f"the columns of the {name}s differ in length")
        tf.debugging.assert_positive(categories, f"a {name} has a category id below 1")
        if num_categories is not None:
            at_most(categories, num_categories, f"a {name} has a category id over {num_categories}")


def to_sample(
    example: Tensors,
    thing_ids: Sequence[int],
    *,
    with_instances: bool,
    in_network_frame: bool = False,
    move: Optional[Callable[[tf.Tensor], tf.Tensor]] = None,
) -> PanopticSample:
    """Looks every pixel's category, instance and crowd flag up by its segment row.

    Args:
      example: what `build_decoder`'s function returns.
      thing_ids: contiguous ids of the thing categories.
      with_instances: whether the sample holds `instances`.
      in_network_frame: whether the id map has the network's size, for which XLA compiles once.
      move: brings the masks that the record stores, [K, W, H], to the frame of the id map.
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


def instance_labels(example: Tensors) -> Tensors:
    """The stored instances, not decoded; -1 of them says that the record has none of its own."""
    count = tf.where(example["has_instances"], tf.size(example["instance_rles"]), -1)
    return {
        GroundTruth.INSTANCE_RLES: example["instance_rles"],
        GroundTruth.INSTANCE_CATEGORIES: example["instance_categories"],
        GroundTruth.INSTANCE_IS_CROWD: example["instance_is_crowd"],
        GroundTruth.NUM_INSTANCES: count,
    }


def seed_feature(sample: PanopticSample) -> tf.Tensor:
    """What an image's draws in the network start from, for a system's target generator.

    A sample's own seed, drawn anew each time the image comes; of a sample without one the name of
    the image decides. So a draw depends neither on the batch nor on the replica that the image is
    in.

    Args:
      sample: any.

    Returns:
      int32 [2], 0 and above: for `tf.random.stateless_*`.
    """
    if sample.seed is not None:
        return tf.cast(sample.seed % (2**31 - 1), tf.int32)
    number = tf.strings.to_hash_bucket_fast(sample.image_id, 2**31 - 1)
    return tf.stack([tf.cast(number, tf.int32), 0])
