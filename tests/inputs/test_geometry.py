import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_tf.inputs import geometry
from panoptic_tf.structures import ImageInfo, InstanceAnnotations, PanopticSample

NETWORK_SIZE = (23, 37)


def draw_geometry(size, seed, network_size=NETWORK_SIZE, scales=(0.3, 3.0)):
    return geometry.random_geometry(
        tf.constant(size),
        network_size,
        seed=tf.constant([seed, 1], tf.int64),
        scale_min=scales[0],
        scale_max=scales[1],
        flip_horizontally=True,
        flip_vertically=True,
    )


def paint(sample, number):
    """The sample with the picture 255 where the instance mask holds the number, else 0."""
    painted = tf.where(sample.instance_mask == number, 255.0, 0.0)
    return sample._replace(image=tf.tile(painted[..., tf.newaxis], [1, 1, 3]))


def transform(sample, seed):
    where = draw_geometry(sample.image.shape[:2], seed)
    return geometry.transform_sample(sample, where, NETWORK_SIZE)


def inside(moved):
    height, width = geometry.valid_size(moved.image_info).numpy()
    mask = np.zeros(NETWORK_SIZE, bool)
    mask[:height, :width] = True
    return mask


def assert_aligned(moved, number):
    """The nearest pixel weighs in bilinear sampling: all paint is on the id, no paint off it."""
    painted = moved.image.numpy()[..., 0]
    on = moved.instance_mask.numpy() == number
    assert on[painted >= 254.99].all()
    assert not on[painted <= 0.01].any()
    assert (painted[~inside(moved)] == 0).all()
    for mask in (moved.category_mask, moved.instance_mask, moved.crowd_mask):
        assert not mask.numpy()[~inside(moved)].any()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(24, 40), (17, 5), (61, 83)])
def test_image_and_ids_stay_aligned(make_sample, size, seed):
    sample = make_sample(*size, seed=seed)
    seen = 0
    for number in range(1, 6):
        moved = transform(paint(sample, number), seed)
        assert_aligned(moved, number)
        seen += (moved.instance_mask.numpy() == number).sum()
    assert seen > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_same_pixels_move_in_every_mask(make_sample, seed):
    # Categories and crowd are functions of the instance id, before and after.
    sample = make_sample(33, 29, seed=seed)
    moved = transform(sample, seed)
    categories = np.array([0, 1, 2, 1, 2, 1])
    instances = moved.instance_mask.numpy()
    on = instances > 0
    np.testing.assert_array_equal(moved.category_mask.numpy()[on], categories[instances[on]])
    np.testing.assert_array_equal(moved.crowd_mask.numpy(), instances == 5)


def test_inside_tf_data_as_eagerly(make_sample):
    samples = [paint(make_sample(20 + 7 * i, 41 - 5 * i, seed=i), 1) for i in range(4)]
    eager = [transform(sample, seed=i) for i, sample in enumerate(samples)]

    def generate():
        for sample in samples:
            yield tuple(sample[:6])

    signature = (
        tf.TensorSpec([None, None, 3]),
        tf.TensorSpec([4, 2]),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None, None], tf.bool),
        tf.TensorSpec([], tf.string),
    )

    def move(index, values):
        sample = PanopticSample(*values)
        where = geometry.random_geometry(
            tf.shape(sample.image)[:2],
            NETWORK_SIZE,
            seed=tf.stack([index, 1]),
            scale_min=0.3,
            scale_max=3.0,
            flip_horizontally=True,
            flip_vertically=True,
        )
        return tuple(geometry.transform_sample(sample, where, NETWORK_SIZE)[:6])

    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    dataset = dataset.enumerate().map(lambda i, *values: move(i, *values))
    assert dataset.element_spec[0].shape == (*NETWORK_SIZE, 3)
    assert dataset.element_spec[2].shape == NETWORK_SIZE
    for ours, expected in zip(dataset, eager):
        np.testing.assert_allclose(ours[0], expected.image, atol=1e-3)
        for a, b in zip(ours[1:5], expected[1:5]):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("network_size", [(1, 1), (4, 4), (1, 9)])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 200)])
