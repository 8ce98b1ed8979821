import builtin_tflite
import numpy as np
import pytest
import tensorflow as tf

from layers import recorded_weights
from panoptic_tf.layers import deformable
from panoptic_tf.ops import chunks, deformable_conv2d, forms
from panoptic_tf.ops.conv2d import conv2d
from panoptic_tf.ops.deformable_conv2d import deform_conv2d
from panoptic_tf.ops.forms import Form


def draw(seed, *, size=(5, 6), channels=4, filters=3, kernel=3, strides=1, groups=1, batch=2):
    """Inputs, offsets (some far outside), modulation and kernel."""
    rng = np.random.default_rng(seed)
    out = [batch, *(-(-n // strides) for n in size)]
    samples = groups * kernel**2
    offsets = rng.normal(size=[*out, 2 * samples]) * rng.choice([0.3, 2.0, 9.0], size=[*out, 1])
    values = (
        rng.normal(size=[batch, *size, channels]),
        offsets,
        rng.uniform(size=[*out, samples]),
        rng.normal(size=[kernel, kernel, channels, filters]),
    )
    return [x.astype(np.float32) for x in values]


def convolve(inputs, offsets, modulation, kernel, **options):
    return deform_conv2d(inputs, offsets, kernel, modulation=modulation, **options)


def oracle(inputs, offsets, modulation, kernel, *, strides=1, dilation_rate=1, deformable_groups=1):
    batch, height, width, channels = inputs.shape
    size = kernel.shape[0]
    part = channels // deformable_groups
    outputs = np.zeros([*offsets.shape[:3], kernel.shape[-1]])

    def read(b, y, x, group):  # bilinear; a corner outside the map is zero
        value = np.zeros(part)
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    value += share * inputs[b, row, column, group * part : (group + 1) * part]
        return value

    for b, i, j in np.ndindex(*offsets.shape[:3]):
        for group, m, n in np.ndindex(deformable_groups, size, size):
            tap = (group * size + m) * size + n
            dy, dx = offsets[b, i, j, 2 * tap : 2 * tap + 2].astype(np.float64)
            y = i * strides + (m - size // 2) * dilation_rate + dy
            x = j * strides + (n - size // 2) * dilation_rate + dx
            sample = read(b, y, x, group)
            if modulation is not None:
                sample = sample * modulation[b, i, j, tap]
            outputs[b, i, j] += sample @ kernel[m, n, group * part : (group + 1) * part]
    return outputs


VARIANTS = {
    "plain": ({}, {}),
    "strides": ({"strides": 2}, {"strides": 2}),
    "dilation": ({}, {"dilation_rate": 2}),
    "groups": ({"groups": 2}, {"deformable_groups": 2}),
    "5x5, all": (
        {"kernel": 5, "strides": 2, "groups": 4},
        {"strides": 2, "dilation_rate": 3, "deformable_groups": 4},
    ),
    "1x1": ({"kernel": 1}, {}),
    "one cell": ({"size": (1, 1)}, {}),
    "one row": ({"size": (1, 5), "strides": 2}, {"strides": 2}),
}


@pytest.fixture(params=[(form, cut) for form in Form for cut in (False, True)], ids=str)
def form(request, monkeypatch):
    """Every way to compute the same, of all samples at once or of a part at a time."""
    form, is_cut = request.param
    if is_cut:
        monkeypatch.setattr(chunks, "CACHE_BYTES", 500)
        monkeypatch.setattr(deformable_conv2d, "_CHUNK_BYTES", 500)
    with forms.use(form):
        yield form


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("modulated", [False, True])
def test_equals_a_loop(name, modulated, form):
    drawing, options = VARIANTS[name]
    inputs, offsets, modulation, kernel = draw(0, **drawing)
    modulation = modulation if modulated else None
    expected = oracle(inputs, offsets, modulation, kernel, **options)
    outputs = convolve(inputs, offsets, modulation, kernel, **options)
    np.testing.assert_allclose(outputs, expected, atol=2e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_are_numeric_ones(name, form):
    drawing, options = VARIANTS[name]
    values = [x.astype(np.float64) for x in draw(1, **drawing)]
    inputs, offsets, modulation, kernel = values
    weights = np.random.default_rng(2).normal(size=[*offsets.shape[:3], kernel.shape[-1]])
    tensors = [tf.constant(x, tf.float32) for x in values]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = convolve(*tensors, training=True, **options)
        loss = tf.reduce_sum(outputs * tf.constant(weights, tf.float32))
    gradients = tape.gradient(loss, tensors)
    # Along a random direction; in double precision a step is small enough to cross no whole number.
    for i, gradient in enumerate(gradients):
        direction = np.random.default_rng(3).normal(size=values[i].shape)
        moved = []
        for step in (1e-6, -1e-6):
            arguments = list(values)
            arguments[i] = values[i] + step * direction
            moved.append(np.sum(weights * oracle(*arguments, **options)))
        numeric = (moved[0] - moved[1]) / 2e-6
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-3, atol=1e-3)


def recorded(golden, prefix):
    file = golden("deform_conv")
    strides, _, dilation_rate, groups = file[f"{prefix}_conf"].tolist()
    tensors = {
        "inputs": recorded_weights.nhwc(file["x"]),
        "offsets": recorded_weights.nhwc(file[f"{prefix}_offset"]),
        "kernel": file["weight"].transpose(2, 3, 1, 0),
    }
    if f"{prefix}_mask" in file:
        tensors["modulation"] = recorded_weights.nhwc(file[f"{prefix}_mask"])
    options = {"strides": strides, "dilation_rate": dilation_rate, "deformable_groups": groups}
    return file, {k: tf.constant(x) for k, x in tensors.items()}, options


@pytest.mark.parametrize("prefix", ["s1", "s2", "d2", "g2", "v1"])
def test_equals_the_recorded_one(golden, prefix, form):
    file, tensors, options = recorded(golden, prefix)
    outputs = deform_conv2d(**tensors, **options) + file["bias"]
    expected = recorded_weights.nhwc(file[f"{prefix}_out"])
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_equal_the_recorded_ones(golden, training, form):
    file, tensors, options = recorded(golden, "s1")
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = deform_conv2d(**tensors, **options, training=training)
        loss = tf.reduce_sum(tf.square(outputs + file["bias"]))
    gradients = tape.gradient(loss, tensors)
    for name, of in (("inputs", "x"), ("offsets", "offset"), ("modulation", "mask")):
        expected = recorded_weights.nhwc(file[f"s1_grad_{of}"])
        np.testing.assert_allclose(gradients[name], expected, atol=1e-4, err_msg=name)
    expected = file["s1_grad_w"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(gradients["kernel"], expected, atol=1e-4)


def test_a_whole_offset_has_the_gradient_towards_larger_ones(form):
    # A row of two cells, 3 and 5, with 0 around them: read from the left it rises by 3, by 2, and
    # falls by 5. Both output cells read dx cells to their right; below the row there is nothing.
    inputs = tf.constant([3.0, 5.0], shape=[1, 1, 2, 1])
    kernel = tf.ones([1, 1, 1, 1])
    for dx, values, slopes in (
        (-1, [0, 3], [3, 2]),
        (0, [3, 5], [2, -5]),
        (1, [5, 0], [-5, 0]),
        (-2, [0, 0], [0, 3]),
    ):
        offsets = tf.constant([0.0, dx] * 2, shape=[1, 1, 2, 2])
        with tf.GradientTape() as tape:
            tape.watch(offsets)
            outputs = deform_conv2d(inputs, offsets, kernel, training=True)
        gradient = tape.gradient(outputs, offsets)
        assert outputs.numpy().ravel().tolist() == values
        assert gradient[0, 0, :, 1].numpy().tolist() == slopes
        assert gradient[0, 0, :, 0].numpy().tolist() == [-x for x in values]


def test_offsets_that_are_not_finite_read_zero(form):
    inputs, offsets, modulation, kernel = draw(0)
    finite = convolve(inputs, np.where(offsets > 1, 1e9, offsets), modulation, kernel)
    for value in (np.nan, np.inf, -np.inf, 1e38, -1e38):
        odd = np.where(offsets > 1, value, offsets).astype(np.float32)
        np.testing.assert_array_equal(convolve(inputs, odd, modulation, kernel), finite)


def test_empty_batch_of_a_map_of_several_chunks(form):
    shapes = ([0, 64, 64, 256], [0, 64, 64, 18], [3, 3, 256, 8])
    assert deform_conv2d(*map(tf.zeros, shapes)).shape == (0, 64, 64, 8)


@pytest.mark.parametrize("form", [Form.ACCELERATOR, Form.CPU])
def test_unknown_batch_and_size(form):
    values = draw(0, size=(7, 5), strides=2)
    signature = [tf.TensorSpec([None, None, None, x.shape[-1]]) for x in values[:3]]
    signature.append(tf.TensorSpec(values[3].shape))

    @tf.function(input_signature=signature)
    def function(*arguments):
        with forms.use(form), tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = convolve(*arguments, strides=2, training=True)
            loss = tf.reduce_sum(tf.sin(outputs))
        return [outputs, *tape.gradient(loss, arguments)]

    outputs, *gradients = function(*map(tf.constant, values))
    np.testing.assert_allclose(outputs, convolve(*values, strides=2), atol=1e-5)
    assert [g.shape for g in gradients] == [x.shape for x in values]
    empty = function(*(tf.constant(x[:0]) for x in values[:3]), tf.constant(values[3]))
    assert empty[0].shape == (0, 4, 3, 3)


# The layers


def test_layer_equals_the_recorded_one(golden):
    file = golden("deform_conv")
    x = recorded_weights.nhwc(file["x"])
    layer = deformable.DeformableConvNormAct(32, 3, norm="group", name="pfcn")
    layer(x)
    recorded = recorded_weights.weights_of(file, "pfcn_")
    kernels = {k: v.transpose(2, 3, 1, 0) for k, v in recorded.items() if v.ndim == 4}
    layer.conv.offset.kernel.assign(kernels["offset_mask_conv.weight"])
    layer.conv.offset.bias.assign(recorded["offset_mask_conv.bias"])
    layer.conv.kernel.assign(kernels["dcnv2.weight"])
    layer.norm.gamma.assign(recorded["dcnv2.norm.weight"])
    layer.norm.beta.assign(recorded["dcnv2.norm.bias"])
    for training in (False, True):
        expected = recorded_weights.nhwc(file["pfcn_out"])
        np.testing.assert_allclose(layer(x, training=training), expected, atol=1e-4)


def test_variables_have_stable_names():
    layer = deformable.DeformableConvNormAct(
        8, 3, norm="batch", use_bias=True, deformable_groups=2, name="conv1"
    )
    layer(tf.zeros([1, 4, 4, 6]))
    assert {v.name: tuple(v.shape) for v in layer.trainable_variables} == {
        "conv1/conv/kernel:0": (3, 3, 6, 8),
        "conv1/conv/bias:0": (8,),
        "conv1/conv/offset/kernel:0": (3, 3, 6, 54),
        "conv1/conv/offset/bias:0": (54,),
        "conv1/norm/gamma:0": (8,),
        "conv1/norm/beta:0": (8,),
    }
    first = deformable.DeformableConv2D(8, modulated=False, use_bias=False, name="conv")
    first(tf.zeros([1, 4, 4, 6]))
    assert [tuple(v.shape) for v in first.variables] == [(3, 3, 6, 8), (3, 3, 6, 18), (18,)]


@pytest.mark.parametrize("modulated, share", [(False, 1.0), (True, 0.5)])
@pytest.mark.parametrize("options", [{}, {"strides": 2}, {"dilation_rate": 3}])
def test_starts_as_an_ordinary_convolution(modulated, share, options):
    layer = deformable.DeformableConv2D(5, 3, modulated=modulated, use_bias=False, **options)
    x = tf.random.stateless_normal([2, 7, 6, 4], seed=(0, 1))
    outputs = layer(x, training=True)
    expected = share * conv2d(x, layer.kernel, **options)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def randomize(layer, seed=0):
    """Values with which offsets are of the order of a cell."""
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        if "moving_variance" in variable.name:
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        else:
            variable.assign(rng.normal(0.0, 0.4, variable.shape))


@pytest.mark.parametrize("options", [{}, {"use_bias": True, "strides": 2, "modulated": False}])
def test_a_frozen_norm_is_taken_up_by_the_kernel(options):
    layer = deformable.DeformableConvNormAct(8, 3, norm="frozen_batch", **options)
    x = tf.random.stateless_normal([2, 7, 6, 6], seed=(0, 1))
    layer(x)
    randomize(layer)

    def results(function):
        with tf.GradientTape() as tape:
            y = function(x)
            loss = tf.reduce_sum(tf.square(y))
        return [y, *tape.gradient(loss, layer.trainable_variables)]

    ours = results(lambda x: layer(x, training=True))
    for a, b in zip(ours, results(lambda x: tf.nn.relu(layer.norm(layer.conv(x))))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_mixed_precision(mixed_bfloat16):
    layer = deformable.DeformableConv2D(8)
    x = tf.cast(tf.random.stateless_normal([2, 6, 6, 8], seed=(0, 1)), tf.bfloat16)
    layer(x)
    randomize(layer)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, tf.float32))
    assert y.dtype == tf.bfloat16
    gradients = tape.gradient(loss, [x, *layer.trainable_variables])
    assert [g.dtype for g in gradients] == [tf.bfloat16, *[tf.float32] * 4]
    predicted = tf.cast(layer.offset(x), tf.float32)
    rounded = [tf.cast(tf.cast(v, tf.bfloat16), tf.float32) for v in (x, layer.kernel)]
    exact = convolve(rounded[0], predicted[..., :18], tf.sigmoid(predicted[..., 18:]), rounded[1])
    exact += layer.bias
    np.testing.assert_allclose(tf.cast(y, tf.float32), exact, atol=0.02 * np.abs(exact).max())


@pytest.mark.parametrize("options", [{}, {"strides": 2, "deformable_groups": 2}])
def test_converts_with_builtin_operators_only(options, monkeypatch):
    monkeypatch.setattr(chunks, "CACHE_BYTES", 20_000)
    layer = deformable.DeformableConvNormAct(8, 3, norm="frozen_batch", name="conv1", **options)
    x = np.random.default_rng(0).normal(size=[1, 16, 12, 8]).astype(np.float32)
    layer(x)
    randomize(layer)

    @tf.function(input_signature=[tf.TensorSpec(x.shape)])
    def function(x):
        with forms.use(Form.TFLITE):
            return layer(x, training=False)

    (outputs,) = builtin_tflite.runner(function.get_concrete_function(), layer)(x=x).values()
    np.testing.assert_allclose(outputs, layer(x), atol=1e-4)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="got 3 groups and 8 channels"):
        deformable.DeformableConv2D(4, deformable_groups=3)(tf.zeros([1, 4, 4, 8]))
    with pytest.raises(ValueError, match="kernel_size must be odd, got 2"):
        deformable.DeformableConvNormAct(4, 2)
