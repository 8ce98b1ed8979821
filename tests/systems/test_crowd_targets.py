"""Crowds in the targets of Panoptic-DeepLab: ignored, semantic only, or learned."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.structures import PanopticSample
from panoptic_tf.systems.panoptic_deeplab.targets import PanopticDeepLabTargetGenerator

# Stuff (category 2) with a crowd of things (category 1, instance 1) in the left two columns and an
# instance (category 1, instance 2) in the right one.
CATEGORY = np.array([[1, 1, 2, 2, 1]] * 4, np.int32)
INSTANCE = np.array([[1, 1, 0, 0, 2]] * 4, np.int32)
CROWD = INSTANCE == 1


def generate(**options):
    sample = PanopticSample(
        image=tf.zeros([4, 5, 3]),
        image_info=tf.zeros([4, 2]),
        category_mask=tf.constant(CATEGORY),
        instance_mask=tf.constant(INSTANCE),
        crowd_mask=tf.constant(CROWD),
        image_id=tf.constant("1"),
    )
    features, labels = PanopticDeepLabTargetGenerator(sigma=1, **options)(sample)
    assert features == {}
    return {key: value.numpy() for key, value in labels.items()}


def test_crowd_is_void_to_every_loss_by_default():
    labels = generate()
    np.testing.assert_array_equal(labels["category_mask"], np.where(CROWD, 0, CATEGORY))
    assert not labels["center_weights"][CROWD].any()
    assert not labels["offset_weights"][CROWD].any()
    assert labels["center_weights"][~CROWD].all()


def test_crowd_is_semantic_only_as_in_the_reference():
    labels = generate(ignore_crowd_in_semantic=False)
    np.testing.assert_array_equal(labels["category_mask"], CATEGORY)
    assert not labels["center_weights"][CROWD].any()
    assert not labels["offset_weights"][CROWD].any()


def test_learned_crowd_is_like_an_instance():
    labels = generate(ignore_crowd_in_semantic=False, learn_crowds=True)
    np.testing.assert_array_equal(labels["category_mask"], CATEGORY)
    assert labels["center_weights"].all()
    np.testing.assert_array_equal(labels["offset_weights"][..., 0] > 0, INSTANCE > 0)
    # Center of mass of the crowd: row 1.5, column 0.5; offsets are center minus pixel.
    np.testing.assert_allclose(labels["offsets"][0, 0], [1.5, 0.5])
    np.testing.assert_allclose(labels["offsets"][3, 1], [-1.5, -0.5])


def test_learned_crowd_needs_a_category():
    with pytest.raises(ValueError, match="ignore_crowd_in_semantic"):
        PanopticDeepLabTargetGenerator(learn_crowds=True)
