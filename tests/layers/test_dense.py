"""The dense layer over the last axis."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers.dense import Dense


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3), (2, 4, 5, 3)])
def test_every_cell_is_a_row_of_one_product(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer = Dense(6, activation="relu", bias_initializer="normal")
    run = tf.function(layer, autograph=False)
    found = run.get_concrete_function(tf.TensorSpec([None, *shape[1:]]))
    expected = np.maximum(x @ layer.kernel.numpy() + layer.bias.numpy(), 0.0)
    np.testing.assert_allclose(found(tf.constant(x)), expected, rtol=1e-5, atol=1e-6)
    assert found.structured_outputs.shape.as_list() == [None, *shape[1:-1], 6]
    kinds = [op.type for op in found.graph.get_operations()]
    assert kinds.count("MatMul") == 1 and kinds.count("Reshape") == 2 * (len(shape) > 2)
    assert not {"Tensordot", "GatherV2", "Prod", "Transpose"} & set(kinds)


def test_it_is_read_back_from_its_config():
    layer = tf.keras.layers.deserialize(tf.keras.layers.serialize(Dense(6, use_bias=False)))
    assert type(layer) is Dense and layer.units == 6 and not layer.use_bias
