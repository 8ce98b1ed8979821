"""The size of a small step, counted by hand."""

import tensorflow as tf
import traced
from budget import measure


def test_what_is_kept():
    # The exponential, 4 x 3 values, is read by its own gradient and by that of the product: once
    # 48 bytes. The square's gradient reads an argument.
    weight = tf.Variable(tf.ones([3, 2]))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.exp(tf.square(x) * 3.0)
            loss = tf.reduce_sum(tf.matmul(y, weight))
        return tape.gradient(loss, [x, weight])

    with traced.forward_lengths() as lengths:
        function = tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec([4, 3]))
    found = measure(function, *lengths)
    assert found.kept_bytes == 48
    assert found.operators == len(function.graph.get_operations())
