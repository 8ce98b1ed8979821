"""The largest channel and its probability in the image, in every form and compiled by XLA."""

import functools

import builtin_tflite
import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.ops import blocks, forms, rescale
from panoptic_tf.ops.argmax_in_image import argmax_in_image, probability_in_image
from panoptic_tf.ops.cpu import argmax_in_image as cpu

NETWORK_SIZE = (32, 48)
OUTPUT_SIZE = (50, 60)
CHANNELS = 6
BLOCK = 60 * CHANNELS * 24
"""Values of 24 rows: three blocks, of which the last is not full."""

# Smaller and larger than the network, wider and higher, larger than the output, of one pixel.
SIZES = [(16, 24), (21, 40), (40, 20), (64, 96), (60, 100), (200, 91), (1, 1), (1, 70), (90, 2)]


@pytest.fixture(params=[*forms.Form, "xla"], ids=str)
def compiled(request):
    """Makes a graph of a function, of unknown batch size unless it is for TFLite."""

    def compile_(function):
        form = forms.Form.ACCELERATOR if request.param == "xla" else request.param
        batch = 3 if form is forms.Form.TFLITE else None

        @functools.partial(tf.function, autograph=False, jit_compile=request.param == "xla")
        def run(logits, infos):
            with forms.use(form):
                return function(logits, infos)

        run.get_concrete_function(
            tf.TensorSpec([batch, 8, 12, CHANNELS]), tf.TensorSpec([batch, 4, 2])
        )
        return run

    return compile_


@pytest.fixture
def in_blocks(monkeypatch):
    """The images are larger than what may exist at a time."""
    monkeypatch.setattr(blocks, "values_at_once", lambda: BLOCK)
    monkeypatch.setattr(cpu, "_PIXELS_AT_ONCE", 500)


def image_infos(*sizes):
    return tf.stack([geometry.fit_and_pad(tf.zeros([*s, 3]), NETWORK_SIZE)[1] for s in sizes])


def draw_logits(seed, batch, *, regions):
    """Noise, over regions of one large channel each if so wished; two channels are equal."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(batch, 8, 12, CHANNELS))
    if regions:
        channel = np.kron(random.integers(0, CHANNELS, (batch, 2, 3)), np.ones((1, 4, 4), int))
        logits += 9.0 * (channel[..., None] == np.arange(CHANNELS))
    logits[..., 4] = logits[..., 2]
    return tf.constant(logits, tf.float32)


@pytest.mark.parametrize("regions, align_corners", [(False, True), (True, False)])
def test_against_all_channels_interpolated(compiled, in_blocks, regions, align_corners):
    infos = image_infos((16, 24), (60, 100), (200, 91))
    logits = draw_logits(1, 3, regions=regions)
    options = dict(image_info=infos, output_size=OUTPUT_SIZE, align_corners=align_corners)

    @compiled
    def run(logits, infos):
        frame = infos, OUTPUT_SIZE
        best = argmax_in_image(logits, *frame, align_corners)
        other = tf.math.floormod(best * 5.0 + 1.0, float(CHANNELS))
        return [(c, probability_in_image(logits, *frame, c, align_corners)) for c in (best, other)]

    found = run(logits, infos)
    best = found[0][0]
    assert best.dtype == tf.float32
    expected = tf.argmax(rescale.rescale_to_image(logits, **options), axis=-1)
    np.testing.assert_array_equal(best, expected)
    probabilities = rescale.rescale_to_image(tf.nn.softmax(logits), **options)
    for channel, probability in found:
        exact = tf.gather(probabilities, tf.cast(channel, tf.int32), axis=3, batch_dims=3)
        np.testing.assert_allclose(probability, exact, atol=1e-6)


def test_one_channel_everywhere(compiled):
    logits = tf.one_hot(tf.ones([3, 8, 12], tf.int32), CHANNELS) * 9.0
    infos = image_infos((60, 100), (16, 24), (1, 1))
    best = compiled(lambda logits, infos: argmax_in_image(logits, infos, OUTPUT_SIZE))(
        logits, infos
    )
    assert best.shape == (3, *OUTPUT_SIZE) and (best.numpy() == 1.0).all()


def test_two_steps_are_two_resizes(compiled, in_blocks):
    output_size = (70, 110)
    two_steps, one_step = (
        compiled(lambda logits, info, n=n: argmax_in_image(logits, info, output_size, two_steps=n))
        for n in (True, False)
    )
    maps = draw_logits(2, 3, regions=False)
    maps += tf.constant([0.0, 0.0, 0.0, 0.0, 0.5, 0.0])  # the two are no longer equal
    in_network = tf.image.resize(maps, NETWORK_SIZE)
    for i in range(0, len(SIZES), 3):
        infos = image_infos(*SIZES[i : i + 3])
        found, in_one_step = two_steps(maps, infos).numpy(), one_step(maps, infos).numpy()
        for k, size in enumerate(SIZES[i : i + 3]):
            height, width = geometry.valid_size(infos[k]).numpy()
            answered = rescale.size_in_output(infos, output_size)[k].numpy()
            resized = tf.image.resize(in_network[k, :height, :width], answered).numpy()
            top = np.sort(resized, axis=-1)
            is_clear = top[..., -1] - top[..., -2] > 1e-4
            assert is_clear.mean() > 0.99
            ours = found[k, : answered[0], : answered[1]]
            np.testing.assert_array_equal(ours[is_clear], np.argmax(resized, axis=-1)[is_clear])
            if size == (64, 96):  # at the borders, where the scale is not that of the network
                other = in_one_step[k, : answered[0], : answered[1]]
                assert 0.0 < np.mean(ours != other) < 0.1


def test_in_tflite_with_builtin_operators(in_blocks):
    def run(maps, info):
        frame = info, (50, 60)
        best = argmax_in_image(maps, *frame)
        return {
            "best": best,
            "in_two_steps": argmax_in_image(maps, *frame, two_steps=True),
            "probability": probability_in_image(maps, *frame, best),
            "rescaled": rescale.rescale_to_image(maps, *frame),
        }

    specs = tf.TensorSpec([1, 8, 12, CHANNELS], name="maps"), tf.TensorSpec([1, 4, 2], name="info")
    with forms.use(forms.Form.TFLITE):
        traced = tf.function(run).get_concrete_function(*specs)
    maps, info = draw_logits(3, 1, regions=True), image_infos((60, 100))
    found = builtin_tflite.runner(traced)(maps=maps.numpy(), info=info.numpy())
    expected = run(maps, info)
    for name in ("rescaled", "probability"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    for name in ("best", "in_two_steps"):
        np.testing.assert_array_equal(found[name], expected[name])