def test_tiny_images_and_frames(size, network_size):
    masks = tf.ones(size, tf.int32)
    sample = PanopticSample(
        tf.fill([*size, 3], 200.0), tf.zeros([4, 2]), masks, masks, masks > 0, tf.constant("1")
    )
    for where in (
        geometry.fitting_geometry(tf.constant(size), network_size),
        draw_geometry(size, 3, network_size, scales=(0.01, 0.02)),
        draw_geometry(size, 4, network_size, scales=(1.0, 4.0)),
    ):
        moved = geometry.transform_sample(sample, where, network_size)
        height, width = geometry.valid_size(moved.image_info).numpy()
        assert 1 <= height <= network_size[0] and 1 <= width <= network_size[1]
        np.testing.assert_allclose(moved.image[:height, :width], 200.0, rtol=1e-6)
        assert moved.category_mask.numpy().sum() == height * width
        assert moved.image.shape == (*network_size, 3)


def test_a_point_lies_where_image_info_says():
    # One bright pixel in a dark image, scaled by 3 and cropped: its center of mass is where the
    # pixel's center maps to (pixel centers are at + 0.5).
    for seed, (y, x) in enumerate([(5, 7), (9, 3), (8, 8)]):
        image = np.zeros((16, 16, 3), np.float32)
        image[y, x] = 100.0
        masks = tf.zeros([16, 16], tf.int32)
        sample = PanopticSample(
            tf.constant(image), tf.zeros([4, 2]), masks, masks, masks > 0, tf.constant("")
        )
        where = geometry.Geometry(
            tf.constant([48, 40]),
            tf.constant([3 * seed, seed]),
            tf.constant(False),
            tf.constant(False),
        )
        moved = geometry.transform_sample(sample, where, (40, 38))
        info = moved.image_info.numpy()
        np.testing.assert_allclose(
            info, [[16, 16], [40, 38], [3.0, 2.5], [3 * seed, seed]], rtol=1e-6
        )
        heat = moved.image.numpy()[..., 0].astype(np.float64)
        rows, columns = np.mgrid[:40, :38] + 0.5
        found = np.array([(heat * rows).sum(), (heat * columns).sum()]) / heat.sum()
        expected = (np.array([y, x]) + 0.5) * info[ImageInfo.SCALE] - info[ImageInfo.OFFSET]
        np.testing.assert_allclose(found, expected, atol=0.1)


@pytest.mark.parametrize("horizontally", [False, True])
@pytest.mark.parametrize("vertically", [False, True])
def test_flips_turn_the_crop(horizontally, vertically):
    #   1 2 3        a crop of 2 x 2 from (0, 1) is   2 3
    #   4 5 6                                         5 6
    ids = tf.constant([[1, 2, 3], [4, 5, 6]])
    sample = PanopticSample(
        tf.zeros([2, 3, 3]), tf.zeros([4, 2]), ids, ids, ids == 3, tf.constant("")
    )
    where = geometry.Geometry(
        tf.constant([2, 3]), tf.constant([0, 1]), tf.constant(horizontally), tf.constant(vertically)
    )
    moved = geometry.transform_sample(sample, where, (3, 2))
    expected = np.array([[2, 3], [5, 6]])
    expected = expected[:, ::-1] if horizontally else expected
    expected = expected[::-1] if vertically else expected
    np.testing.assert_array_equal(moved.instance_mask, np.vstack([expected, [[0, 0]]]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 70), st.integers(1, 70))
def test_fitting_never_exceeds_the_frame_and_touches_it(height, width, rows, columns):
    where = geometry.fitting_geometry(tf.constant([height, width]), (rows, columns))
    scaled = where.scaled_size.numpy()
    assert (1 <= scaled).all() and scaled[0] <= rows and scaled[1] <= columns
    assert scaled[0] == rows or scaled[1] == columns
    exact = min(rows / height, columns / width)
    assert abs(scaled[0] - height * exact) <= 0.5 + 1e-3 or scaled[0] == 1
    assert abs(scaled[1] - width * exact) <= 0.5 + 1e-3 or scaled[1] == 1


