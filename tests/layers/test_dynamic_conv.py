import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers.dynamic_conv import mask_logits


def draw(between):
    rng = np.random.default_rng(0)
    kernels = rng.normal(size=(2, *between, 6)).astype(np.float32)
    return kernels, rng.normal(size=(2, 4, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("between", [(3,), (3, 2), (0,), (0, 7)])
def test_each_kernel_reads_its_own_image(between):
    kernels, encoded = draw(between)
    logits = mask_logits(tf.constant(kernels), tf.constant(encoded)).numpy()
    assert logits.shape == (2, *between, 4, 5)
    for index in np.ndindex(logits.shape):
        b, *row, y, x = index
        expected = kernels[(b, *row)] @ encoded[b, y, x]
        np.testing.assert_allclose(logits[index], expected, rtol=1e-4, atol=1e-5)


def test_is_a_convolution():
    kernels, encoded = draw((3,))
    logits = mask_logits(tf.constant(kernels), tf.constant(encoded))
    for b in range(2):
        filters = tf.transpose(kernels[b])[tf.newaxis, tf.newaxis]  # [1, 1, C, K]
        convolved = tf.nn.conv2d(encoded[b : b + 1], filters, strides=1, padding="VALID")
        expected = tf.transpose(convolved[0], [2, 0, 1])
        np.testing.assert_allclose(logits[b], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("between", [(3,), (3, 2)])
def test_gradients(between):
    kernels, encoded = (tf.Variable(value) for value in draw(between))
    upstream = np.random.default_rng(1).normal(size=(2, *between, 4, 5)).astype(np.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(mask_logits(kernels, encoded) * upstream)
    of_kernels, of_encoded = tape.gradient(total, [kernels, encoded])
    flat = upstream.reshape(2, -1, 4, 5)
    expected = np.einsum("bkyx,byxc->bkc", flat, encoded).reshape(kernels.shape)
    np.testing.assert_allclose(of_kernels, expected, rtol=1e-4, atol=1e-5)
    expected = np.einsum("bkyx,bkc->byxc", flat, kernels.numpy().reshape(2, -1, 6))
    np.testing.assert_allclose(of_encoded, expected, rtol=1e-4, atol=1e-5)


def test_static_shapes_stay_and_unknown_ones_work():
    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 2, 6]), tf.TensorSpec([None, 4, 5, 6])]
    )
    def function(kernels, encoded):
        logits = mask_logits(kernels, encoded)
        assert logits.shape.as_list() == [None, None, 2, 4, 5]
        return logits

    kernels, encoded = draw((3, 2))
    expected = mask_logits(tf.constant(kernels), tf.constant(encoded))
    np.testing.assert_allclose(function(kernels, encoded), expected, rtol=1e-5)


def test_recorded_stuff_logits(golden):
    """Embedding is affine, so the mean of kernels may be embedded in place of its members."""
    case = golden("pfcn_kernel_fusion")
    classes = case["stuff_classes"]
    kernels = np.stack(
        [case["stuff_kernels"][classes == c].mean(axis=0) for c in np.unique(classes)]
    )
    embedded = kernels @ case["w_stuff_embed"][:, :, 0, 0].T + case["b_stuff_embed"]
    np.testing.assert_allclose(embedded, case["fused_stuff_kernels"], atol=1e-5)
    encoded = np.moveaxis(case["encoded_feature"], 1, -1)
    logits = mask_logits(tf.constant(embedded[np.newaxis]), tf.constant(encoded))
    np.testing.assert_allclose(logits, case["pred_stuff_logits"], atol=1e-4)
