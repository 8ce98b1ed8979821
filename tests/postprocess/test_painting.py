import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.layers import operators
from panoptic_tf.postprocess import lanes, painting, score_order, segments, upsampling
from panoptic_tf.structures import Prediction

NETWORK_SIZE = (40, 56)
THRESHOLD = 0.4


def image_info(size, network_size=NETWORK_SIZE):
    return geometry.fit_and_pad(tf.zeros([*size, 3]), network_size)[1]


def build(infos, output_size, stride, network_size=NETWORK_SIZE):
    return upsampling.build_upsampling(
        tf.stack(infos),
        output_size,
        map_size=tuple(-(-side // stride) for side in network_size),
        stride=stride,
        width_multiple=lanes.WIDTH_MULTIPLE,
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


def upsample_all(maps, infos, output_size, stride):
    """Every map [B, K, h, w] as a whole, with the weights of rows as one matrix."""
    columns, bands, rows = (x.numpy() for x in build(infos, output_size, stride))
    batch, _, height, _ = maps.shape
    every_row = np.arange(bands.shape[1] * bands.shape[2]).reshape([*bands.shape[1:3], 1])
    matrix = np.zeros([batch, every_row.size, height], np.float32)
    for b in range(batch):
        np.add.at(matrix[b], (every_row, rows[b][:, np.newaxis]), bands[b])
    whole = np.einsum("bkhw,byh,bwx->bkyx", maps, matrix, columns, optimize=True)
    return whole[:, :, : output_size[0], : output_size[1]]


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
    found = upsample_all(maps, infos, output_size, stride)
    for (b, k), one_map in zip(np.ndindex(*maps.shape[:2]), maps.reshape([-1, *size])):
        expected = published_upsampling(one_map.astype(np.float64), infos[b], output_size, stride)
        np.testing.assert_allclose(found[b, k], expected, atol=2e-5)


def test_bands_that_read_a_row():
    weights = build([image_info((90, 126))], (90, 126), 4)
    for row in range(10):
        is_used = np.arange(10) == row
        bands = upsampling.band_range(weights, tf.constant(is_used[np.newaxis, np.newaxis]))
        start, end, top, bottom = (int(x[0, 0]) for x in bands)
        reads = weights.bands.numpy()[0].max(axis=1) > 0  # [N, c]
        rows = weights.rows.numpy()[0]
        reading = [n for n in range(len(rows)) if row in rows[n][reads[n]]]
        assert start <= reading[0] and reading[-1] < end
        assert top <= rows[start].min() and rows[end - 1].max() < bottom


def test_the_best_of_maps():
    infos = [image_info(size) for size in SIZES]
    maps = draw_maps(1, 7, (10, 14), len(SIZES)) + 0.1
    maps[:, 5] = maps[:, 3]  # ties
    numbers = np.array([[2, 3, 5, 6, 8, 9, 11]] * len(SIZES), np.int32)
    numbers[1, 4:], numbers[3] = 0, 0
    weights = build(infos, (90, 101), 4)
    number, value = upsampling.best_of_maps(weights, tf.constant(maps), tf.constant(numbers))
    number, value = number.numpy()[:, :90, :101], value.numpy()[:, :90, :101]
    everything = upsample_all(
        maps * (numbers > 0)[:, :, np.newaxis, np.newaxis], infos, (90, 101), 4
    )
    np.testing.assert_allclose(value, everything.max(axis=1), atol=1e-6)
    for b in range(len(SIZES)):
        first = np.argmax(everything[b] > value[b] - 1e-6, axis=0)  # a tie to rounding
        expected = np.where(value[b] > 0, numbers[b][first], 0)
        assert (number[b] == expected).mean() > 0.999
    assert not number[3].any() and not (number == 9).any()


def paint(maps, infos, output_size, *, valid, takes_part, overlap=0.5, with_masks=True, stride=4):
    def run(maps, infos, valid, takes_part):
        return painting.paint_by_score(
            maps,
            build(tf.unstack(infos), output_size, stride),
            output_size=output_size,
            valid=valid,
            takes_part=takes_part,
            mask_threshold=THRESHOLD,
            overlap_threshold=overlap,
            with_masks=with_masks,
        )

    painted = tf.function(run, autograph=False)(
        *(tf.constant(x) for x in (maps, np.stack(infos), valid, takes_part))
    )
    return [None if x is None else x.numpy() for x in painted]


def paint_by_loops(masks, takes_part, overlap):
    owner = np.full(masks.shape[1:], -1)
    for k, mask in enumerate(masks):
        free = mask & (owner < 0)
        if takes_part[k] and mask.any() and 1 - free.sum() / mask.sum() <= overlap:
            owner[free] = k
    return owner


def assert_painted(found, maps, infos, output_size, valid, takes_part, overlap, stride):
    owner, bit_masks, boxes = found
    masks = upsample_all(maps, infos, output_size, stride) > THRESHOLD
    for b, image in enumerate(masks):
        expected = paint_by_loops(image, takes_part[b], overlap)
        np.testing.assert_array_equal(owner[b], expected)
        if bit_masks is None:
            continue
        for k, mask in enumerate(image & valid[b][:, np.newaxis, np.newaxis]):
            bit = bit_masks[b, ..., k // 32].view(np.uint32) >> np.uint32(k % 32) & 1
            np.testing.assert_array_equal(bit, mask)
            box = [0] * 4
            if mask.any():
                y, x = np.nonzero(mask)
                box = [y.min(), x.min(), y.max() + 1, x.max() + 1]
            assert boxes[b, k].tolist() == box


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("with_masks", [False, True])
def test_a_batch_against_loops(with_masks, overlap, portable):
    infos, count = [image_info(size) for size in SIZES[:4]], 40
    maps = draw_maps(2, count, (10, 14), len(infos))
    number = np.array([[40], [33], [0], [12]])
    valid = np.arange(count) < number
    takes_part = np.arange(count) < number // 2
    arguments = dict(valid=valid, takes_part=takes_part, overlap=overlap, stride=4)
    with operators.builtin_operators_only() if portable else tf.name_scope(""):
        found = paint(maps, infos, (70, 75), with_masks=with_masks, **arguments)
    assert (found[1] is not None) == with_masks
    assert found[0].max() > 2
    assert_painted(found, maps, infos, (70, 75), **arguments)


@pytest.mark.parametrize("count", [1, 32, 33, 255, 256, 300])
def test_any_number_of_instances(count):
    # One pixel each, at stride 1: the map is the mask.
    maps = np.zeros([1, count, *NETWORK_SIZE], np.float32)
    maps.reshape([count, -1])[np.arange(count), np.arange(count)] = 1
    everyone = np.ones([1, count], bool)
    arguments = dict(valid=everyone, takes_part=everyone, overlap=0.0, stride=1)
    found = paint(maps, [image_info(NETWORK_SIZE)], NETWORK_SIZE, **arguments)
    flat = found[0].reshape(-1)
    np.testing.assert_array_equal(flat[:count], np.arange(count))
    assert (flat[count:] == -1).all() and found[1].shape[-1] == -(-count // 32)
    assert_painted(found, maps, [image_info(NETWORK_SIZE)], NETWORK_SIZE, **arguments)


def test_drawn():
    # Two thirds of the second lie on the first: dropped. Half of the third does: it keeps the rest.
    # The fourth is empty. The fifth only counts as a detection.
    rows = ["AAAAAA..", "..AAAA..", "........"]
    first = np.array([[c == "A" for c in row] for row in rows])
    second, third = np.zeros_like(first), np.zeros_like(first)
    second[0:2, 5], second[2, 5] = True, True
    third[0, 4:8] = True
    masks = np.stack([first, second, third, np.zeros_like(first), np.ones_like(first)])
    info = [image_info((3, 8), (3, 8))]
    painted = painting.paint_by_score(
        tf.constant(masks[np.newaxis], tf.float32),
        build(info, (3, 8), 1, (3, 8)),
        output_size=(3, 8),
        valid=tf.ones([1, 5], tf.bool),
        takes_part=tf.constant([[True] * 4 + [False]]),
        mask_threshold=0.5,
        overlap_threshold=0.5,
        with_masks=True,
    )
    expected = [[0, 0, 0, 0, 0, 0, 2, 2], [-1, -1, 0, 0, 0, 0, -1, -1], [-1] * 8]
    np.testing.assert_array_equal(painted.owner[0], expected)
    np.testing.assert_array_equal(
        painted.bit_masks[0, ..., 0], np.tensordot(1 << np.arange(5), masks, 1)
    )
    boxes = [[0, 0, 2, 6], [0, 5, 3, 6], [0, 4, 1, 8], [0, 0, 0, 0], [0, 0, 3, 8]]
    np.testing.assert_array_equal(painted.boxes[0], boxes)


@pytest.mark.reference
@pytest.mark.parametrize("case", [0, 1])
def test_recorded(golden, case):
    recorded = golden(f"pfcn_combine_{case}")
    masks = recorded["masks"][np.newaxis].astype(np.float32)
    size, things, stuff = masks.shape[2:], 80, 54
    info = [image_info(size, size)]
    takes_part = recorded["scores"] >= recorded["inst_threshold"]
    takes_part = np.logical_and(takes_part, recorded["use_things"] > 0)[np.newaxis]
    painted = painting.paint_by_score(
        tf.constant(masks),
        build(info, size, 1, size),
        output_size=size,
        valid=tf.constant(takes_part),
        takes_part=tf.constant(takes_part),
        mask_threshold=THRESHOLD,
        overlap_threshold=float(recorded["overlap_threshold"]),
        with_masks=False,
    )
    semantic = recorded["semantic"][np.newaxis]  # 0 is "things", s is stuff category s
    merged = score_order.merge_painted(
        painted.owner,
        scores=tf.constant(recorded["scores"][np.newaxis]),
        categories=tf.constant(recorded["classes"][np.newaxis] + 1),
        stuff_mask=tf.constant(np.where(semantic > 0, semantic + things, 0)),
        stuff_probability=None,
        thing_ids=range(1, things + 1),
        num_categories=things + stuff,
        stuff_area=int(recorded["stuff_area_limit"]),
    )
    prediction = segments.build_segments(merged.row_map, merged.rows)
    found = {key: value.numpy()[0] for key, value in prediction.items()}
    names = ("id", "isthing", "category_id", "score", "area")
    table = list(zip(*(recorded[f"seg_{name}"].tolist() for name in names)))
    assert found[Prediction.NUM_SEGMENTS] == len(table)
    category, instance = found[Prediction.CATEGORY_MASK], found[Prediction.INSTANCE_MASK]
    for row, (number, is_thing, recorded_category, score, area) in enumerate(table):
        mask = recorded["panoptic"] == number
        expected = recorded_category + 1 if is_thing else recorded_category + things
        assert found[Prediction.SEGMENT_CATEGORY][row] == expected
        assert found[Prediction.SEGMENT_SCORE][row] == (np.float32(score) if is_thing else 1)
        assert (
            found[Prediction.SEGMENT_AREA][row] == mask.sum() == (area if area > 0 else mask.sum())
        )
        (number,) = set(instance[mask])
        assert (number > 0) == bool(is_thing)
        np.testing.assert_array_equal((category == expected) & (instance == number), mask)
