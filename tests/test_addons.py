"""The augmentation policy of tensorflow-addons against NumPy and Pillow, and what is said without.

Tests of what it computes are left out where the extra is not installed: TensorFlow 2.16 and later.
"""

import dataclasses
import inspect
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from panoptic_tf import addons
from panoptic_tf.inputs import pipeline
from panoptic_tf.structures import InstanceAnnotations, PanopticSample
from panoptic_tf.systems import config

HEIGHT, WIDTH = 40, 56
SIZE = (33, 50)  # of the part that the image fills
ALL_OFF = {
    f"{name}_probability": 0.0 for name in ("rotation", "shear", "cutout", "sharpness", "equalize")
}


@pytest.fixture
def installed():
    try:
        return addons.require("this test")
    except ImportError as error:
        pytest.skip(f"needs the extra: {error}")


def make_sample(seed=0, num_instances=3, frame=(HEIGHT, WIDTH), size=SIZE):
    """Blobs in the top-left part of a frame, black and void around."""
    rng = np.random.default_rng(seed)
    is_image = (np.arange(frame[0]) < size[0])[:, None] & (np.arange(frame[1]) < size[1])

    def blobs(high, shape=()):
        values = rng.integers(0, high, (*shape, frame[0] // 5 + 1, frame[1] // 5 + 1))
        values = values.repeat(5, axis=-2).repeat(5, axis=-1)[..., : frame[0], : frame[1]]
        return values * is_image

    category = blobs(4)
    instances = None
    if num_instances is not None:
        instances = InstanceAnnotations(
            masks=tf.constant(blobs(2, (num_instances,)), tf.uint8),
            categories=tf.range(1, num_instances + 1),
            is_crowd=tf.zeros([num_instances], tf.bool),
        )
    return PanopticSample(
        image=tf.constant(rng.integers(0, 256, (*frame, 3)) * is_image[..., None], tf.float32),
        image_info=tf.constant([size, frame, (1, 1), (0, 0)], tf.float32),
        category_mask=tf.constant(category, tf.int32),
        instance_mask=tf.constant(blobs(9) * (category > 1), tf.int32),
        crowd_mask=tf.constant((blobs(2) * (category > 2)) > 0),
        image_id=tf.constant("1"),
        instances=instances,
    )


def arrays(sample):
    """Everything that moves."""
    found = {
        key: getattr(sample, key).numpy()
        for key in ("image", "category_mask", "instance_mask", "crowd_mask")
    }
    if sample.instances is not None:
        found["masks"] = sample.instances.masks.numpy()
    return found


def source_points(angle, slopes, size, frame):
    """Where each pixel of the result comes from: float64 [H, W] of y and of x."""
    cy, cx = (size[0] - 1) / 2, (size[1] - 1) / 2
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1, slopes[0]], [slopes[1], 1]])
    ys, xs = np.mgrid[: frame[0], : frame[1]]
    x, y = np.einsum("ij,jhw->ihw", matrix, np.stack([xs - cx, ys - cy]))
    return y + cy, x + cx


def move_in_numpy(values, y, x, size):
    """Bilinear and nearest values of [H, W] at points, zero beyond the frame and the image."""
    height, width = values.shape

    def at(row, column):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        found = values[row.clip(0, height - 1), column.clip(0, width - 1)]
        return np.where(inside, found, 0).astype(float)

    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    dy, dx = y - top, x - left
    above = at(top, left) * (1 - dx) + at(top, left + 1) * dx
    below = at(top + 1, left) * (1 - dx) + at(top + 1, left + 1) * dx
    nearest = at(np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int))
    is_image = (np.arange(height) < size[0])[:, None] & (np.arange(width) < size[1])
    return (above * (1 - dy) + below * dy) * is_image, nearest * is_image


