import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_tf.layers.resize import resize_bilinear
from panoptic_tf.losses.cross_entropy import (
    WeightedBootstrappedCrossEntropy,
    largest_mask,
    pixel_cross_entropy,
)
from panoptic_tf.losses.reduction import reduce_loss


def loss_of_pixel(logits, category):
    """-log softmax of one pixel, 0 on void."""
    if category == 0:
        return 0.0
    highest = max(logits)
    total = sum(math.exp(v - highest) for v in logits)
    return highest + math.log(total) - logits[category - 1]


def weighted_pixel_losses(logits, categories, weights):
    """[B, H, W] in float64, by loops."""
    losses = np.zeros(categories.shape)
    for b, y, x in np.ndindex(categories.shape):
        values = [float(v) for v in logits[b, y, x]]
        losses[b, y, x] = loss_of_pixel(values, categories[b, y, x]) * weights[b, y, x]
    return losses


def mean_of_hardest(losses, fraction):
    hardest = sorted(losses.reshape(-1).tolist(), reverse=True)
    k = max(int(math.floor(fraction * len(hardest))), 1)
    return sum(hardest[:k]) / k, k


def draw(seed, batch=3, size=(5, 7), categories=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (batch, *size, categories)).astype(np.float32)
    mask = rng.integers(0, categories + 1, (batch, *size)).astype(np.int32)
    weights = rng.choice([1.0, 3.0], (batch, *size)).astype(np.float32)
    return logits, mask, weights


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_ranked_over_each_image(fraction, weighted, seed):
    logits, mask, weights = draw(seed)
    layer = WeightedBootstrappedCrossEntropy(top_k_fraction=fraction)
    total, count = layer(logits, mask, tf.constant(weights) if weighted else None)
    losses = weighted_pixel_losses(logits, mask, weights if weighted else np.ones_like(weights))
    for i in range(3):
        mean, k = mean_of_hardest(losses[i], fraction)
        assert count[i] == k
        np.testing.assert_allclose(total[i] / count[i], mean, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_ranked_over_the_batch(fraction, seed):
    logits, mask, weights = draw(seed)
    logits[1] *= 4.0  # the second image is much harder
    layer = WeightedBootstrappedCrossEntropy(top_k_fraction=fraction, rank_over="batch")
    total, count = layer(logits, mask, weights)
    mean, k = mean_of_hardest(weighted_pixel_losses(logits, mask, weights), fraction)
    np.testing.assert_allclose(tf.reduce_sum(count), k, rtol=1e-6)
    np.testing.assert_allclose(reduce_loss(total, count), mean, rtol=1e-5)


def test_drawn():
    # Two categories, logits (0, a) on category 1 cost log(1 + e^a). Of four pixels the hardest two
    # count; the void one costs nothing although its logits are extreme, and stays in the count.
    a = np.array([[[3.0, 1.0], [2.0, 99.0]]], np.float32)
    logits = np.stack([np.zeros_like(a), a], axis=-1)
    mask = np.array([[[1, 1], [1, 0]]], np.int32)
    layer = WeightedBootstrappedCrossEntropy(top_k_fraction=0.5)
    total, count = layer(logits, mask)
    np.testing.assert_allclose(total, [np.log1p(np.exp(3)) + np.log1p(np.exp(2))], rtol=1e-6)
    np.testing.assert_array_equal(count, [2.0])
    # A weight of 3 lifts the second pixel (1.31 * 3 = 3.94) above both.
    weights = np.array([[[1.0, 3.0], [1.0, 1.0]]], np.float32)
    total, _ = layer(logits, mask, weights)
    np.testing.assert_allclose(total, [3 * np.log1p(np.exp(1)) + np.log1p(np.exp(3))], rtol=1e-6)


@pytest.mark.parametrize("rank_over", ["image", "batch"])
@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_gradient_is_that_of_the_hardest_pixels(rank_over, fraction):
    logits, mask, weights = draw(5)
    layer = WeightedBootstrappedCrossEntropy(top_k_fraction=fraction, rank_over=rank_over)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = reduce_loss(*layer(variable, mask, weights))
    gradient = tape.gradient(loss, variable).numpy()
    losses = weighted_pixel_losses(logits, mask, weights)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    one_hot = np.eye(5)[mask][..., 1:]
    kept = np.zeros(mask.shape)
    groups = [losses] if rank_over == "batch" else list(losses)
    total = sum(mean_of_hardest(g, fraction)[1] for g in groups)
    for i in range(3):
        group = losses if rank_over == "batch" else losses[i]
        k = mean_of_hardest(group, fraction)[1]
        kept[i] = losses[i] >= sorted(group.reshape(-1), reverse=True)[k - 1]
    expected = (probabilities - one_hot) * (kept * weights * (mask > 0) / total)[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_all_void_costs_nothing_and_has_a_gradient_of_zero(fraction):
    logits, mask, _ = draw(0)
    variable = tf.Variable(logits * 1e3)
    layer = WeightedBootstrappedCrossEntropy(top_k_fraction=fraction)
    with tf.GradientTape() as tape:
        loss = reduce_loss(*layer(variable, np.zeros_like(mask)))
    assert loss == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, variable), np.zeros_like(logits))


