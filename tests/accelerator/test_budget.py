"""The size of each system's training step, one image at the size of its COCO experiment.

A ratchet: what a step holds is to get less. Where it does, lower the numbers.
"""

import pytest
import tensorflow as tf
import traced
from budget import measure
from small_systems import get_params, get_task

SLACK = 1.05

# Operators; bytes kept from the forward pass for the gradient.
BUDGETS = {
    "panoptic_deeplab": (9_543, 1_277_293_932),
    "panoptic_fpn": (8_931, 1_391_978_396),
    "panoptic_fcn": (24_421, 1_724_638_940),
    "mask_transformer": (20_967, 4_504_507_484),
}


@pytest.mark.slow
@pytest.mark.parametrize("system", sorted(traced.COCO_EXPERIMENTS))
def test_training_step(system):
    task = get_task(get_params(traced.COCO_EXPERIMENTS[system]))
    found = measure(*traced.training_step(task, batch=1))
    print(f"{system}: {found.operators:,} operators, {found.kept_bytes / 2**30:.2f} GiB kept")
    operators, kept_bytes = BUDGETS[system]
    assert found.operators <= SLACK * operators
    assert found.kept_bytes <= SLACK * kept_bytes


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
