import numpy as np
import pytest
import tensorflow as tf

from layers import recorded_weights
from panoptic_tf.layers import convolution, depthwise, normalization


def test_padding_is_symmetric_with_stride_2():
    # A 3x3 kernel of ones on 4x4 ones: the first output sees row and column -1 (zeros), so 2x2
    # ones; the second sees rows 1..3, so 3 of them. 'same' of TensorFlow would give 9 first.
    layer = convolution.ConvNormAct(
        1, 3, strides=2, norm="none", activation=None, kernel_initializer="ones", name="conv1"
    )
    y = layer(tf.ones([1, 4, 4, 1]))
    np.testing.assert_array_equal(y[0, :, :, 0], [[4, 6], [6, 9]])


@pytest.mark.parametrize("size, expected", [((5, 8), (3, 4)), ((1, 7), (1, 4))])
def test_stride_2_rounds_up(size, expected):
    for kernel_size in (1, 3, 5):
        layer = convolution.ConvNormAct(2, kernel_size, strides=2)
        assert layer(tf.zeros([1, *size, 3])).shape == (1, *expected, 2)


def test_bias_only_without_norm():
    names = {}
    for norm in ("none", "batch", "frozen_batch"):
        layer = convolution.ConvNormAct(2, 1, norm=norm, name="conv1")
        layer(tf.zeros([1, 2, 2, 3]))
        names[norm] = [v.name for v in layer.trainable_variables]
    assert names["frozen_batch"] == ["conv1/conv/kernel:0"]
    assert sorted(names["none"]) == ["conv1/conv/bias:0", "conv1/conv/kernel:0"]
    assert sorted(names["batch"]) == [
        "conv1/conv/kernel:0",
        "conv1/norm/beta:0",
        "conv1/norm/gamma:0",
    ]


def _frozen(**options):
    layer = convolution.ConvNormAct(8, 3, norm="frozen_batch", name="conv1", **options)
    layer(tf.zeros([1, 4, 4, 6]))
    random = np.random.default_rng(0)
    layer.norm.gamma.assign(random.normal(1.0, 0.5, 8))
    layer.norm.beta.assign(random.normal(size=8))
    layer.norm.moving_mean.assign(random.normal(size=8))
    layer.norm.moving_variance.assign(random.uniform(0.1, 9.0, 8))
    return layer


@pytest.mark.parametrize("options", [{}, {"strides": 2}, {"groups": 2}, {"use_bias": True}])
def test_a_frozen_norm_is_taken_up_by_the_kernel(options):
    layer = _frozen(**options)
    if layer.conv.use_bias:
        layer.conv.bias.assign(np.linspace(-1.0, 1.0, 8))
    x = tf.random.stateless_normal([2, 7, 6, 6], seed=(0, 1))

    def results(function):
        with tf.GradientTape() as tape:
            y = function(x)
            loss = tf.reduce_sum(tf.square(y))
        return [y, *tape.gradient(loss, layer.trainable_variables)]

    ours = results(lambda x: layer(x, training=True))
    for a, b in zip(ours, results(lambda x: tf.nn.relu(layer.norm(layer.conv(x))))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_a_frozen_norm_costs_no_pass_over_the_activations():
    layer = _frozen(strides=2)
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec([2, 8, 8, 6])).graph
    types = [op.type for op in graph.get_operations() if op.outputs[:1] and _is_map(op.outputs[0])]
    assert types == ["Placeholder", "Pad", "Conv2D", "BiasAdd", "Relu", "Identity"]


def _is_map(tensor):
    return tensor.shape.rank == 4 and tensor.shape[0] == 2


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
@pytest.mark.parametrize(
    "build",
    [
        lambda norm: convolution.ConvNormAct(6, 3, norm=norm),
        lambda norm: convolution.DepthwiseConvNormAct(5, norm=norm),
        lambda norm: convolution.DepthwiseConvNormAct(3, dilation_rate=2, norm=norm),
    ],
)
def test_in_inference_a_batch_norm_is_taken_up_by_the_kernel(build, norm):
    layer = build(norm)
    x = tf.random.stateless_normal([2, 9, 8, 6], seed=(0, 1))
    layer(x)
    random = np.random.default_rng(0)
    for vector in layer.norm.weights:
        vector.assign(random.uniform(0.5, 2.0, 6))
    expected = tf.nn.relu(layer.norm(layer.conv(x), training=False))
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec([2, 9, 8, 6])).graph
    assert not [op.type for op in graph.get_operations() if "BatchNorm" in op.type]


