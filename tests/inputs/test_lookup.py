import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import lookup


@pytest.mark.parametrize("rows, padded", [(0, 0), (1, 256), (256, 256), (257, 512)])
def test_tables_come_in_few_lengths(rows, padded):
    table = tf.ones([rows, 2])
    found = lookup.pad_table(table).numpy()
    assert found.shape == (padded, 2) and found.sum() == 2 * rows


def test_compiled_inside_tf_data_as_eagerly():
    @lookup.compiled
    def double(table, ids):
        return tf.gather(table, ids) * 2, ids > 0

    table = lookup.pad_table(tf.constant([5, 7, 9]))
    ids = np.array([[0, 2], [1, 1]], np.int32)
    dataset = tf.data.Dataset.from_tensors(ids).map(lambda values: double(table, values))
    for doubled, positive in (double(table, tf.constant(ids)), *dataset):
        np.testing.assert_array_equal(doubled, [[10, 18], [14, 14]])
        np.testing.assert_array_equal(positive, ids > 0)