@pytest.mark.parametrize("size", [(7, 90), (90, 7), (23, 37), (46, 74), (1, 1), (479, 640)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_fit_and_pad_is_the_fitting_transformation(size, dtype):
    image = np.random.default_rng(0).uniform(0, 255, (*size, 3)).astype(dtype)
    padded, info = geometry.fit_and_pad(tf.constant(image), NETWORK_SIZE)
    assert padded.shape == (*NETWORK_SIZE, 3) and padded.dtype == tf.float32
    assert 0 <= padded.numpy().min() and padded.numpy().max() <= 255
    masks = tf.ones(size, tf.int32)
    sample = PanopticSample(
        tf.constant(image), tf.zeros([4, 2]), masks, masks, masks > 0, tf.constant("")
    )
    where = geometry.fitting_geometry(tf.constant(size), NETWORK_SIZE)
    moved = geometry.transform_sample(sample, where, NETWORK_SIZE)
    np.testing.assert_array_equal(padded, moved.image)
    np.testing.assert_array_equal(info, moved.image_info)
    np.testing.assert_array_equal(info[ImageInfo.ORIGINAL_SIZE], size)
    height, width = geometry.valid_size(info).numpy()
    np.testing.assert_array_equal([height, width], where.scaled_size)
    assert moved.category_mask.numpy()[:height, :width].all()
    assert moved.category_mask.numpy().sum() == height * width
    if size == NETWORK_SIZE:
        np.testing.assert_allclose(padded, image, atol=1e-3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10_000))
def test_a_random_crop_lies_in_the_image(height, width, seed):
    where = draw_geometry((height, width), seed, scales=(0.5, 2.0))
    scaled, offset = where.scaled_size.numpy(), where.offset.numpy()
    assert (offset >= 0).all()
    assert (offset + np.minimum(NETWORK_SIZE, scaled) <= scaled).all()
    fit = min(NETWORK_SIZE[0] / height, NETWORK_SIZE[1] / width)
    assert (scaled <= np.maximum(np.array([height, width]) * fit * 2.0 + 0.51, 1)).all()
    again = draw_geometry((height, width), seed, scales=(0.5, 2.0))
    for a, b in zip(where, again):
        np.testing.assert_array_equal(a, b)


def test_the_whole_range_of_crops_and_flips_is_drawn():
    # 10 x 10 scaled to 20 x 20 has 11 positions of a 10 x 10 crop along each side.
    drawn = [draw_geometry((10, 10), seed, (10, 10), scales=(2.0, 2.0)) for seed in range(300)]
    assert {int(d.offset[0]) for d in drawn} == set(range(11))
    assert {int(d.offset[1]) for d in drawn} == set(range(11))
    flips = [(bool(d.flip_horizontally), bool(d.flip_vertically)) for d in drawn]
    assert all(50 < flips.count((a, b)) < 100 for a in (False, True) for b in (False, True))


def with_instances(sample, numbers):
    """The sample with a mask of each id, and one of all of them, which overlaps every other."""
    masks = [tf.cast(sample.instance_mask == i, tf.uint8) for i in numbers]
    masks += [tf.cast(sample.instance_mask > 0, tf.uint8)] if masks else []
    masks = tf.stack(masks) if masks else tf.zeros([0, *sample.instance_mask.shape], tf.uint8)
    count = len(masks)
    return sample._replace(
        instances=InstanceAnnotations(masks, tf.range(count), tf.zeros([count], tf.bool))
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [(30, 26), (7, 90), (61, 83), (1, 1)])
def test_overlapping_instances_move_with_the_ids(make_sample, size, seed):
    numbers = range(1, 6) if seed else ()
    moved = transform(with_instances(make_sample(*size, seed=seed), numbers), seed=seed)
    masks = moved.instances.masks.numpy()
    assert masks.shape == ((6 if seed else 0), *NETWORK_SIZE) and masks.dtype == np.uint8
    for mask, number in zip(masks, numbers):
        np.testing.assert_array_equal(mask, moved.instance_mask.numpy() == number)
    if seed:
        np.testing.assert_array_equal(masks[-1], moved.instance_mask.numpy() > 0)
        np.testing.assert_array_equal(moved.instances.categories, range(6))


def test_overlapping_instances_inside_tf_data(make_sample):
    sample = with_instances(make_sample(30, 26, seed=2), [1, 2])
    where = draw_geometry((30, 26), 3)

    def move(masks, categories, is_crowd):
        own = sample._replace(instances=InstanceAnnotations(masks, categories, is_crowd))
        return geometry.transform_sample(own, where, NETWORK_SIZE).instances.masks

    signature = (
        tf.TensorSpec([None, None, None], tf.uint8),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.bool),
    )
    dataset = tf.data.Dataset.from_generator(
        lambda: iter([tuple(sample.instances)]), output_signature=signature
    ).map(move)
    assert dataset.element_spec == tf.TensorSpec([None, *NETWORK_SIZE], tf.uint8)
    eager = geometry.transform_sample(sample, where, NETWORK_SIZE).instances.masks
    np.testing.assert_array_equal(next(iter(dataset)), eager)
