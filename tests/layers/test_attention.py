"""Attention and feed-forward layers."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import attention


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def set_random(layer):
    for i, variable in enumerate(layer.weights):
        variable.assign(draw(*variable.shape, seed=i))


def test_attention_equals_loops():
    layer = attention.Attention(6, 2)
    query, key, value = draw(2, 3, 6), draw(2, 4, 6, seed=1), draw(2, 4, 6, seed=2)
    bias = np.zeros([2, 1, 3, 4], np.float32)
    bias[1, 0, 2, 1] = -1e9
    layer(query, key, value)
    set_random(layer)
    found = layer(query, key, value, bias)
    expected = np.zeros([2, 3, 6])

    def project(dense, x):
        return x @ dense.kernel.numpy() + dense.bias.numpy()

    for b in range(2):
        q, k, v = (
            project(dense, x[b])
            for dense, x in zip((layer.query, layer.key, layer.value), (query, key, value))
        )
        heads = []
        for head in range(2):
            of_head = slice(3 * head, 3 * head + 3)
            logits = q[:, of_head] @ k[:, of_head].T / np.sqrt(3) + bias[b, 0]
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            heads.append(weights @ v[:, of_head])
        expected[b] = project(layer.output_projection, np.concatenate(heads, axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_blocked_key_has_no_influence():
    layer = attention.Attention(4, 2)
    query, key = draw(1, 2, 4), draw(1, 3, 4, seed=1)
    bias = np.array([0.0, -1e9, 0.0], np.float32)
    layer(query, key, key)
    set_random(layer)
    expected = layer(query, key, key, bias)
    key[0, 1] = 100.0
    np.testing.assert_array_equal(layer(query, key, key, bias), expected)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="attention: 4 heads must divide 6 channels"):
        attention.Attention(6, 4, name="attention")


def test_softmax_is_computed_in_float32():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layer = attention.Attention(4, 1)
        query = tf.constant(draw(1, 2, 4), tf.float16)
        layer(query, query, query)
        set_random(layer)
        # Of float16 it would be infinite, and the result not a number.
        found = layer(query, query, query, tf.fill([1, 1, 2, 2], -1e9))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert found.dtype == tf.float16 and np.isfinite(found).all()


def test_feed_forward_equals_numpy():
    layer = attention.FeedForward(5)
    x = draw(2, 3, 4)
    layer(x)
    set_random(layer)
    hidden = np.maximum(x @ layer.hidden.kernel.numpy() + layer.hidden.bias.numpy(), 0)
    y = x + hidden @ layer.output_projection.kernel.numpy() + layer.output_projection.bias.numpy()
    y -= y.mean(axis=-1, keepdims=True)
    y /= np.sqrt((y**2).mean(axis=-1, keepdims=True) + 1e-5)
    y = y * layer.norm.gamma.numpy() + layer.norm.beta.numpy()
    np.testing.assert_allclose(layer(x), y, rtol=1e-4, atol=1e-4)