@pytest.mark.parametrize(
    "degrees, slopes",
    [(10, (0, 0)), (-33, (0, 0)), (0, (0.2, 0)), (0, (0, -0.3)), (17, (0.1, 0.2))],
)
def test_moves_as_numpy_does(installed, degrees, slopes):
    sample = make_sample()
    angle = np.radians(degrees)
    moved = addons.move_sample(
        sample,
        size=tf.constant(SIZE),
        angle=tf.constant(angle, tf.float32),
        slopes=tf.constant(slopes, tf.float32),
    )
    y, x = source_points(angle, slopes, SIZE, (HEIGHT, WIDTH))
    before, after = arrays(sample), arrays(moved)
    for channel in range(3):
        expected, _ = move_in_numpy(before["image"][..., channel], y, x, SIZE)
        np.testing.assert_allclose(after["image"][..., channel], expected, atol=0.02)
    # Half-way points go to one side or the other in float32.
    is_clear = (abs(y % 1 - 0.5) > 1e-3) & (abs(x % 1 - 0.5) > 1e-3)
    assert is_clear.mean() > 0.9
    layers = [("category_mask", None), ("instance_mask", None), ("crowd_mask", None)]
    for key, row in [*layers, *(("masks", i) for i in range(3))]:
        one, other = (a[key] if row is None else a[key][row] for a in (before, after))
        _, expected = move_in_numpy(one, y, x, SIZE)
        np.testing.assert_array_equal(other[is_clear], expected[is_clear].astype(other.dtype))


def test_a_quarter_turn_is_counterclockwise(installed):
    size = (5, 5)
    sample = make_sample(frame=size, size=size)
    category = np.zeros(size, np.int32)
    category[0, 2] = category[0, 3] = 7  # top, a little to the right
    sample = sample._replace(category_mask=tf.constant(category))
    moved = addons.move_sample(
        sample, size=tf.constant(size), angle=tf.constant(np.pi / 2, tf.float32), slopes=tf.zeros(2)
    )
    expected = np.zeros(size, np.int32)
    expected[2, 0] = expected[1, 0] = 7  # left, a little up
    np.testing.assert_array_equal(moved.category_mask, expected)


def test_image_and_masks_stay_together(installed):
    """The mask painted into the image: inside of segments they still agree."""
    painted = make_sample()
    paint = tf.cast(painted.category_mask, tf.float32)[..., tf.newaxis] * tf.ones([3]) * 60.0
    painted = painted._replace(image=paint)
    moved = addons.augment_sample(
        painted,
        size=tf.constant(SIZE),
        seed=tf.constant([3, 4]),
        **{**ALL_OFF, "rotation_probability": 1.0, "shear_probability": 1.0},
    )
    category = moved.category_mask.numpy()
    assert (category != painted.category_mask.numpy()).mean() > 0.05
    neighbours = np.stack(
        [np.roll(category, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    )
    inside = (neighbours == category).all(axis=0)
    inside[[0, -1]] = inside[:, [0, -1]] = False
    np.testing.assert_allclose(moved.image.numpy()[inside, 0], 60.0 * category[inside], atol=0.1)


def test_a_cut_square_is_gray_and_void(installed):
    size = (6, 8)
    sample = make_sample(frame=(8, 8), size=size)
    sample = sample._replace(category_mask=tf.ones([8, 8], tf.int32))
    cut = addons.cut_out(
        sample,
        size=tf.constant(size),
        center=tf.constant([5, 2]),
        half_side=2,
        is_chosen=tf.constant(True),
    )
    is_cut = np.zeros((8, 8), bool)
    is_cut[3:6, 0:4] = True  # rows 3..6 and columns 0..3; the image ends after row 5
    before, after = arrays(sample), arrays(cut)
    assert (after["image"][is_cut] == 127.5).all()
    for key in ("category_mask", "instance_mask", "crowd_mask"):
        assert not after[key][is_cut].any()
        np.testing.assert_array_equal(after[key][~is_cut], before[key][~is_cut])
    assert not after["masks"][:, is_cut].any()
    np.testing.assert_array_equal(after["masks"][:, ~is_cut], before["masks"][:, ~is_cut])
    np.testing.assert_array_equal(after["image"][~is_cut], before["image"][~is_cut])


def pillow(image):
    return Image.fromarray(image[: SIZE[0], : SIZE[1]].astype(np.uint8))


def check_colors(sample, found, expected, tolerance):
    """The part of the image is as Pillow has it, the rest as it was."""
    found, before = found.numpy(), sample.image.numpy()
    part = found[: SIZE[0], : SIZE[1]]
    np.testing.assert_allclose(part, np.asarray(expected, np.float32), atol=tolerance)
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[: SIZE[0], : SIZE[1]] = False
    np.testing.assert_array_equal(found[outside], before[outside])


def test_equalizes_as_pillow_does(installed):
    sample = make_sample()
    dark = sample._replace(image=tf.floor(sample.image / 4.0))
    found = addons.equalize(dark.image, size=tf.constant(SIZE), is_chosen=tf.constant(True))
    check_colors(dark, found, ImageOps.equalize(pillow(dark.image.numpy())), 0)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.4])
