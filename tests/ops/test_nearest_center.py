"""The center nearest to each point, in every form and compiled by XLA."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import blocks, forms
from panoptic_tf.ops.cpu import nearest_center as cpu
from panoptic_tf.ops.nearest_center import nearest_center

SIZE = (45, 70)


@pytest.fixture(params=[*forms.registered()["nearest_center.nearest_center"], "xla"], ids=str)
def find(request):
    """The operation in a graph, arguments as of the operation."""

    @tf.function(autograph=False, jit_compile=request.param == "xla")
    def run(*args):
        with forms.use(forms.Form.ACCELERATOR if request.param == "xla" else request.param):
            return nearest_center(*args)

    return run


def nearest(points, centers, valid):
    """Every distance in float32; the first of equals, from 1 on."""
    differences = points[:, :, :, None] - centers[:, None, None]  # [B, H, W, K, 2]
    squares = np.where(valid[:, None, None], (differences**2).sum(axis=-1), np.inf)
    return np.where(valid.any(axis=1)[:, None, None], np.argmin(squares, axis=-1) + 1, 0)


# Whole numbers have exact squares: equal distances are equal.
@pytest.mark.parametrize("count", [1, 2, 8, 9, 60])
@pytest.mark.parametrize("spread", [0.2, 1.0])
@pytest.mark.parametrize("rows_at_once", [4, 1000])
def test_nearest_of_all(find, monkeypatch, count, spread, rows_at_once):
    monkeypatch.setattr(blocks, "values_at_once", lambda: rows_at_once * SIZE[1] * count)
    monkeypatch.setattr(cpu, "_DISTANCES_AT_ONCE", rows_at_once * 100 * count)
    random = np.random.default_rng(count)
    centers = np.round(random.random((3, count, 2)) * SIZE * spread).astype(np.float32)
    points = np.round(random.uniform(-0.2, 1.2, (3, *SIZE, 2)) * SIZE).astype(np.float32)
    points[:, 0, 0], points[:, 0, 1] = (-1e5, 3), (1e5, 1e5)
    valid = np.arange(count) < np.array([[count], [count // 2], [0]])
    found = find(*(tf.constant(x) for x in (points, centers, valid)))
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, nearest(points, centers, valid))


def test_only_the_points_that_count(find):
    random = np.random.default_rng(1)
    points = random.uniform(0, 45, (2, *SIZE, 2)).astype(np.float32)
    centers = random.uniform(0, 45, (2, 30, 2)).astype(np.float32)
    valid = np.arange(30) < np.array([[30], [0]])
    where = random.random((2, *SIZE)) < 0.5
    arguments = [tf.constant(x) for x in (points, centers, valid)]
    some = find(*arguments, tf.constant(where)).numpy()
    np.testing.assert_array_equal(some[where], nearest(points, centers, valid)[where])
    assert not some[1].any()
    assert find(*arguments, tf.zeros_like(where)).shape == (2, *SIZE)


def test_a_square_with_one_center_left_needs_no_comparison():
    # Squares of 8x8 pixels, centers 40 pixels apart: only squares near the middle keep both.
    centers = tf.constant([[[4.0, 4.0], [4.0, 44.0]]])
    _, is_one, is_few = cpu._near_squares(centers, (1, 6))
    assert is_one.numpy().tolist() == [True, True, False, False, True, True]
    assert is_few.numpy().all()
