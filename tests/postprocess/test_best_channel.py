import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.layers import operators
from panoptic_tf.postprocess import best_channel, rescale

NETWORK_SIZE = (32, 48)
OUTPUT_SIZE = (50, 60)
CHANNELS = 6


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


def probabilities(logits, infos):
    """Softmax of the cells, all channels interpolated."""
    return rescale.rescale_to_image(tf.nn.softmax(logits), infos, OUTPUT_SIZE)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("at_once", [7, 2**14])
def test_against_all_channels_interpolated(monkeypatch, regions, at_once):
    monkeypatch.setattr(best_channel, "_PIXELS_AT_ONCE", at_once)
    infos = image_infos((16, 24), (60, 100), (200, 91))
    logits = draw_logits(1, 3, regions=regions)
    expected = tf.argmax(rescale.rescale_to_image(logits, infos, OUTPUT_SIZE), axis=-1).numpy()

    @tf.function(
        input_signature=[tf.TensorSpec([None, 8, 12, CHANNELS]), tf.TensorSpec([None, 4, 2])]
    )
    def run(logits, infos):
        best = best_channel.find_best_channel(logits, infos, OUTPUT_SIZE)
        probability_of = best_channel.interpolate_probability(logits, infos, OUTPUT_SIZE, best)
        asked = (best.channel * 5 + 1) % CHANNELS
        return best, probability_of(best.channel), asked, probability_of(asked)

    best, own, asked, other = run(logits, infos)
    np.testing.assert_array_equal(best.channel, expected)
    assert (best.is_certain.numpy().mean() > 0.3) == regions
    all_of_them = probabilities(logits, infos)
    for channel, found in ((best.channel, own), (asked, other)):
        exact = tf.gather(all_of_them, channel, axis=3, batch_dims=3)
        np.testing.assert_allclose(found, exact, atol=1e-6)


def test_one_channel_everywhere():
    infos = image_infos((60, 100))
    logits = tf.one_hot(tf.ones([1, 8, 12], tf.int32), CHANNELS) * 9.0
    best = best_channel.find_best_channel(logits, infos, OUTPUT_SIZE)
    assert best.is_certain.numpy().all() and (best.channel.numpy() == 1).all()


def test_the_portable_form_is_the_same():
    infos = image_infos((60, 100))
    logits = draw_logits(2, 1, regions=True)

    def run():
        best = best_channel.find_best_channel(logits, infos, OUTPUT_SIZE)
        probability_of = best_channel.interpolate_probability(logits, infos, OUTPUT_SIZE, best)
        return best.channel, probability_of((best.channel + 1) % CHANNELS)

    ours = run()
    with operators.builtin_operators_only():
        portable = run()
    np.testing.assert_array_equal(portable[0], ours[0])
    np.testing.assert_allclose(portable[1], ours[1], atol=1e-6)
