import numpy as np
import pytest
import tensorflow as tf
from layers import roi_oracle

from panoptic_tf.ops import bit_masks, forms
from panoptic_tf.ops.roi_mask_targets import roi_mask_targets


def unpack(words):
    """int32 [H, W, P] -> bool [32 * P, H, W]."""
    bits = np.asarray(words)[..., np.newaxis] >> np.arange(32) & 1
    return np.moveaxis(bits.reshape(*bits.shape[:2], -1), -1, 0).astype(bool)


def draw_masks(seed, *, count, size=(24, 30)):
    """Noisy rectangles that overlap."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), np.uint8)
    for mask in masks:
        y, x = (rng.integers(0, n - 4) for n in size)
        window = mask[y : y + rng.integers(3, 20), x : x + rng.integers(3, 20)]
        window[...] = rng.random(window.shape) < 0.8
    return masks


def test_bits_of_a_drawn_mask():
    # Ids 7 and 9 are rows 0 and 33: bit 0 of plane 0 and bit 1 of plane 1. Id 5 has no row.
    mask = tf.constant([[0, 7, 9], [5, 7, 9]])
    row_of_id = tf.constant([-1, -1, -1, -1, -1, -1, -1, 0, -1, 33])
    words = bit_masks.pack_instance_ids(mask, row_of_id, num_planes=2)
    np.testing.assert_array_equal(words[..., 0], [[0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(words[..., 1], [[0, 0, 2], [0, 0, 2]])


@pytest.mark.parametrize("count", [0, 1, 8, 31, 32, 33, 64, 70])
def test_packed_masks_unpack(count):
    masks = draw_masks(count, count=count)
    words = bit_masks.pack_masks(tf.constant(masks), num_planes=2)
    assert words.dtype == tf.int32 and words.shape == (24, 30, 2)
    unpacked = unpack(words)
    np.testing.assert_array_equal(unpacked[:count], masks[:64].astype(bool))
    assert not unpacked[count:].any()


def test_both_packings_agree_in_a_pipeline():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 41, (6, 24, 30)).astype(np.int32)
    row_of_id = np.concatenate([[-1], rng.permutation(40)]).astype(np.int32)

    def pack(ids):
        masks = tf.cast(ids[tf.newaxis] == tf.range(1, 41)[:, tf.newaxis, tf.newaxis], tf.uint8)
        masks = tf.scatter_nd(row_of_id[1:, np.newaxis], masks, [40, 24, 30])
        return (
            bit_masks.pack_instance_ids(ids, tf.constant(row_of_id), num_planes=2),
            bit_masks.pack_masks(masks, num_planes=2),
        )

    data = tf.data.Dataset.from_tensor_slices(ids).map(pack)
    for image, (from_ids, from_masks) in zip(ids, data):
        np.testing.assert_array_equal(from_ids, from_masks)
        np.testing.assert_array_equal(pack(tf.constant(image))[0], from_ids)


@pytest.mark.reference
def test_recorded_targets(golden):
    vectors = golden("rcnn_losses")
    words = bit_masks.pack_masks(tf.constant(vectors["mask_gt"]), num_planes=1)
    boxes = tf.constant(vectors["mask_boxes"][np.newaxis][..., [1, 0, 3, 2]])
    targets = roi_mask_targets(words[tf.newaxis], boxes, tf.range(5)[tf.newaxis], output_size=28)
    np.testing.assert_array_equal(targets[0], vectors["mask_targets"])


def test_a_half_covered_bin_is_inside():
    # Four bins of 2 x 2 pixels; one half, one quarter, all and none of their pixels are set.
    mask = [[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    words = bit_masks.pack_masks(tf.constant([mask], tf.uint8), num_planes=1)
    targets = roi_mask_targets(
        words[tf.newaxis],
        tf.constant([[[0.0, 0.0, 4.0, 4.0]]]),
        tf.constant([[0]]),
        output_size=2,
    )
    np.testing.assert_array_equal(targets[0, 0], [[1, 0], [1, 0]])


@pytest.fixture(
    params=forms.registered()["roi_mask_targets.mask_shares"], ids=lambda form: form.value
)
def form(request):
    """Every form."""
    with forms.use(request.param):
        yield request.param


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_loops(seed, ratio, form):
    rng = np.random.default_rng(seed)
    masks = np.stack([draw_masks(seed, count=40), draw_masks(seed + 9, count=40)])
    words = tf.stack([bit_masks.pack_masks(tf.constant(m), num_planes=2) for m in masks])
    corner = rng.uniform(-6, 20, (2, 9, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 30, corner.shape)], axis=-1)
    boxes = boxes.astype(np.float32)
    instance = rng.integers(0, 40, (2, 9)).astype(np.int32)
    instance[:, :3] = [31, 32, 31]

    crop = tf.function(roi_mask_targets)
    targets = crop(words, boxes, instance, output_size=5, sampling_ratio=ratio).numpy()
    for image, index in np.ndindex(2, 9):
        share = roi_oracle.align(
            masks[image, instance[image, index]][..., np.newaxis].astype(np.float64),
            boxes[image, index].astype(np.float64),
            scale=1.0,
            output_size=5,
            sampling_ratio=ratio,
        )[..., 0]
        clear = np.abs(share - 0.5) > 1e-5
        np.testing.assert_array_equal(targets[image, index][clear], (share >= 0.5)[clear])


def test_boxes_that_pad(form):
    words = tf.fill([2, 6, 7, 1], -1)  # every bit is set, the sign bit too
    boxes = tf.constant(
        [[[0.0] * 4, [1.0, 1.0, 5.0, 5.0], [np.nan] * 4], [[9.0, 9.0, 12.0, 12.0]] * 3]
    )
    instance = tf.constant([[-1, 31, 99], [0, 0, 0]])
    targets = roi_mask_targets(words, boxes, instance, output_size=2).numpy()
    assert targets[0, 1].all()
    targets[0, 1] = 0
    assert not targets.any()


@pytest.mark.parametrize("boxes", [np.zeros((2, 0, 4)), np.zeros((2, 3, 4))])
def test_nothing_to_crop(boxes):
    words = tf.ones([2, 6, 7, 1], tf.int32)
    instance = tf.zeros(boxes.shape[:2], tf.int32)
    boxes = tf.constant(boxes, tf.float32)
    targets = roi_mask_targets(words, boxes, instance, output_size=2)
    assert targets.shape == (*boxes.shape[:2], 2, 2)
    assert not targets.numpy().any()


def test_static_shape_with_unknown_batch():
    function = tf.function(lambda w, b, i: roi_mask_targets(w, b, i, output_size=28))
    concrete = function.get_concrete_function(
        tf.TensorSpec([None, 32, 40, 4], tf.int32),
        tf.TensorSpec([None, 9, 4]),
        tf.TensorSpec([None, 9], tf.int32),
    )
    assert concrete.output_shapes.as_list() == [None, 9, 28, 28]
