import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import normalization


def _group_norm_oracle(x, groups, epsilon):
    y = np.empty_like(x)
    size = x.shape[-1] // groups
    for b in range(x.shape[0]):
        for g in range(groups):
            part = x[b, :, :, g * size : (g + 1) * size]
            y[b, :, :, g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(
                part.var() + epsilon
            )
    return y


def test_group_norm_equals_loops():
    x = np.random.default_rng(0).normal(100.0, 3.0, [2, 4, 5, 6]).astype(np.float32)
    layer = normalization.build_norm("group", groups=3)
    y = layer(x)
    np.testing.assert_allclose(y, _group_norm_oracle(x.astype(np.float64), 3, 1e-5), atol=1e-4)
    layer.gamma.assign([2.0] * 6)
    layer.beta.assign([1.0] * 6)
    np.testing.assert_allclose(layer(x), 2 * y + 1, atol=1e-5)


def test_group_norm_has_the_same_gradient_in_training():
    x = tf.random.stateless_normal([2, 5, 4, 12], seed=(0, 1)) * 3.0 + 5.0
    layer = normalization.build_norm("group", groups=4)
    layer(x)
    layer.gamma.assign(np.linspace(-1.0, 2.0, 12))
    layer.beta.assign(np.linspace(0.0, 1.0, 12))

    def results(training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(tf.sin(3.0 * y))
        return [y, *tape.gradient(loss, [x, layer.gamma, layer.beta])]

    for a, b in zip(results(True), results(False)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="32 groups, got 48 channels"):
        normalization.build_norm("group")(tf.zeros([1, 2, 2, 48]))


def test_frozen_batch_norm_worked_example():
    layer = normalization.build_norm("frozen_batch", name="norm")
    x = tf.constant([[[[3.0, -1.0]]]])
    # Running variance 1 - epsilon: the identity until something is loaded.
    np.testing.assert_allclose(layer(x, training=True), x, atol=1e-7)
    assert layer.trainable_variables == []
    np.testing.assert_allclose(layer.moving_variance, 1 - 1e-5)
    layer.gamma.assign([2.0, 1.0])
    layer.beta.assign([0.5, 0.0])
    layer.moving_mean.assign([1.0, 1.0])
    layer.moving_variance.assign([4.0, 0.25])
    # 2 * (3 - 1) / 2 + 0.5 = 2.5 and (-1 - 1) / 0.5 = -4.
    np.testing.assert_allclose(layer(x, training=True), [[[[2.5, -4.0]]]], rtol=1e-4)


def test_batch_norm_momentum_and_epsilon():
    layer = normalization.build_norm("batch", momentum=0.9)
    x = tf.reshape(tf.constant([0.0, 2.0]), [2, 1, 1, 1])
    layer(x, training=True)
    # 0.9 * 0 + 0.1 * 1; the unbiased variance of {0, 2} is 2: 0.9 * 1 + 0.1 * 2.
    np.testing.assert_allclose(layer.moving_mean, [0.1], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [1.1], rtol=1e-6)


def _sync_and_keras(channels):
    """Ours and Keras's, with the same gamma and beta."""
    layers = (
        normalization.build_norm("sync_batch", name="ours"),
        tf.keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, synchronized=True, name="keras"
        ),
    )
    for layer in layers:
        layer.build([None, None, None, channels])
        layer.gamma.assign(np.linspace(-1.0, 2.0, channels))
        layer.beta.assign(np.linspace(0.0, 1.0, channels))
    return layers


def _learn(layer, x, weights):
    """ReLU of the norm, gradients of a weighted sum of it, and the running averages."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        if isinstance(layer, normalization.SyncBatchNorm):
            y = layer(x, training=True, then=tf.nn.relu)
        else:
            y = tf.nn.relu(layer(x, training=True))
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * weights)
    variables = [layer.gamma, layer.beta]
    gradients = tape.gradient(loss, [x, *variables])
    return [y, *gradients, *map(tf.convert_to_tensor, layer.non_trainable_variables)]


@pytest.mark.parametrize("run", ["eager", "graph", "xla"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_sync_batch_norm_equals_keras(policy, run):
    tf.keras.mixed_precision.set_global_policy(policy)
    dtype = tf.keras.mixed_precision.global_policy().compute_dtype
    x = tf.cast(tf.random.stateless_normal([3, 5, 4, 6], seed=(0, 1)) * 3.0 + 1.0, dtype)
    weights = tf.random.stateless_normal(x.shape, seed=(0, 2))
    results = []
    for layer in _sync_and_keras(6):
        function = _learn if run == "eager" else tf.function(_learn, jit_compile=run == "xla")
        results.append(function(layer, x, weights))
    assert results[0][0].dtype == results[0][1].dtype == dtype
    tolerance = {"float32": 1e-5, "bfloat16": 0.02, "float16": 0.003}[dtype]
    for ours, kerass in zip(*results):
        ours, kerass = (tf.cast(t, tf.float32).numpy() for t in (ours, kerass))
        np.testing.assert_allclose(ours, kerass, atol=tolerance * max(np.abs(kerass).max(), 1))


def test_sync_batch_norm_over_replicas_equals_one_of_the_whole_batch(mirrored):
    x = tf.random.stateless_normal([4, 3, 2, 6], seed=(0, 1)) * 3.0 + 1.0
    weights = tf.random.stateless_normal(x.shape, seed=(0, 2))
    with mirrored.scope():
        layer, _ = _sync_and_keras(6)
    halves = [
        mirrored.experimental_distribute_values_from_function(
            lambda context: tf.split(whole, 2)[context.replica_id_in_sync_group]  # noqa: B023
        )
        for whole in (x, weights)
    ]
    run = tf.function(lambda *halves: mirrored.run(_learn, args=(layer, *halves)))
    found = [mirrored.experimental_local_results(value) for value in run(*halves)]
    expected = _learn(_sync_and_keras(6)[0], x, weights)
    joined = [tf.concat(parts, axis=0) for parts in found[:2]]  # y, and the gradient of x
    joined += [tf.add_n(parts) for parts in found[2:4]]  # the gradients of gamma and beta
    joined += [parts[0] for parts in found[4:]]
    for ours, whole in zip(joined, expected):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5)


def test_sync_batch_norm_is_keras_in_inference_and_where_frozen():
    x = tf.random.stateless_normal([2, 3, 4, 6], seed=(0, 1))
    ours, kerass = _sync_and_keras(6)
    for layer in (ours, kerass):
        layer.moving_mean.assign([0.5] * 6)
    np.testing.assert_array_equal(ours(x, training=False), kerass(x, training=False))
    ours.trainable = kerass.trainable = False
    np.testing.assert_array_equal(ours(x, training=True), kerass(x, training=True))
    np.testing.assert_array_equal(ours.moving_mean, [0.5] * 6)


@pytest.mark.parametrize("norm", normalization.NORMS)
def test_norms_keep_shape_and_dtype(norm, mixed_bfloat16):
    x = tf.cast(tf.random.stateless_normal([2, 3, 3, 32], seed=(0, 1)), tf.bfloat16)
    layer = normalization.build_norm(norm)
    y = layer(x, training=True)
    assert y.dtype == tf.bfloat16 and y.shape == x.shape
    assert all(v.dtype == tf.float32 for v in layer.variables)


def test_norm_is_checked():
    with pytest.raises(ValueError, match="frozen_batch.*got 'bn'"):
        normalization.build_norm("bn")
