"""What the draws of an image start from."""

import numpy as np
import tensorflow as tf

from panoptic_tf.inputs.samples import seed_feature
from panoptic_tf.structures import PanopticSample


def seed_of(image_id, seed=None):
    sample = PanopticSample(*[None] * 5, image_id=tf.constant(image_id), seed=seed)
    feature = seed_feature(sample)
    assert feature.dtype == tf.int32 and feature.shape == (2,)
    return feature.numpy().tolist()


def test_the_sample_brings_its_own():
    # int64 that int32 does not hold: modulo 2^31 - 1.
    seed = tf.constant([2**31 + 4, 2**40], tf.int64)
    assert seed_of("1", seed) == [5, 2**40 % (2**31 - 1)]
    # Of negative numbers it is none: stateless draws take any, but a sum must not overflow.
    assert min(seed_of("1", tf.constant([-(2**62), -1], tf.int64))) >= 0


def test_else_the_name_decides():
    assert seed_of("142238") == seed_of("142238")
    seeds = {tuple(seed_of(str(number))) for number in range(50)}
    assert len(seeds) == 50 and min(min(seed) for seed in seeds) >= 0
    assert np.all([second == 0 for _, second in seeds])
