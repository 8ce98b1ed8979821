"""Segments of things and stuff, against loops and at their edges."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import masks
from panoptic_tf.inputs.segments import index_segments
from panoptic_tf.structures import PanopticSample


def make_sample(categories, ids, crowd):
    size = categories.shape
    return PanopticSample(
        image=tf.zeros([*size, 3]),
        image_info=tf.constant([size, size, (1, 1), (0, 0)], tf.float32),
        category_mask=tf.constant(categories, tf.int32),
        instance_mask=tf.constant(ids, tf.int32),
        crowd_mask=tf.constant(crowd, tf.bool),
        image_id=tf.constant("1"),
    )


def draw(size, seed, *, num_ids=12):
    """Ids in blocks and in single pixels; of odd categories they are things, 0 is void."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, num_ids, [-(-length // 3) for length in size])
    ids = np.kron(blocks, np.ones((3, 3), int))[: size[0], : size[1]]
    ids = np.where(rng.random(size) < 0.2, rng.integers(0, num_ids, size), ids)
    categories = np.concatenate([[0], rng.integers(1, 7, num_ids)])[ids]
    crowd = np.concatenate([[False], rng.random(num_ids) < 0.25])[ids]
    return categories, np.where(categories % 2 == 1, ids, 0), crowd


def expected_segments(categories, ids, crowd, max_segments):
    """Map and categories of the rows, by a loop over pixels and one over segments."""
    pixels = {}
    for y, x in np.ndindex(*categories.shape):
        if categories[y, x] and not crowd[y, x]:
            # Stuff before things, then by category or id: the order within one area.
            key = (1, ids[y, x]) if ids[y, x] else (0, categories[y, x])
            pixels.setdefault(key, []).append((y, x))
    largest = sorted(pixels, key=lambda key: (-len(pixels[key]), key))[:max_segments]
    segment_map = np.zeros(categories.shape, int)
    for i, key in enumerate(largest):
        segment_map[tuple(zip(*pixels[key]))] = i + 1
    return segment_map, [categories[pixels[key][0]] for key in largest]


def assert_equal(found, segment_map, categories):
    count, rows = len(categories), found.categories.shape[0]
    assert int(found.count) == count
    np.testing.assert_array_equal(found.segment_map, segment_map)
    np.testing.assert_array_equal(found.categories, [*categories, *[0] * (rows - count)])
    np.testing.assert_array_equal(found.valid, np.arange(rows) < count)


@pytest.mark.parametrize("max_segments", [1, 4, 20])
@pytest.mark.parametrize("size", [(1, 1), (11, 7), (24, 32)])
@pytest.mark.parametrize("seed", range(3))
def test_against_loops(size, seed, max_segments):
    drawn = draw(size, seed)
    expected = expected_segments(*drawn, max_segments)
    assert_equal(index_segments(make_sample(*drawn), max_segments), *expected)


def test_drawn():
    # Stuff 4 in two pieces, things 1 and 2 of category 3, a crowd (id 3), and void at the end.
    categories = np.array([[4, 3, 3, 3, 4, 0], [4, 3, 3, 5, 5, 0], [4, 3, 3, 5, 5, 0]])
    ids = np.array([[0, 1, 1, 3, 0, 0], [0, 2, 1, 0, 0, 0], [0, 2, 1, 0, 0, 0]])
    sample = make_sample(categories, ids, ids == 3)
    # Four pixels each: stuff 4, stuff 5, thing 1. Two: thing 2.
    found = index_segments(sample, 5)
    expected = [[1, 3, 3, 0, 1, 0], [1, 4, 3, 2, 2, 0], [1, 4, 3, 2, 2, 0]]
    assert_equal(found, expected, [4, 5, 3, 3])
    # Of more than fit those of the end are left out, on the map too.
    cut = np.array(expected)
    assert_equal(index_segments(sample, 2), np.where(cut > 2, 0, cut), [4, 5])


@pytest.mark.parametrize("crowd", [False, True])
def test_without_a_segment(crowd):
    """All void, or a crowd alone: of stuff as well."""
    categories = np.full((5, 6), 2 if crowd else 0)
    found = index_segments(make_sample(categories, np.zeros((5, 6)), np.full((5, 6), crowd)), 3)
    assert_equal(found, np.zeros((5, 6)), [])


def test_inside_a_pipeline():
    """Static shapes, and what it is eagerly; ids of a far range as pasted instances have them."""
    categories, ids, crowd = draw((24, 32), 7)
    ids = np.where(ids > 0, ids * 1000, 0)
    arrays = [np.asarray(a, t) for a, t in ((categories, "i4"), (ids, "i4"), (crowd, "?"))]

    def index(*one):
        segments = index_segments(make_sample_of(*one), 20)
        counts = masks.count_channels(segments.segment_map, tf.range(21), 20)
        return segments, counts

    def make_sample_of(categories, ids, crowd):
        return PanopticSample(tf.zeros([24, 32, 3]), None, categories, ids, crowd, tf.constant(""))

    dataset = tf.data.Dataset.from_tensors(tuple(arrays)).map(index)
    segments, counts = dataset.element_spec
    assert segments.segment_map.shape == (24, 32) and segments.categories.shape == (20,)
    assert segments.valid.shape == (20,) and counts.shape == (6, 8, 20)
    segments, counts = next(iter(dataset))
    assert_equal(segments, *expected_segments(*arrays, 20))
    covered = counts.numpy().sum(axis=-1)
    middle = segments.segment_map.numpy().reshape(6, 4, 8, 4)[:, 1:3, :, 1:3] > 0
    np.testing.assert_array_equal(covered, middle.sum(axis=(1, 3)))
