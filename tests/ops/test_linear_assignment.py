"""Linear assignment: beside SciPy's and all permutations."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from panoptic_tf.ops.linear_assignment import linear_assignment

in_graph = tf.function(linear_assignment, autograph=False)


def check(costs, valid, found, *, is_unique):
    """Each matrix has a column of its own for each valid row, at the smallest sum."""
    for c, v, columns in zip(costs, valid, found.numpy()):
        rows = np.flatnonzero(v)
        _, expected = linear_sum_assignment(c[rows].astype(np.float64))
        assert (columns[~v] == -1).all()
        assert len(set(columns[rows])) == len(rows)
        assert ((columns[rows] >= 0) & (columns[rows] < c.shape[1])).all()
        np.testing.assert_allclose(
            c[rows, columns[rows]].sum(), c[rows, expected].sum(), rtol=1e-6, atol=1e-6
        )
        if is_unique:
            np.testing.assert_array_equal(columns[rows], expected)


def draw(matrices, rows, columns, *, valid=1.0, seed=0):
    rng = np.random.default_rng(seed)
    costs = rng.normal(size=(matrices, rows, columns)).astype(np.float32)
    # Rows that want the same columns: long paths.
    costs += 5.0 * rng.random((matrices, rows, 1), np.float32) * rng.random((1, columns))
    return costs.astype(np.float32), rng.random((matrices, rows)) < valid


def test_drawn():
    # Both rows are nearest to the first column, and the second loses less by giving it up.
    costs = tf.constant([[1.0, 5.0, 9.0], [2.0, 3.0, 9.0]])
    np.testing.assert_array_equal(linear_assignment(costs, tf.constant([True, True])), [0, 1])
    np.testing.assert_array_equal(linear_assignment(costs, tf.constant([False, True])), [-1, 0])
    np.testing.assert_array_equal(linear_assignment(costs, tf.constant([False, False])), [-1, -1])


@pytest.mark.parametrize(
    "sizes", [(3, 1, 1), (4, 1, 7), (6, 5, 5), (20, 14, 30), (3, 40, 40)], ids=str
)
@pytest.mark.parametrize("valid", [1.0, 0.7])
def test_as_scipy(sizes, valid):
    costs, is_valid = draw(*sizes, valid=valid)
    check(costs, is_valid, in_graph(costs, is_valid), is_unique=True)


def test_compiled():
    compiled = tf.function(linear_assignment, autograph=False, jit_compile=True)
    costs, valid = draw(20, 14, 30, valid=0.8)
    check(costs, valid, compiled(costs, valid), is_unique=True)
    costs[3:6, 2] = np.nan
    np.testing.assert_array_equal(compiled(costs, valid), in_graph(costs, valid))


def test_a_hundred_of_a_hundred():
    costs, valid = draw(2, 100, 100)
    check(costs, valid, in_graph(costs, valid), is_unique=True)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_every_permutation(data):
    """Few distinct costs, so that there are ties: the sum is the smallest of all."""
    size = st.lists(st.integers(-2, 2), min_size=30, max_size=30)
    costs = np.reshape(data.draw(size), [5, 6]).astype(np.float32)
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=5, max_size=5)))
    columns = in_graph(costs, valid).numpy()
    rows = np.flatnonzero(valid)
    sums = [costs[rows, list(p)].sum() for p in itertools.permutations(range(6), len(rows))]
    assert len(set(columns[rows])) == len(rows) and (columns[~valid] == -1).all()
    assert costs[rows, columns[rows]].sum() == min(sums)


def test_equal_costs():
    costs = np.zeros([2, 4, 6], np.float32)
    valid = np.array([[True] * 4, [True, False, True, True]])
    check(costs, valid, in_graph(costs, valid), is_unique=False)


def test_axes_before_the_matrix():
    costs, valid = draw(6, 3, 5, valid=0.8)
    found = in_graph(costs.reshape(2, 3, 3, 5), valid.reshape(2, 3, 3))
    assert found.shape == [2, 3, 3] and found.dtype == tf.int64
    check(costs, valid, tf.reshape(found, [6, 3]), is_unique=True)


def test_sizes_that_only_a_step_knows():
    function = tf.function(
        linear_assignment,
        autograph=False,
        input_signature=[tf.TensorSpec([None, None, None]), tf.TensorSpec([None, None], tf.bool)],
    )
    for sizes in ((2, 3, 5), (1, 4, 4), (0, 3, 5)):
        costs, valid = draw(*sizes)
        check(costs, valid, function(costs, valid), is_unique=True)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_other_dtypes(dtype):
    costs, valid = draw(4, 5, 9)
    costs = tf.cast(costs, dtype)
    found = in_graph(costs, valid)
    check(tf.cast(costs, tf.float64).numpy(), valid, found, is_unique=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_costs_that_are_not_finite_are_taken_last(bad):
    costs, valid = draw(2, 3, 5)
    costs[0, 1] = bad  # a whole row: any column that the others leave
    costs[1, :, 1:4] = bad  # three columns, where three rows have two others: one must take such
    columns = in_graph(costs, valid).numpy()
    assert all(len(set(row)) == 3 and (row >= 0).all() for row in columns)
    _, others = linear_sum_assignment(costs[0, [0, 2]])
    np.testing.assert_array_equal(columns[0, [0, 2]], others)
    assert np.isfinite(costs[1, range(3), columns[1]]).sum() == 2


def test_large_and_small_costs():
    costs, valid = draw(3, 6, 8)
    check(1e5 * costs, valid, in_graph(1e5 * costs, valid), is_unique=True)
    check(1e-6 * costs, valid, in_graph(1e-6 * costs, valid), is_unique=True)


def test_more_rows_than_columns():
    with pytest.raises(ValueError, match=r"at least as many columns as rows, got \(3, 2\)"):
        linear_assignment(tf.zeros([3, 2]), tf.constant([True] * 3))
