import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs.instances import instance_table, instances_of_id_map


def expected_table(ids, categories, crowd):
    """One row per id, by a loop over ids and pixels."""
    rows = []
    for number in range(1, ids.max() + 1):
        ys, xs = np.nonzero(ids == number)
        if not len(ys):
            rows.append((0, (0, 0), (0, 0, 0, 0), 0, False))
            continue
        first = ys[0], xs[0]
        rows.append(
            (
                len(ys),
                (sum(map(float, ys)) / len(ys), sum(map(float, xs)) / len(xs)),
                (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1),
                categories[first],
                crowd[first],
            )
        )
    return rows


def assert_equal(table, rows):
    assert table.areas.shape[0] == len(rows)
    if not rows:
        return
    areas, centers, boxes, categories, crowds = zip(*rows)
    np.testing.assert_array_equal(table.areas, areas)
    np.testing.assert_allclose(table.centers, centers, rtol=1e-12)
    np.testing.assert_array_equal(table.boxes, boxes)
    np.testing.assert_array_equal(table.categories, categories)
    np.testing.assert_array_equal(table.is_crowd, crowds)


@pytest.mark.parametrize("size", [(1, 1), (13, 9), (40, 64)])
@pytest.mark.parametrize("seed", range(4))
def test_against_loops(size, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 9, size).astype(np.int32) * (rng.random(size) < 0.5)
    ids[ids == 3] = 0  # an id that does not occur
    ids = ids.astype(np.int32)
    categories = np.concatenate([[0], rng.integers(1, 6, 9)]).astype(np.int32)[ids]
    crowd = np.concatenate([[False], rng.random(9) < 0.4])[ids]
    rows = expected_table(ids, categories, crowd)
    assert_equal(instance_table(*map(tf.constant, (ids, categories, crowd))), rows)
    graph = tf.function(
        instance_table,
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.bool),
        ],
    )
    assert_equal(graph(ids, categories, crowd), rows)


def test_no_instance():
    zeros = tf.zeros([5, 6], tf.int32)
    table = instance_table(zeros, zeros + 3, zeros > 0)
    assert table.areas.shape == (0,) and table.boxes.shape == (0, 4)


def test_drawn():
    # Instance 1 is an L of three pixels, instance 2 a crowd of one.
    ids = np.array([[1, 0, 0], [1, 1, 2]], np.int32)
    categories = np.where(ids == 1, 4, np.where(ids == 2, 7, 9)).astype(np.int32)
    table = instance_table(ids, categories, ids == 2)
    np.testing.assert_array_equal(table.areas, [3, 1])
    np.testing.assert_allclose(table.centers, [[2 / 3, 1 / 3], [1, 2]])
    np.testing.assert_array_equal(table.boxes, [[0, 0, 2, 2], [1, 2, 2, 3]])
    np.testing.assert_array_equal(table.categories, [4, 7])
    np.testing.assert_array_equal(table.is_crowd, [False, True])


def test_masks_of_an_id_map():
    #   1 1 3        ids of four segments, of which 2 has no pixel and 4 is stuff: no instance
    #   0 3 3
    instance_mask = tf.constant([[1, 1, 3], [0, 3, 3]])
    categories, is_crowd = (
        tf.constant([0, 7, 7, 8, 9]),
        tf.constant([False, False, True, True, False]),
    )
    for run in (instances_of_id_map, tf.function(instances_of_id_map)):
        found = run(instance_mask, categories, is_crowd)
        assert found.masks.dtype == tf.uint8
        np.testing.assert_array_equal(found.masks, [[[1, 1, 0], [0, 0, 0]], [[0, 0, 1], [0, 1, 1]]])
        assert found.categories.numpy().tolist() == [7, 8]
        assert found.is_crowd.numpy().tolist() == [False, True]
    nothing = instances_of_id_map(tf.zeros([2, 3], tf.int32), categories, is_crowd)
    assert nothing.masks.shape == (0, 2, 3) and nothing.categories.shape == (0,)