def test_half_precision_logits_and_a_graph_of_unknown_batch():
    logits, mask, weights = draw(1)
    layer = WeightedBootstrappedCrossEntropy(top_k_fraction=0.2)
    function = tf.function(
        layer.call,
        input_signature=[
            tf.TensorSpec([None, 5, 7, 4], tf.bfloat16),
            tf.TensorSpec([None, 5, 7], tf.int32),
            tf.TensorSpec([None, 5, 7]),
        ],
    )
    half = tf.cast(logits, tf.bfloat16)
    total, count = function(half, mask, weights)
    expected, _ = layer(tf.cast(half, tf.float32), mask, weights)
    assert total.dtype == tf.float32 and count.dtype == tf.float32
    np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"top_k_fraction": 0.0}, "top_k_fraction"),
        ({"top_k_fraction": 1.5}, "1.5"),
        ({"rank_over": "pixel"}, "rank_over.*'pixel'"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        WeightedBootstrappedCrossEntropy(**arguments)


VALUES = st.floats(0.0, 2.0**99, width=32, allow_subnormal=False)
FEW_VALUES = st.sampled_from([0.0, 1.0, 1.5, 2.0])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from([VALUES, FEW_VALUES]))
def test_largest_mask_is_what_sorting_keeps(data, elements):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 12)))
    values = data.draw(hnp.arrays(np.float32, shape, elements=elements))
    k = data.draw(st.integers(1, shape[1]))
    mask = largest_mask(tf.constant(values), tf.constant(k)).numpy()
    assert ((mask >= 0) & (mask <= 1)).all()
    np.testing.assert_allclose(mask.sum(axis=1), k, rtol=1e-5)
    for row, kept in zip(values.astype(np.float64), mask.astype(np.float64)):
        ordered = sorted(row, reverse=True)
        np.testing.assert_allclose((row * kept).sum(), sum(ordered[:k]), rtol=1e-5)
        kth = ordered[k - 1]
        assert (kept[row > kth] == 1).all() and (kept[row < kth] == 0).all()
        assert len(set(kept[row == kth])) == 1  # equal values share


def test_largest_mask_of_many_pixels():
    values = np.random.default_rng(0).exponential(size=(2, 300_000)).astype(np.float32)
    values[:, ::3] = 0.0
    for k in (1, 60_000, 250_000, 300_000):
        mask = largest_mask(tf.constant(values), tf.constant(k)).numpy()
        np.testing.assert_allclose(mask.sum(axis=1, dtype=np.float64), k, rtol=1e-6)
        expected = np.sort(values, axis=1)[:, ::-1][:, :k].sum(axis=1, dtype=np.float64)
        kept = (values.astype(np.float64) * mask).sum(axis=1)
        np.testing.assert_allclose(kept, expected, rtol=1e-6)


def test_pixel_losses():
    logits, mask, _ = draw(4)
    expected = weighted_pixel_losses(logits, mask, np.ones(mask.shape))
    np.testing.assert_allclose(pixel_cross_entropy(logits, mask), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_pixel_losses_of_logits_at_a_lower_resolution(align_corners):
    logits, _, _ = draw(6, size=(3, 4))
    _, mask, weights = draw(7, size=(5, 7))

    def results(losses_of, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = losses_of(logits)
            loss = tf.reduce_sum(losses * weights)
        return losses, tape.gradient(loss, logits)

    def resized(logits):
        logits = resize_bilinear(logits, mask.shape[1:], align_corners=align_corners)
        return pixel_cross_entropy(logits, mask)

    ours = functools.partial(pixel_cross_entropy, category_mask=mask, align_corners=align_corners)
    graph = tf.function(functools.partial(results, ours), autograph=False)
    expected = results(resized, tf.constant(logits))
    for found in (graph(tf.constant(logits)), results(ours, tf.constant(logits))):
        for a, b in zip(found, expected):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_gradient_keeps_no_probabilities():
    mask = tf.constant(draw(8, size=(8, 10))[1])

    @tf.function(autograph=False)
    def gradient(logits):
        loss = tf.reduce_sum(pixel_cross_entropy(logits, mask))
        return tf.gradients(loss, logits)

    graph = gradient.get_concrete_function(tf.TensorSpec([3, 2, 5, 4])).graph
    first, second = [op for op in graph.get_operations() if op.type == "Softmax"]
    assert {op.type for op in first.outputs[0].consumers()} == {"Max"}
    assert {op.type for op in second.outputs[0].consumers()} == {"Max", "Sub"}
