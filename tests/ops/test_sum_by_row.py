"""Sums by row: of NumPy's, in every form and compiled by XLA; those that leave hold no scatter."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops.sum_by_row import sum_by_row
from panoptic_tf.serving import tflite_graph

FORMS = list(forms.registered()["sum_by_row.sum_by_row"])


def _check(function, num_rows, *, seed=0, size=(2, 5, 7)):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, num_rows + 3, size).astype(np.float32)
    values = rng.uniform(size=size).astype(np.float32)
    counts, sums = function(tf.constant(values), tf.constant(rows))
    for image in range(size[0]):
        for row in range(num_rows):
            chosen = values[image][rows[image] == row]
            assert counts[image, row] == chosen.size
            np.testing.assert_allclose(sums[image, row], chosen.sum(), rtol=1e-6)


@pytest.mark.parametrize("num_rows", [1, 2, 5, 9, 12])
@pytest.mark.parametrize("form", [*FORMS, "xla"], ids=str)
def test_sums_by_row(form, num_rows):
    @tf.function(autograph=False, jit_compile=form == "xla")
    def run(values, rows):
        with forms.use(forms.Form.ACCELERATOR if form == "xla" else form):
            return sum_by_row([None, values], rows, num_rows)

    _check(run, num_rows)


@pytest.mark.parametrize("at_once", [1, 50, 100, 2000])
def test_a_block_of_pixels_at_a_time(monkeypatch, at_once):
    of_blocks = forms._tuned["blocks.values_at_once"]
    monkeypatch.setitem(of_blocks, forms.Form.TFLITE, lambda: at_once)

    @tf.function(autograph=False)
    def run(values, rows):
        with forms.use(forms.Form.TFLITE):
            return sum_by_row([None, values], rows, 6)

    _check(run, 6)


def test_every_row_of_a_large_table_is_exact():
    """As of 200 centers and 133 categories, whose rows are cells of a table of 164 columns."""
    num_rows = 200 * 133
    rows = tf.reshape(tf.range(num_rows, dtype=tf.float32), [1, 200, 133])
    for form in FORMS:
        with forms.use(form):
            counts, sums = sum_by_row([None, rows], rows, num_rows)
        np.testing.assert_array_equal(counts[0], np.ones(num_rows))
        np.testing.assert_array_equal(sums[0], np.arange(num_rows))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_above_the_whole_numbers_of_float32(form):
    """Those of image 4 begin at 4 (2^22 + 1), above 2^24, where float32 has even numbers only."""
    num_rows = 2**22
    rows = [[[0, 1, 2, num_rows - 2, num_rows - 1, num_rows]]] * 5
    with forms.use(form):
        (counts,) = sum_by_row([None], tf.constant(rows, tf.float32), num_rows)
    image, row = np.nonzero(counts)
    np.testing.assert_array_equal(image, np.repeat(np.arange(5), 5))
    np.testing.assert_array_equal(row.reshape([5, 5]), [rows[0][0][:-1]] * 5)
    assert counts.numpy().max() == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_not_finite_spoils_sums_of_its_image_alone(form, value):
    rows = tf.constant([[[0, 1], [2, 2]]] * 2, tf.float32)
    values = np.ones([2, 2, 2], np.float32)
    values[0, 0, 1] = value
    with forms.use(form):
        counts, sums, others = sum_by_row([None, tf.constant(values), tf.ones_like(rows)], rows, 3)
    for unspoilt in (counts, others):
        np.testing.assert_array_equal(unspoilt, [[1, 1, 2]] * 2)
    np.testing.assert_array_equal(sums[1], [1, 1, 2])
    assert not np.isfinite(sums[0, 1])
    if form is forms.Form.ACCELERATOR:
        np.testing.assert_array_equal(sums[0], [1, value, 2])


@pytest.mark.parametrize("at_once", [100, 2000])
def test_tflite_knows_all_sizes_and_repeats_no_index(monkeypatch, at_once):
    """Its older interpreters use XNNPACK for the whole of a model only where sizes are known."""
    of_blocks = forms._tuned["blocks.values_at_once"]
    monkeypatch.setitem(of_blocks, forms.Form.TFLITE, lambda: at_once)

    @tf.function(input_signature=[tf.TensorSpec([1, 5, 7]), tf.TensorSpec([1, 5, 7])])
    def sums(rows, values):
        with forms.use(forms.Form.TFLITE):
            return sum_by_row([None, values], rows, 5)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [sums.get_concrete_function()], tf.Module()
    )
    model = converter.convert()
    kinds = {o.kind for graph in tflite_graph.read_operators(model) for o in graph}
    assert "BATCH_MATMUL" in kinds and ("WHILE" in kinds) == (at_once == 100)
    assert not any("SCATTER" in kind or "SEGMENT" in kind for kind in kinds)
    interpreter = tf.lite.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.invoke()
    for detail in interpreter.get_tensor_details():
        assert -1 not in detail["shape_signature"], detail
