"""The audit on small graphs whose answer is counted by hand."""

import pathlib

import pytest
import tensorflow as tf
from kernel_audit import audit, has_gpu_kernels

pytestmark = pytest.mark.skipif(not has_gpu_kernels(), reason="TensorFlow is built without CUDA")

BIG = 64 * 64  # values; 16 KB of int32
ROOT = pathlib.Path(__file__).parent


def find(function, *specs, **options):
    """(without kernel, copies) as (operator, bytes, loops) each."""
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    found = audit(traced, root=ROOT, **options)
    listed = []
    for findings in (found.without_kernel, found.copies):
        assert all(f.file == pathlib.Path(__file__).name and f.line > 0 for f in findings)
        listed.append([(f.operator, f.nbytes, f.loops) for f in findings])
    return tuple(listed)


def int32(*shape):
    return tf.TensorSpec(shape, tf.int32)


def test_floats_stay_on_the_device():
    def network(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.softmax(tf.nn.conv2d(x, tf.ones([3, 3, 4, 8]), 1, "SAME"))
            loss = tf.reduce_sum(tf.where(y > 0.1, y, 0.0))
        return tape.gradient(loss, x)

    assert find(network, tf.TensorSpec([2, 64, 64, 4])) == ([], [])


def test_a_large_int32_sum_is_the_hosts():
    # The cast makes x on the device, the sum is the host's: x goes there. What comes back is the
    # sum, which the second cast reads on the device.
    def add(x):
        return tf.cast(tf.cast(x, tf.int32) + 1, tf.float32)

    copies = [("AddV2", 4 * BIG, 0)] * 2
    assert find(add, tf.TensorSpec([64, 64])) == ([], copies)
    assert find(add, tf.TensorSpec([64, 64]), small=4 * BIG) == ([], [])
    assert find(add, tf.TensorSpec([None])) == ([], [("AddV2", None, 0)] * 2)
    assert find(add, tf.TensorSpec([8, 8])) == ([], [])


def test_one_copy_serves_all_who_read_it():
    def add(x):
        numbers = tf.cast(x, tf.int32)
        return (numbers + 1) * (numbers - 1) > numbers

    assert find(add, tf.TensorSpec([64, 64])) == ([], [("AddV2", 4 * BIG, 0)])


def test_other_integers_stay_on_the_device():
    def add(x):
        return tf.cast(tf.cast(x, tf.int64) + 1, tf.float32)

    assert find(add, tf.TensorSpec([64, 64])) == ([], [])


def test_what_comes_from_the_host_and_what_goes_there():
    # An argument and a result of the outermost function, which int32 keeps on the host.
    assert find(lambda x: x + 1, int32(64, 64)) == ([], [])
    assert find(lambda x: tf.gather(x, [1, 0]), int32(64, 64)) == ([], [])
    assert find(lambda x: tf.cast(x, tf.int32), tf.TensorSpec([64, 64])) == ([], [])


def test_no_kernel():
    def suppress(boxes, scores):
        return tf.image.combined_non_max_suppression(boxes, scores, 5, 5)[0]

    specs = tf.TensorSpec([2, 32, 1, 4]), tf.TensorSpec([2, 32, 1])
    # In: 2 x 32 x (4 + 1) values, two sizes, two thresholds. Out: 2 x 5 x (4 + 1 + 1) values, two
    # counts.
    nbytes = 4 * (2 * 32 * 5 + 4 + 2 * 5 * 6 + 2)
    assert find(suppress, *specs) == ([("CombinedNonMaxSuppression", nbytes, 0)], [])


def test_inside_a_loop():
    def repeat(x):
        def body(i, y):
            return i + 1, y + tf.cast(tf.cast(y, tf.int32) // 2, tf.float32)

        return tf.while_loop(lambda i, y: i < 3, body, (0, x))[1]

    assert find(repeat, tf.TensorSpec([64, 64])) == ([], [("FloorDiv", 4 * BIG, 1)] * 2)


def test_what_a_loop_carries():
    # Made on the device, handed to the loop on the host, there read on the device, and the result
    # handed back on the host, to be read on the device.
    def repeat(x):
        def body(i, y):
            return i + 1, tf.transpose(y)

        _, numbers = tf.while_loop(lambda i, y: i < 3, body, (0, tf.cast(x, tf.int32)))
        return tf.cast(numbers, tf.float32)

    _, copies = find(repeat, tf.TensorSpec([64, 64]))
    assert sorted(loops for _, _, loops in copies) == [0, 0, 1, 1]
    assert {nbytes for _, nbytes, _ in copies} == {4 * BIG}


def test_functions_and_branches_are_followed():
    inner = tf.function(lambda x: tf.cast(tf.cast(x, tf.int32) * 2, tf.float32), autograph=False)

    def call(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: inner(x), lambda: x)

    assert find(call, tf.TensorSpec([64, 64])) == ([], [("Mul", 4 * BIG, 0)] * 2)