def test_in_training_a_batch_norm_learns():
    layer = convolution.ConvNormAct(6, 3)
    x = 3.0 + tf.random.stateless_normal([2, 9, 8, 6], seed=(0, 1))
    learning = layer(x, training=True)
    assert tf.reduce_max(tf.abs(layer.norm.moving_mean)) > 0.0
    layer.norm.trainable = False
    kept = layer.norm.moving_mean.numpy()
    still = layer(x, training=True)
    np.testing.assert_array_equal(layer.norm.moving_mean, kept)
    assert tf.reduce_max(tf.abs(learning - still)) > 0.1


def test_a_frozen_norm_is_taken_up_in_float32(mixed_bfloat16):
    layer = _frozen(activation=None)
    x = tf.ones([1, 1, 1, 6], tf.bfloat16)
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, tf.float32))
    assert y.dtype == tf.bfloat16
    assert [g.dtype for g in tape.gradient(loss, layer.trainable_variables)] == [tf.float32]
    scale, shift = normalization.scale_and_shift(layer.norm)
    assert scale.dtype == shift.dtype == tf.float32
    # Rounded to bfloat16 once, after scaling.
    kernel = tf.cast(layer.conv.kernel * scale, tf.bfloat16)
    exact = tf.reduce_sum(tf.cast(kernel, tf.float32)[1, 1], axis=0) + shift
    np.testing.assert_allclose(tf.cast(y[0, 0, 0], tf.float32), exact, rtol=0.01, atol=0.01)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="odd, got 2"):
        convolution.ConvNormAct(2, 2)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_separable_convolution_computes_again_what_it_does_not_keep(policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    dtype = tf.keras.mixed_precision.global_policy().compute_dtype
    layer = convolution.SeparableConvNormAct(10, 5, norm="sync_batch", name="layer")
    first, second = layer.depthwise, layer.pointwise
    x = tf.cast(tf.random.stateless_normal([2, 9, 8, 6], seed=(0, 1)), dtype)

    def plain(x):
        for part in (first, second):
            x = tf.nn.relu(part.norm(part.conv(x, training=True), training=True))
        return x

    @tf.function(autograph=False)
    def results(x, is_plain):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = plain(x) if is_plain else layer(x, training=True)
            loss = tf.reduce_sum(tf.square(tf.cast(y, tf.float32)))
        return [y, *tape.gradient(loss, [x, *layer.trainable_variables])]

    tolerance = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.005}[dtype]
    for a, b in zip(results(x, False), results(x, True)):
        a, b = (tf.cast(t, tf.float32).numpy() for t in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * max(np.abs(b).max(), 1.0))
    assert [v.name for v in layer.trainable_variables] == [
        f"layer/{part}/{name}:0"
        for part, kernel in (("depthwise", "depthwise_kernel"), ("pointwise", "kernel"))
        for name in ("norm/gamma", "norm/beta", f"conv/{kernel}")
    ]


def test_separable_convolution_equals_the_recorded_one(golden):
    blocks = golden("blocks")
    x = recorded_weights.nhwc(blocks["dsconv/x"])
    layer = convolution.SeparableConvNormAct(10, 5, name="dsconv")
    layer(x)
    recorded_weights.assign(layer, recorded_weights.weights_of(blocks, "dsconv/"), {})
    expected = recorded_weights.nhwc(blocks["dsconv/y"])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_initializers_have_the_stated_variance():
    shape = (3, 3, 64, 128)
    msra = convolution.build_initializer("msra")(shape)
    np.testing.assert_allclose(np.var(msra), 2 / (9 * 128), rtol=0.05)
    xavier = convolution.build_initializer("xavier")(shape)
    np.testing.assert_allclose(np.var(xavier), 1 / (9 * 64), rtol=0.05)
    depthwise_kernel = convolution.build_initializer("msra", depthwise=True)((5, 5, 512, 1))
    np.testing.assert_allclose(np.var(depthwise_kernel), 2 / 25, rtol=0.05)


def test_depthwise_layer_is_the_same_in_training(mixed_bfloat16):
    layer = depthwise.DepthwiseConv2D(5, padding="same", name="conv")
    x = tf.cast(tf.random.stateless_normal([2, 8, 8, 16], seed=(0, 1)), tf.bfloat16)
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, tf.float32))
    gradient = tape.gradient(loss, layer.depthwise_kernel)
    assert y.dtype == tf.bfloat16 and gradient.dtype == tf.float32
    np.testing.assert_array_equal(tf.cast(y, tf.float32), tf.cast(layer(x), tf.float32))


@pytest.mark.parametrize("dilation_rate", [2, 4])
def test_dilated_depthwise_has_gradients(dilation_rate):
    layer = convolution.SeparableConvNormAct(4, 3, dilation_rate=dilation_rate, name="conv1")
    x = tf.random.stateless_normal([1, 9, 9, 4], seed=(0, 1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True) ** 2)
    for gradient in tape.gradient(loss, layer.trainable_variables):
        assert np.isfinite(gradient).all()
