import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops.recompute import recompute

SHAPES = ((2, 3, 4), (4,))


def _product(x, scale):
    return tf.nn.relu(x * scale) * tf.sin(x)


def _random(dtype):
    return [
        tf.cast(tf.random.stateless_normal(shape, seed=(0, i)), dtype)
        for i, shape in enumerate(SHAPES)
    ]


def _value_and_gradients(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = function(*tensors)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    return [y, *tape.gradient(loss, tensors)]


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16])
@pytest.mark.parametrize("run", ["eager", "graph", "xla"])
def test_equals_the_function_and_its_gradient(run, dtype):
    def ours(x, scale):
        # The scale depends on x, too: each path's gradient counts once.
        scale *= tf.reduce_sum(x, axis=[0, 1])
        return recompute(_product, x, scale)

    def plain(x, scale):
        return _product(x, scale * tf.reduce_sum(x, axis=[0, 1]))

    def results(*tensors):
        return _value_and_gradients(ours, tensors)

    if run != "eager":
        results = tf.function(results, jit_compile=run == "xla", autograph=False)
    expected = _value_and_gradients(plain, _random(dtype))
    tolerance = {tf.float32: 1e-5, tf.bfloat16: 0.05, tf.float16: 0.01}[dtype]
    for a, b in zip(results(*_random(dtype)), expected):
        assert a.dtype == b.dtype == dtype
        a, b = (tf.cast(t, tf.float32).numpy() for t in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def test_the_gradient_reads_the_tensors_alone():
    @tf.function(autograph=False)
    def results(x, scale):
        return _value_and_gradients(lambda *tensors: recompute(_product, *tensors), [x, scale])

    graph = results.get_concrete_function(*[tf.TensorSpec(s) for s in SHAPES]).graph
    operators = graph.get_operations()
    sines = [op for op in operators if op.type == "Sin"]
    # Forward, and again after the gradient arrives.
    assert [bool(op.inputs[0].op.control_inputs) for op in sines] == [False, True]
    assert not [op for op in sines[0].outputs[0].consumers() if op.name.startswith("gradient")]


def test_across_the_graphs_of_forward_and_backward():
    function = tf.function(lambda x, s: recompute(_product, x, s), autograph=False)
    for a, b in zip(
        _value_and_gradients(function, _random(tf.float32)),
        _value_and_gradients(_product, _random(tf.float32)),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)
