"""Weighted sums of indexed rows."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import chunks, forms
from panoptic_tf.ops import sampled_sum as lib

FORMS = list(forms.Form)


def draw(rows=13, summands=5, cells=7, channels=3):
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=[cells, channels]).astype(np.float32),
        rng.integers(0, cells, [rows, summands]),
        rng.normal(size=[rows, summands]).astype(np.float32),
    )


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.value)
@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
@pytest.mark.parametrize("cache_bytes", [100, 5_000_000])
def test_equals_loops_with_its_gradients(form, dtype, cache_bytes, monkeypatch):
    monkeypatch.setattr(lib, "_CHUNK_BYTES", cache_bytes)
    monkeypatch.setattr(chunks, "CACHE_BYTES", cache_bytes)
    cells, index, weight = draw()
    upstream = np.random.default_rng(1).normal(size=[13, 3]).astype(np.float32)

    @tf.function(autograph=False)
    def run(cells, weight):
        with forms.use(form), tf.GradientTape() as tape:
            tape.watch([cells, weight])
            total = lib.sampled_sum(cells, tf.constant(index, dtype), weight)
            product = tf.reduce_sum(total * upstream)
        return total, tape.gradient(product, [cells, weight])

    total, (of_cells, of_weight) = run(tf.constant(cells), tf.constant(weight))
    expected, expected_of_cells = np.zeros([13, 3]), np.zeros_like(cells)
    expected_of_weight = np.zeros_like(weight)
    for m in range(13):
        for t in range(5):
            expected[m] += weight[m, t] * cells[index[m, t]]
            expected_of_cells[index[m, t]] += weight[m, t] * upstream[m]
            expected_of_weight[m, t] = upstream[m] @ cells[index[m, t]]
    np.testing.assert_allclose(total, expected, atol=1e-5)
    np.testing.assert_allclose(tf.convert_to_tensor(of_cells), expected_of_cells, atol=1e-5)
    np.testing.assert_allclose(of_weight, expected_of_weight, atol=1e-5)


def test_no_row():
    cells, index, weight = draw()
    for form in FORMS:
        with forms.use(form):
            total = lib.sampled_sum(cells, tf.constant(index)[:0], tf.constant(weight)[:0])
        assert total.shape == (0, 3)


def test_under_xla():
    cells, index, weight = draw()

    def gradients(cells, weight):
        with tf.GradientTape() as tape:
            tape.watch([cells, weight])
            total = lib.sampled_sum(cells, tf.constant(index), weight)
            product = tf.reduce_sum(total**2)
        return tape.gradient(product, [cells, weight])

    arguments = tf.constant(cells), tf.constant(weight)
    expected = tf.function(gradients, autograph=False)(*arguments)
    found = tf.function(gradients, autograph=False, jit_compile=True)(*arguments)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
