"""The augmentation policy in the pipeline: its hook, its seeds, and that core is what it was."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf import addons
from panoptic_tf.inputs import pipeline

SIZE = (24, 32)
THING_IDS = (1, 2)
COLORS = {"brightness": 0.1, "contrast": 0.1, "flip_horizontally": True, "scale_max": 1.5}
ALWAYS = {f"{n}_probability": 1.0 for n in ("rotation", "shear", "cutout", "sharpness")}


def targets(sample):
    labels = {"category": sample.category_mask, "instance": sample.instance_mask}
    if sample.instances is not None:
        labels["visible"] = tf.reduce_max(
            tf.concat([sample.instances.masks, tf.zeros([1, *SIZE], tf.uint8)], 0), 0
        )
    return {"seed": sample.seed}, labels


def batches(input_path, **options):
    with_instances = options.pop("with_instances", False)
    dataset = pipeline.build_training_dataset(
        input_path=input_path,
        thing_ids=THING_IDS,
        network_size=SIZE,
        normalization=pipeline.Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
        augmentation=pipeline.Augmentation(**COLORS, **options),
        target_generator=targets,
        batch_size=3,
        seed=7,
        with_instances=with_instances,
    )
    return list(dataset.take(4).as_numpy_iterator())


def equal(one, other):
    same = tf.nest.map_structure(np.array_equal, one, other)
    return all(tf.nest.flatten(same))


@pytest.fixture
def installed():
    try:
        addons.require("this test")
    except ImportError as error:
        pytest.skip(f"needs the extra: {error}")


def test_core_does_not_read_the_options(twelve_records):
    assert equal(batches(twelve_records), batches(twelve_records, addons=ALWAYS))


@pytest.mark.parametrize("with_instances", [False, True])
def test_the_policy_changes_images_and_masks_and_repeats(installed, twelve_records, with_instances):
    options = {"policy": "addons", "addons": ALWAYS, "with_instances": with_instances}
    first, second = (batches(twelve_records, **options) for _ in "ab")
    assert equal(first, second)
    core = batches(twelve_records, with_instances=with_instances)
    for (features, labels), (core_features, core_labels) in zip(first, core):
        np.testing.assert_array_equal(features["seed"], core_features["seed"])
        assert not np.array_equal(features["image"], core_features["image"])
        assert (labels["category"] == 0).mean() > (core_labels["category"] == 0).mean()
        if with_instances:  # derived from the id map, so they have moved as it has
            np.testing.assert_array_equal(labels["visible"] > 0, labels["instance"] > 0)


def test_nothing_of_it_changes_nothing(installed, twelve_records):
    never = {name: 0.0 for name in (*ALWAYS, "equalize_probability")}
    assert equal(batches(twelve_records), batches(twelve_records, policy="addons", addons=never))
