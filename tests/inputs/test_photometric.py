import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs.photometric import jitter_colors

STRENGTHS = dict(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.2)


@pytest.fixture
def image():
    return tf.constant(np.random.default_rng(0).uniform(0, 255, (9, 7, 3)), tf.float32)


def test_no_strength_no_change(image):
    same = jitter_colors(image, seed=tf.constant([1, 2]))
    np.testing.assert_array_equal(same, image)


@pytest.mark.parametrize("name", sorted(STRENGTHS))
def test_each_property_changes_alone_and_stays_in_range(image, name):
    for seed in range(8):
        jittered = jitter_colors(image, seed=tf.constant([seed, 0]), **{name: STRENGTHS[name]})
        assert jittered.shape == image.shape and jittered.dtype == tf.float32
        assert jittered.numpy().min() >= 0.0 and jittered.numpy().max() <= 255.0
        assert np.abs(jittered - image).max() > 0.1


def test_largest_strengths_stay_in_range(image):
    for seed in range(8):
        jittered = jitter_colors(
            image,
            seed=tf.constant([seed, 0]),
            brightness=1.0,
            contrast=2.0,
            saturation=3.0,
            hue=0.5,
        )
        assert np.isfinite(jittered).all()
        assert jittered.numpy().min() >= 0.0 and jittered.numpy().max() <= 255.0


def test_the_seed_decides(image):
    first = jitter_colors(image, seed=tf.constant([1, 2]), **STRENGTHS)
    np.testing.assert_array_equal(
        first, jitter_colors(image, seed=tf.constant([1, 2]), **STRENGTHS)
    )
    other = jitter_colors(image, seed=tf.constant([2, 2]), **STRENGTHS)
    assert np.abs(first - other).max() > 1.0


def test_inside_tf_data_as_eagerly(image):
    dataset = tf.data.Dataset.range(4).map(
        lambda i: jitter_colors(image, seed=tf.stack([i, tf.constant(7, tf.int64)]), **STRENGTHS)
    )
    for i, ours in enumerate(dataset):
        expected = jitter_colors(image, seed=tf.constant([i, 7], tf.int64), **STRENGTHS)
        np.testing.assert_allclose(ours, expected, atol=1e-2)


def test_brightness_shifts_all_pixels_by_the_same():
    gray = tf.fill([4, 4, 3], 128.0)
    shifts = {
        float(jitter_colors(gray, seed=tf.constant([s, 0]), brightness=0.2)[0, 0, 0]) - 128.0
        for s in range(50)
    }
    assert min(shifts) < -25.0 and max(shifts) > 25.0  # towards -0.2 * 255 and 0.2 * 255
    assert all(abs(s) <= 0.2 * 255 + 1e-3 for s in shifts)


def test_gray_has_no_hue_and_no_saturation():
    ramp = tf.tile(tf.reshape(tf.linspace(0.0, 255.0, 16), [4, 4, 1]), [1, 1, 3])
    jittered = jitter_colors(ramp, seed=tf.constant([3, 4]), saturation=0.9, hue=0.5)
    np.testing.assert_allclose(jittered, ramp, atol=1e-2)
