"""Sums by row: of NumPy's, in every form and compiled by XLA; that of TFLite has static sizes."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops.sum_by_row import sum_by_row
from panoptic_tf.serving import tflite_graph


@pytest.fixture
def rows():
    return np.random.default_rng(0).integers(-1, 6, (2, 5, 7)).astype(np.float32)


@pytest.fixture
def values():
    return np.random.default_rng(1).uniform(size=(2, 5, 7)).astype(np.float32)


@pytest.mark.parametrize("form", [*forms.registered()["sum_by_row.sum_by_row"], "xla"], ids=str)
def test_sums_by_row(rows, values, form):
    @tf.function(autograph=False, jit_compile=form == "xla")
    def run(rows, values):
        with forms.use(forms.Form.ACCELERATOR if form == "xla" else form):
            return sum_by_row([tf.ones_like(rows), values], rows, 5)

    ones, sums = run(tf.constant(rows), tf.constant(values))
    for image in range(2):
        for row in range(5):
            chosen = values[image][rows[image] == row]
            assert ones[image, row] == chosen.size
            np.testing.assert_allclose(sums[image, row], chosen.sum(), rtol=1e-6)


def test_tflite_knows_all_sizes(rows, values):
    """As its older interpreters use XNNPACK for the whole of a model only then."""

    @tf.function(input_signature=[tf.TensorSpec([1, 5, 7]), tf.TensorSpec([1, 5, 7])])
    def sums(rows, values):
        with forms.use(forms.Form.TFLITE):
            return sum_by_row([values], rows, 5)[0]

    module = tf.Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [sums.get_concrete_function()], module
    )
    (graph,) = tflite_graph.read_operators(converter.convert())
    kinds = {operator.kind for operator in graph}
    assert "SCATTER_ND" in kinds and not any(kind.startswith("UNSORTED") for kind in kinds)
