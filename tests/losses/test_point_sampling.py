"""Samples at points, beside plain loops over the four cells around each."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.losses.point_sampling import (
    choose_uncertain,
    draw_points,
    sample,
    sample_segments,
)
from panoptic_tf.ops import forms


def bilinear(image, y, x):
    """Of one channel at (y, x) in 0..1; zeros outside."""
    height, width = image.shape
    y, x = y * height - 0.5, x * width - 0.5
    total = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return total


def draw(seed=0, batch=2, size=(5, 7), points=40):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(batch, *size, 3)).astype(np.float32)
    places = rng.random((batch, points, 2)).astype(np.float32)
    places[:, :4] = [[0.0, 0.0], [0.999, 0.999], [0.5, 0.001], [0.3, 0.999]]
    return maps, places


def test_drawn():
    # Centers of the cells of a 1 x 2 map lie at x = 1/4 and 3/4; half way to the border on either
    # side what is outside has a half.
    maps = tf.constant([[[[2.0], [6.0]]]])
    x = np.array([0.25, 0.75, 0.5, 0.0, 1.0])
    points = tf.constant(np.stack([np.full(5, 0.5), x], axis=-1)[np.newaxis], tf.float32)
    np.testing.assert_allclose(sample(maps, points)[0, :, 0], [2, 6, 4, 1, 3])


@pytest.mark.parametrize("form", [forms.Form.ACCELERATOR, forms.Form.CPU])
def test_samples(form):
    maps, points = draw()
    with forms.use(form):
        found = sample(tf.constant(maps), tf.constant(points))
    expected = [
        [[bilinear(image[..., c], *point) for c in range(3)] for point in of_image]
        for image, of_image in zip(maps, points)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_gradient_of_samples():
    """<upstream, sample(m)> is linear in m: its gradient is that of each cell alone."""
    maps, points = draw(size=(3, 4), points=9)
    upstream = np.random.default_rng(1).normal(size=(2, 9, 3)).astype(np.float32)
    variable = tf.Variable(maps)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(upstream * sample(variable, tf.constant(points)))
    gradient = tf.convert_to_tensor(tape.gradient(total, variable)).numpy()
    for b, y, x in np.ndindex(2, 3, 4):
        cell = np.zeros([3, 4])
        cell[y, x] = 1.0
        shares = np.array([bilinear(cell, *point) for point in points[b]])
        np.testing.assert_allclose(gradient[b, y, x], shares @ upstream[b], rtol=1e-4, atol=1e-6)


def test_masks_of_segments():
    _, points = draw()
    segments = np.random.default_rng(2).integers(0, 5, (2, 9, 6)).astype(np.int32)
    samples = sample_segments(tf.constant(segments), tf.constant(points))
    numbers = np.array([[1.0, 4.0, 77.0], [3.0, 2.0, 1.0]], np.float32)
    expected = [
        [[bilinear(segments[b] == n, *point) for point in points[b]] for n in numbers[b]]
        for b in range(2)
    ]
    np.testing.assert_allclose(samples.masks(tf.constant(numbers)), expected, rtol=1e-5, atol=1e-6)
    assert np.max(expected) > 0.9


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_uncertain_points(count):
    logits = np.random.default_rng(3).normal(size=(2, 3, 20)).astype(np.float32)
    chosen = choose_uncertain(tf.constant(logits), count).numpy()
    ranks = np.argsort(np.argsort(np.abs(logits), axis=-1), axis=-1)
    np.testing.assert_array_equal(chosen, ranks < count)


def test_points_that_are_equally_uncertain_share():
    # One of the three at 1 and -1 is left to choose.
    chosen = choose_uncertain(tf.constant([[1.0, 0.5, -1.0, 3.0, 1.0]]), 2)
    np.testing.assert_allclose(chosen, [[1 / 3, 1, 1 / 3, 0, 1 / 3]], rtol=1e-5)


def test_points_of_an_image_are_its_own():
    seeds = tf.constant([[1, 2], [3, 4], [1, 2]], tf.int64)
    points = draw_points(seeds, 500)
    np.testing.assert_array_equal(points[0], points[2])
    assert np.abs(points[0] - points[1]).mean() > 0.2
    assert 0.0 <= np.min(points) and np.max(points) < 1.0
    np.testing.assert_allclose(np.mean(points[:2], axis=(0, 1)), 0.5, atol=0.05)
    np.testing.assert_array_equal(draw_points(seeds[1:2], 500)[0], points[1])
