"""Large intermediate values, a part at a time."""

import tensorflow as tf

from panoptic_tf.ops import chunks


def test_few_parts_are_at_work_at_a_time():
    at_once, count = 8, 20

    @tf.function(autograph=False)
    def compute(x, after):
        parts = chunks.in_turn(
            lambda x: tf.exp(x) + 1.0, [[x[k]] for k in range(count)], after=after
        )
        return tf.stack(parts)

    spec = tf.TensorSpec([count, 2])
    graph = compute.get_concrete_function(spec, tf.TensorSpec([])).graph
    of_type = {kind: [] for kind in ("Exp", "AddV2")}
    for operation in graph.get_operations():
        of_type.get(operation.type, []).append(operation)
    firsts, lasts = of_type.values()
    assert len(firsts) == len(lasts) == count
    for k, first in enumerate(firsts):
        (before,) = first.control_inputs
        assert before is lasts[k - at_once] if k >= at_once else before.type == "Placeholder"

    x = tf.random.stateless_normal([count, 2], seed=(0, 1))
    tf.debugging.assert_near(compute(x, tf.constant(0.0)), tf.exp(x) + 1.0)
