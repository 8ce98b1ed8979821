import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import operators
from panoptic_tf.postprocess import grouping, nearest_center


def nearest(points, image, centers):
    """Every distance in float32; the first of equals."""
    differences = points[:, None] - centers[image]  # [M, K, 2]
    return np.argmin((differences**2).sum(axis=-1), axis=1)


# Whole numbers have exact squares: equal distances are equal.
@pytest.mark.parametrize("count", [1, 2, 8, 9, 60])
@pytest.mark.parametrize("spread", [0.2, 1.0])
@pytest.mark.parametrize("values_at_once", [1, 100, 2**22])
def test_nearest_of_all(count, spread, values_at_once):
    random = np.random.default_rng(count)
    size = (70, 45)
    centers = np.round(random.random((2, count, 2)) * size * spread).astype(np.float32)
    points = np.round(random.uniform(-0.2, 1.2, (150, 2)) * size).astype(np.float32)
    points[0], points[1] = (-1e5, 3), (1e5, 1e5)
    image = random.integers(0, 2, 150).astype(np.int32)
    found = nearest_center.find_nearest(
        tf.constant(points),
        tf.constant(image),
        tf.constant(centers),
        size=size,
        values_at_once=values_at_once,
    )
    np.testing.assert_array_equal(found, nearest(points, image, centers))


def test_a_square_with_one_center_left_needs_no_comparison():
    # Squares of 8x8 pixels, centers 40 pixels apart: only squares near the middle keep both.
    centers = tf.constant([[[4.0, 4.0], [4.0, 44.0]]])
    _, is_one, is_few = nearest_center._near_squares(centers, (1, 6))
    assert is_one.numpy().tolist() == [True, True, False, False, True, True]
    assert is_few.numpy().all()


@pytest.mark.parametrize("window", [1, 3, 5, 7, 41])
@pytest.mark.parametrize("axis", [1, 2])
def test_largest_in_a_window(window, axis):
    x = np.random.default_rng(0).normal(size=(2, 9, 60)).astype(np.float32)
    found = grouping._largest_around(tf.constant(x), window, axis=axis).numpy()
    reach = window // 2
    for i in range(x.shape[axis]):
        part = np.take(x, range(max(i - reach, 0), min(i + reach + 1, x.shape[axis])), axis=axis)
        np.testing.assert_array_equal(np.take(found, i, axis=axis), part.max(axis=axis))


def test_only_the_pixels_that_count():
    random = np.random.default_rng(1)
    offsets = tf.constant(random.normal(0, 9, (2, 20, 30, 2)), tf.float32)
    heatmap = random.random((2, 20, 30)).astype(np.float32)
    heatmap[1] = 0.0
    centers = grouping.find_centers(tf.constant(heatmap), threshold=0.1, nms_kernel=5, top_k=30)
    where = random.random((2, 20, 30)) < 0.5
    everywhere = grouping.group_pixels(offsets, centers).numpy()
    some = grouping.group_pixels(offsets, centers, tf.constant(where)).numpy()
    np.testing.assert_array_equal(some[where], everywhere[where])
    assert not some[1].any()
    nowhere = grouping.group_pixels(offsets, centers, tf.zeros_like(where))
    assert not nowhere.numpy().any()


def test_the_portable_form_is_the_same():
    random = np.random.default_rng(2)
    offsets = tf.constant(random.normal(0, 9, (1, 20, 30, 2)), tf.float32)
    heatmap = tf.constant(random.random((1, 20, 30)), tf.float32)
    centers = grouping.find_centers(heatmap, threshold=0.1, nms_kernel=5, top_k=30)
    ours = grouping.group_pixels(offsets, centers)
    with operators.builtin_operators_only():
        np.testing.assert_array_equal(grouping.group_pixels(offsets, centers), ours)