def test_sharpens_as_pillow_does(installed, factor):
    sample = make_sample()
    found = addons.sharpen(sample.image, size=tf.constant(SIZE), factor=tf.constant(factor))
    expected = ImageEnhance.Sharpness(pillow(sample.image.numpy())).enhance(factor)
    check_colors(sample, found, expected, 1)


def test_probabilities_of_zero_change_nothing(installed):
    sample = make_sample()
    same = addons.augment_sample(
        sample, size=tf.constant(SIZE), seed=tf.constant([1, 2]), **ALL_OFF
    )
    for key, value in arrays(sample).items():
        np.testing.assert_array_equal(arrays(same)[key], value)


def test_zero_strengths_change_nothing(installed):
    sample = make_sample()
    strengths = {"rotation": 0, "shear": 0, "cutout": 0, "sharpness": 0, "equalize_probability": 0}
    same = addons.augment_sample(
        sample, size=tf.constant(SIZE), seed=tf.constant([1, 2]), **strengths
    )
    for key, value in arrays(sample).items():
        np.testing.assert_array_equal(arrays(same)[key], value)


@pytest.mark.parametrize("num_instances", [None, 0, 3])
def test_seeds_repeat_eagerly_and_in_tf_data(installed, num_instances):
    sample = make_sample(num_instances=num_instances)

    def augment(number):
        return addons.augment_sample(
            sample, size=tf.constant(SIZE), seed=tf.stack([tf.constant(5, tf.int64), number])
        )

    def moving(number):
        moved = augment(number)
        masks = () if moved.instances is None else (moved.instances.masks,)
        return (moved.image, moved.category_mask, moved.instance_mask, moved.crowd_mask, *masks)

    dataset = tf.data.Dataset.range(6).map(moving)
    assert [s.shape for s in dataset.element_spec] == [
        v.shape for v in moving(tf.constant(0, tf.int64))
    ]
    images = []
    for number, values in dataset.enumerate():
        for value, expected in zip(values, moving(number)):
            np.testing.assert_array_equal(value, expected)
        images.append(values[0].numpy())
    assert len({image.tobytes() for image in images}) > 3
    assert all(0 <= image.min() and image.max() <= 255 for image in images)


def test_config_and_function_have_the_same_defaults():
    parameters = inspect.signature(addons.augment_sample).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert defaults == config.AddonsAugmentation().as_dict()
    fields = {field.name for field in dataclasses.fields(pipeline.Augmentation)}
    assert fields == set(config.Augmentation().as_dict())


def test_without_the_extra_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    expected = r"pip install 'panoptic-tf\[addons\]'.*TensorFlow before 2\.16"
    with pytest.raises(ImportError, match=r"augmentation\.policy 'addons' needs.*" + expected):
        pipeline.Augmentation(policy="addons")
    with pytest.raises(ImportError, match=r"optimizer 'addons/LAMB' needs.*" + expected):
        addons.build_optimizer("LAMB", learning_rate=0.1)


def test_core_needs_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    assert pipeline.Augmentation().policy == "core"


def test_unknown_names():
    with pytest.raises(ValueError, match=r"augmentation\.policy must be core or addons, got 'tfa'"):
        pipeline.Augmentation(policy="tfa")
    with pytest.raises(ValueError, match=r"addons/\{AdaBelief, .*got Foo"):
        addons.build_optimizer("Foo", learning_rate=0.1)


@pytest.mark.parametrize("name, value", [("shear", 1), ("rotation", -5), ("sharpness", 1.5)])
def test_numbers_out_of_range(name, value):
    with pytest.raises(
        ValueError, match=rf"augmentation\.addons\.{name} must be 0\.\..*got {value}"
    ):
        addons.augment_sample(
            make_sample(), size=tf.constant(SIZE), seed=tf.constant([1, 2]), **{name: value}
        )
