import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs.instances import (
    choose_instances,
    column_counts,
    instance_table,
    instances_of_id_map,
    row_of_id,
)
from panoptic_tf.structures import InstanceAnnotations


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


def test_the_largest_instances_of_an_id_map(make_sample):
    # Id 1 has five pixels, 2 is gone, 3 has three, 4 five, 5 is a crowd and 6 stuff.
    ids = np.array(
        [
            [1, 1, 1, 4, 4],
            [1, 1, 0, 4, 4],
            [3, 3, 3, 4, 0],
            [5, 5, 5, 5, 5],
            [5, 6, 6, 6, 6],
        ],
        np.int32,
    )
    sample = make_sample(5, 5)._replace(
        category_mask=tf.constant(np.array([8, 7, 0, 2, 2, 7, 8], np.int32)[ids]),
        instance_mask=tf.constant(ids),
        crowd_mask=tf.constant(ids == 5),
    )
    chosen = choose_instances(sample, thing_ids=(2, 7), max_instances=4)
    assert chosen.rows.numpy().tolist() == [0, 3, 2]
    assert chosen.classes.numpy().tolist() == [1, 0, 0, 0]
    assert chosen.valid.numpy().tolist() == [True, True, True, False]
    boxes = [[0, 0, 2, 3], [0, 3, 3, 5], [2, 0, 3, 3], [0, 0, 0, 0]]
    np.testing.assert_array_equal(chosen.boxes, boxes)
    rows = row_of_id(sample.instance_mask, chosen.rows)
    assert rows.numpy().tolist() == [-1, 0, -1, 2, 1, -1, -1]

    fewer = choose_instances(sample, thing_ids=(2, 7), max_instances=2)
    assert fewer.rows.numpy().tolist() == [0, 3] and fewer.valid.numpy().all()


def test_no_instance_is_chosen(make_sample):
    sample = make_sample(5, 6)._replace(instance_mask=tf.zeros([5, 6], tf.int32))
    record = InstanceAnnotations(
        tf.zeros([0, 5, 6], tf.uint8), tf.zeros([0], tf.int32), tf.zeros([0], tf.bool)
    )
    for instances in (None, record):
        chosen = choose_instances(
            sample._replace(instances=instances), thing_ids=(1, 2), max_instances=3
        )
        assert chosen.rows.shape == (0,) and chosen.boxes.shape == (3, 4)
        assert not chosen.valid.numpy().any()
    assert row_of_id(sample.instance_mask, chosen.rows).numpy().tolist() == [-1]


@pytest.mark.parametrize("size", [(40, 64), (31, 37), (7, 1)])
def test_the_largest_instances_of_a_record(make_sample, size):
    rng = np.random.default_rng(0)
    masks = rng.random((9, *size)) < rng.uniform(0, 0.5, (9, 1, 1))
    masks[3] = False  # cropped away
    masks[:, :2] = masks[:4, :, 1:3] = False
    masks[8, size[0] // 2, 0] = True
    categories = np.array([1, 2, 3, 1, 2, 1, 2, 1, 2], np.int32)  # 3 is stuff
    is_crowd = np.arange(9) == 5
    sample = make_sample(*size)._replace(
        instances=InstanceAnnotations(
            tf.constant(masks.astype(np.uint8)), tf.constant(categories), tf.constant(is_crowd)
        )
    )
    usable = [i for i in (0, 1, 4, 6, 7, 8) if masks[i].any()]
    expected = sorted(usable, key=lambda i: -masks[i].sum())
    chosen = choose_instances(sample, thing_ids=(1, 2), max_instances=8)
    assert chosen.rows.numpy().tolist() == expected
    assert chosen.valid.numpy().sum() == len(expected)
    for row, i in enumerate(expected):
        assert chosen.classes[row] == categories[i] - 1
        ys, xs = np.nonzero(masks[i])
        box = [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]
        np.testing.assert_array_equal(chosen.boxes[row], box)


@pytest.mark.parametrize("size", [(1, 1), (13, 9), (127, 8), (254, 3), (1000, 5)])
def test_pixels_in_columns(size):
    masks = (np.random.default_rng(0).random((3, *size)) < 0.9).astype(np.uint8)
    masks[2] = 1
    np.testing.assert_array_equal(column_counts(tf.constant(masks)), masks.sum(axis=1, dtype=int))
    assert column_counts(tf.zeros([0, *size], tf.uint8)).shape == (0, size[1])
