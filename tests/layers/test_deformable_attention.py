"""Multi-scale deformable attention."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers.deformable_attention import DeformableAttention
from panoptic_tf.ops import forms

SIZES = [(2, 3), (4, 5)]
COUNT, CHANNELS, HEADS, POINTS = 26, 8, 2, 3


def build():
    layer = DeformableAttention(CHANNELS, num_heads=HEADS, num_levels=len(SIZES), num_points=POINTS)
    rng = np.random.default_rng(0)
    x = rng.normal(size=[2, COUNT, CHANNELS]).astype(np.float32)
    positions = rng.normal(size=[1, COUNT, CHANNELS]).astype(np.float32)
    layer(x, positions, SIZES)
    return layer, x, positions


def set_random(layer):
    for i, variable in enumerate(layer.weights):
        variable.assign(np.random.default_rng(i).normal(size=variable.shape) * 0.7)


def bilinear(image, y, x):
    """[h, w, d] at a position, 0 outside."""
    total = 0.0
    for row, column in itertools.product(
        *((int(np.floor(p)), int(np.floor(p)) + 1) for p in (y, x))
    ):
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            total = total + image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def attend(layer, x, positions):
    """Of one image, by loops over equation 3 of arXiv:2010.04159."""

    def project(dense, x):
        return x @ dense.kernel.numpy() + dense.bias.numpy()

    values = project(layer.value, x).reshape(COUNT, HEADS, -1)
    levels, first = [], 0
    for height, width in SIZES:
        levels.append(values[first : first + height * width].reshape(height, width, HEADS, -1))
        first += height * width
    offsets = project(layer.offset, x + positions).reshape(COUNT, HEADS, len(SIZES), POINTS, 2)
    weights = np.exp(project(layer.weight, x + positions)).reshape(COUNT, HEADS, -1)
    weights = (weights / weights.sum(-1, keepdims=True)).reshape(offsets.shape[:-1])
    cells = [(y, x, size) for size in SIZES for y in range(size[0]) for x in range(size[1])]
    outputs = np.zeros([COUNT, HEADS, CHANNELS // HEADS])
    for n, (row, column, (height, width)) in enumerate(cells):
        for head, level, point in np.ndindex(HEADS, len(SIZES), POINTS):
            h, w = SIZES[level]
            y = (row + 0.5) / height * h - 0.5 + offsets[n, head, level, point, 1]
            x_ = (column + 0.5) / width * w - 0.5 + offsets[n, head, level, point, 0]
            sample = bilinear(levels[level][:, :, head], y, x_)
            outputs[n, head] += weights[n, head, level, point] * sample
    return project(layer.output_projection, outputs.reshape(COUNT, CHANNELS))


@pytest.mark.parametrize("form", list(forms.Form), ids=lambda form: form.value)
def test_equals_loops(form):
    layer, x, positions = build()
    set_random(layer)
    with forms.use(form):
        found = layer(x, positions, SIZES)
    for i in range(2):
        np.testing.assert_allclose(found[i], attend(layer, x[i], positions[0]), atol=2e-4)


def test_at_first_a_head_looks_into_its_direction():
    layer, _, _ = build()
    assert not np.any(layer.offset.kernel)
    offsets = layer.offset.bias.numpy().reshape(HEADS, len(SIZES), POINTS, 2)
    for point in range(POINTS):
        np.testing.assert_allclose(offsets[0, :, point], [[point + 1, 0]] * 2, atol=1e-6)
        np.testing.assert_allclose(offsets[1, :, point], [[-point - 1, 0]] * 2, atol=1e-6)


def test_forms_have_the_same_gradients():
    layer, x, positions = build()
    set_random(layer)

    def gradients(form):
        @tf.function(autograph=False)
        def run(x):
            with forms.use(form), tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x, positions, SIZES, training=True) ** 2)
            return tape.gradient(loss, [x, *layer.trainable_variables])

        return [tf.convert_to_tensor(g).numpy() for g in run(tf.constant(x))]

    expected = gradients(forms.Form.ACCELERATOR)
    assert all(np.any(g) for g in expected)
    for found, wanted in zip(gradients(forms.Form.CPU), expected):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 heads must divide 8 channels"):
        DeformableAttention(8, num_heads=3, num_levels=2, num_points=1)
