"""Sums by row: of NumPy's, in both forms; the one of TFLite has static sizes."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import operators
from panoptic_tf.postprocess import segments
from panoptic_tf.serving import tflite_graph


@pytest.fixture
def rows():
    return np.random.default_rng(0).integers(-1, 6, (2, 5, 7)).astype(np.int32)


@pytest.fixture
def values():
    return np.random.default_rng(1).uniform(size=(2, 5, 7)).astype(np.float32)


@pytest.mark.parametrize("for_tflite", [False, True])
def test_sums_by_row(rows, values, for_tflite):
    with operators.builtin_operators_only() if for_tflite else contextlib.nullcontext():
        ones, sums = segments.sum_by_row([tf.ones_like(rows), tf.constant(values)], rows, 5)
    for image in range(2):
        for row in range(5):
            chosen = values[image][rows[image] == row]
            assert ones[image, row] == chosen.size
            np.testing.assert_allclose(sums[image, row], chosen.sum(), rtol=1e-6)


def test_tflite_knows_all_sizes(rows, values):
    """As its older interpreters use XNNPACK for the whole of a model only then."""

    @tf.function(input_signature=[tf.TensorSpec([1, 5, 7], tf.int32), tf.TensorSpec([1, 5, 7])])
    def sums(rows, values):
        with operators.builtin_operators_only():
            return segments.sum_by_row([values], rows, 5)[0]

    module = tf.Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [sums.get_concrete_function()], module
    )
    (graph,) = tflite_graph.read_operators(converter.convert())
    kinds = {operator.kind for operator in graph}
    assert "SCATTER_ND" in kinds and not any(kind.startswith("UNSORTED") for kind in kinds)
