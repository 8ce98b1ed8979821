import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_tf.inputs import geometry
from panoptic_tf.ops import rescale

NETWORK_SIZE = (32, 48)
STRIDE = 4
MAP_SIZE = (NETWORK_SIZE[0] // STRIDE, NETWORK_SIZE[1] // STRIDE)


def image_info(size, network_size=NETWORK_SIZE):
    _, info = geometry.fit_and_pad(tf.zeros([*size, 3]), network_size)
    return info


def draw_maps(seed=0, channels=2, batch=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, *MAP_SIZE, channels)).astype(np.float32)


def sample(image, y, x):
    """The piecewise bilinear surface through the pixel centers of [h, w, C], edges repeated."""
    height, width = image.shape[:2]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
    bottom = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


def answered_size(size, output_size):
    """The image's size, or the largest of its shape that fits."""
    fit = min(1.0, output_size[0] / size[0], output_size[1] / size[1])
    return [min(max(round(s * fit), 1), o) for s, o in zip(size, output_size)]


def expected_maps(maps, size, output_size):
    """Every pixel by itself: output -> network frame, inside the image -> map."""
    fit = min(NETWORK_SIZE[0] / size[0], NETWORK_SIZE[1] / size[1])
    scaled = [min(max(round(s * fit), 1), n) for s, n in zip(size, NETWORK_SIZE)]
    answered = answered_size(size, output_size)
    result = np.zeros([*answered, maps.shape[-1]])
    for y, x in np.ndindex(*answered):
        at = []
        for index, n, a in ((y, scaled[0], answered[0]), (x, scaled[1], answered[1])):
            in_network = min(max((index + 0.5) * n / a - 0.5, 0.0), n - 1.0)
            at.append((in_network + 0.5) / STRIDE - 0.5)
        result[y, x] = sample(maps.astype(np.float64), *at)
    return result


def test_aligned_corners_put_cells_on_every_fourth_pixel():
    # A network of 9x13 pixels has 3x4 cells: on the pixels 0, 4, 8 and 0, 4, 8, 12.
    maps = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    info = image_info((9, 13), (9, 13))[tf.newaxis]
    found = rescale.rescale_to_image(maps, info, (9, 13), align_corners=True)
    np.testing.assert_allclose(found[:, ::4, ::4], maps, atol=1e-6)
    np.testing.assert_allclose(found[:, 2, ::4], (maps[:, 0] + maps[:, 1]) / 2, atol=1e-6)


def test_at_scale_1_it_is_a_resize_by_the_stride():
    maps = draw_maps()
    ours = rescale.rescale_to_image(maps, image_info(NETWORK_SIZE)[None], NETWORK_SIZE)
    np.testing.assert_allclose(ours, tf.image.resize(maps, NETWORK_SIZE), atol=1e-5)


# Smaller and larger than the network, wider and higher, larger than the output, of one pixel.
SIZES = [(16, 24), (21, 40), (40, 20), (64, 96), (60, 100), (200, 91), (1, 1), (1, 70), (90, 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("output_size", [(70, 110), (30, 26)])
def test_scaled_images_against_loops(size, output_size):
    maps, info = draw_maps(seed=size[0]), image_info(size)[None]
    answered = rescale.size_in_output(info, output_size)[0].numpy()
    assert answered.tolist() == answered_size(size, output_size)
    ours = rescale.rescale_to_image(maps, info, output_size)[0].numpy()
    assert ours.shape == (*output_size, 2)
    height, width = answered
    np.testing.assert_allclose(
        ours[:height, :width], expected_maps(maps[0], size, output_size), atol=2e-4
    )
    valid = rescale.valid_in_output(answered[None], output_size)[0].numpy()
    assert valid.sum() == height * width and valid[:height, :width].all()


def test_a_batch_is_its_images():
    maps = draw_maps(batch=3)
    infos = tf.stack([image_info(size) for size in [(16, 24), (60, 100), (40, 7)]])
    together = rescale.rescale_to_image(maps, infos, (50, 60))
    for i in range(3):
        alone = rescale.rescale_to_image(maps[i : i + 1], infos[i : i + 1], (50, 60))
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 300))
def test_padding_never_leaks_in(height, width):
    # Only cells that a pixel of the image itself reads may matter: the cells up to the neighbour of
    # the one that holds the last pixel's center.
    info = image_info((height, width))
    scaled = geometry.valid_size(info).numpy()
    maps = draw_maps()
    spoiled = maps.copy()
    for axis in range(2):
        last = (scaled[axis] - 0.5) / STRIDE - 0.5  # where the last pixel's center lies on the map
        first_unread = int(np.floor(max(last, 0.0))) + 2
        index = [slice(None)] * 4
        index[axis + 1] = slice(first_unread, None)
        spoiled[tuple(index)] = np.nan
    ours, expected = (
        rescale.rescale_to_image(m, info[None], (40, 60)).numpy() for m in (spoiled, maps)
    )
    assert not np.isnan(ours).any()
    np.testing.assert_array_equal(ours, expected)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 90), st.integers(1, 90))
def test_the_answered_size_fits_and_is_the_image_s_own_where_it_can(height, width, rows, columns):
    info = image_info((1, 1)).numpy()
    info[0] = height, width
    answered = rescale.size_in_output(info[None], (rows, columns))[0].numpy()
    assert (answered >= 1).all() and answered[0] <= rows and answered[1] <= columns
    if height <= rows and width <= columns:
        assert answered.tolist() == [height, width]
    else:
        assert answered[0] == rows or answered[1] == columns


@pytest.mark.parametrize("size", [(16, 24), (64, 96), (100, 40)])
def test_offsets_scale_with_the_image(size):
    info = image_info(size)[None]
    scale = rescale.output_scale(info, (64, 96))[0].numpy()
    scaled = geometry.valid_size(info)[0].numpy()
    np.testing.assert_allclose(scale, np.array(answered_size(size, (64, 96))) / scaled, rtol=1e-6)
