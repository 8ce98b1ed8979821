import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.inputs.normalize import normalize_image, valid_mask

MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 5.0)


def padded(size, network_size=(6, 8), seed=0):
    image = np.random.default_rng(seed).uniform(0, 255, (*size, 3)).astype(np.float32)
    return geometry.fit_and_pad(tf.constant(image), network_size)


def test_values():
    image = tf.constant([[[12.0, 28.0, 25.0]]])
    info = tf.constant([[1, 1], [1, 1], [1, 1], [0, 0]], tf.float32)
    np.testing.assert_allclose(
        normalize_image(image, info, mean=MEAN, std=STD), [[[1.0, 2.0, -1.0]]], rtol=1e-6
    )
    # Mean and deviation belong to the channels in their new order: blue first.
    np.testing.assert_allclose(
        normalize_image(image, info, mean=MEAN, std=STD, channel_order="BGR"),
        [[[(25 - 10) / 2, (28 - 20) / 4, (12 - 30) / 5]]],
        rtol=1e-6,
    )


@pytest.mark.parametrize("size", [(3, 8), (6, 2), (6, 8), (1, 1), (5, 100), (100, 5)])
def test_zero_outside_the_image(size):
    image, info = padded(size)
    normalized = normalize_image(image, info, mean=MEAN, std=STD).numpy()
    height, width = geometry.valid_size(info).numpy()
    expected = np.zeros((6, 8, 3))
    expected[:height, :width] = (image.numpy()[:height, :width] - MEAN) / np.array(STD)
    np.testing.assert_allclose(normalized, expected, atol=1e-4)
    assert valid_mask(info, 6, 8).numpy().sum() == height * width


def test_a_batch_is_its_images():
    images, infos = zip(*(padded(size, seed=i) for i, size in enumerate([(3, 8), (6, 2), (9, 9)])))
    together = normalize_image(
        tf.stack(images), tf.stack(infos), mean=MEAN, std=STD, channel_order="BGR"
    )
    for i in range(3):
        alone = normalize_image(images[i], infos[i], mean=MEAN, std=STD, channel_order="BGR")
        np.testing.assert_array_equal(together[i], alone)


def test_the_same_in_a_graph_with_unknown_batch():
    image, info = padded((3, 8))
    function = tf.function(
        lambda i, s: normalize_image(i, s, mean=MEAN, std=STD),
        input_signature=[tf.TensorSpec([None, 6, 8, 3]), tf.TensorSpec([None, 4, 2])],
    )
    np.testing.assert_allclose(
        function(image[None], info[None])[0],
        normalize_image(image, info, mean=MEAN, std=STD),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"channel_order": "rgb"}, "channel_order.*'rgb'"),
        ({"mean": (1.0,)}, "three values"),
        ({"std": (1.0, 2.0)}, "three values"),
    ],
)
def test_wrong_arguments(arguments, words):
    image, info = padded((3, 8))
    with pytest.raises(ValueError, match=words):
        normalize_image(image, info, **{"mean": MEAN, "std": STD, **arguments})
