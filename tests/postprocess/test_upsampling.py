import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.postprocess import upsampling

NETWORK_SIZE = (40, 56)


def image_info(size, network_size=NETWORK_SIZE):
    return geometry.fit_and_pad(tf.zeros([*size, 3]), network_size)[1]


def build(infos, output_size, stride):
    return upsampling.build_upsampling(
        tf.stack(infos),
        output_size,
        map_size=tuple(-(-side // stride) for side in NETWORK_SIZE),
        stride=stride,
    )


def resize(image, size, scale):
    """Bilinear, edges repeated: pixel i of the result reads at (i + 0.5) * scale - 0.5."""
    for axis in (0, 1):
        length = image.shape[axis]
        position = (np.arange(size[axis]) + 0.5) * scale[axis] - 0.5
        position = np.clip(position, 0, length - 1)
        low = position.astype(int)
        high = np.minimum(low + 1, length - 1)
        share = (position - low).reshape([-1, 1] if axis == 0 else [1, -1])
        image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return image


def published_upsampling(one_map, info, output_size, stride):
    """To the network's pixels, cut to the image, to the output's pixels; 0 beyond the image."""
    original, network, scale, _ = np.asarray(info)
    scaled = np.maximum(np.round(original * scale), 1).astype(int)
    fit = min(1.0, *(np.array(output_size) / original))
    answered = np.maximum(np.round(original * fit), 1).astype(int)
    frame = [stride * side for side in one_map.shape]
    in_network = resize(one_map, frame, [1 / stride] * 2)[: scaled[0], : scaled[1]]
    result = np.zeros(output_size)
    result[: answered[0], : answered[1]] = resize(in_network, answered, scaled / answered)
    return result


def upsample_all(weights, maps):
    """[B, K, h, w] -> [B, K, H, W]."""
    one_by_one = [upsampling.upsample(weights, maps[:, k]) for k in range(maps.shape[1])]
    return np.stack(one_by_one, axis=1)


def draw_maps(seed, count, size, batch=1):
    """Some blobs, some noise, some empty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    maps = np.zeros([batch, count, *size], np.float32)
    for one in maps.reshape([-1, *size]):
        radii, center = rng.uniform(0.5, 0.4 * max(size), 2), rng.uniform(0, size)
        one += np.exp(-(((y - center[0]) / radii[0]) ** 2) - ((x - center[1]) / radii[1]) ** 2)
        one += rng.choice([0, 0, 0.4]) * rng.random(size)
        one *= rng.choice([0, 1, 1, 1, 1])
    return maps


# As large as the network's frame, smaller, larger than it and the output, of one pixel, narrow.
SIZES = [NETWORK_SIZE, (30, 33), (100, 120), (64, 21), (1, 1), (3, 90)]


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("output_size", [(40, 56), (90, 101), (20, 30)])
def test_upsampling_in_two_steps(output_size, stride):
    infos = [image_info(size) for size in SIZES]
    size = tuple(-(-side // stride) for side in NETWORK_SIZE)
    maps = draw_maps(0, 2, size, len(SIZES))
    found = upsample_all(build(infos, output_size, stride), maps)
    for (b, k), one_map in zip(np.ndindex(*maps.shape[:2]), maps.reshape([-1, *size])):
        expected = published_upsampling(one_map.astype(np.float64), infos[b], output_size, stride)
        np.testing.assert_allclose(found[b, k], expected, atol=2e-5)


def test_the_best_of_maps():
    infos = [image_info(size) for size in SIZES]
    maps = draw_maps(1, 7, (10, 14), len(SIZES)) + 0.1
    maps[:, 5] = maps[:, 3]  # ties
    numbers = np.array([[2, 3, 5, 6, 8, 9, 11]] * len(SIZES), np.float32)
    numbers[1, 4:], numbers[3] = 0, 0
    weights = build(infos, (90, 101), 4)
    number, value = upsampling.best_of_maps(weights, tf.constant(maps), tf.constant(numbers))
    number, value = number.numpy(), value.numpy()
    everything = upsample_all(weights, maps * (numbers > 0)[:, :, np.newaxis, np.newaxis])
    np.testing.assert_allclose(value, everything.max(axis=1), atol=1e-6)
    for b in range(len(SIZES)):
        first = np.argmax(everything[b] > value[b] - 1e-6, axis=0)  # a tie to rounding
        expected = np.where(value[b] > 0, numbers[b][first], 0)
        assert (number[b] == expected).mean() > 0.999
    assert not number[3].any() and not (number == 9).any()
