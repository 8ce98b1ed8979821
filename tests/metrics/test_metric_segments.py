import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest

from panoptic_tf.metrics import segments


def label_pixels(labels):
    """Every pixel is a run of its own."""
    return labels.label_runs(np.arange(np.prod(labels.size)))


def test_label_masks_drawn():
    category = np.array([[0, 0, 3], [1, 1, 3]])
    instance = np.array([[7, 0, 0], [5, 4, 0]])
    labels = label_pixels(segments.label_masks(category, instance))
    # (1, 4), (1, 5), (3, 0); void whatever its instance
    np.testing.assert_array_equal(labels.labels, [0, 0, 3, 2, 1, 3])
    np.testing.assert_array_equal(labels.categories, [0, 1, 1, 3])
    assert not labels.is_crowd.any()


def test_huge_instance_ids_label_alike():
    rng = np.random.default_rng(0)
    category, instance = rng.integers(0, 4, (9, 8)), rng.integers(0, 5, (9, 8))
    crowd = rng.random((9, 8)) < 0.5
    small = segments.label_masks(category, instance, crowd)
    huge = segments.label_masks(category, instance * 400_000_000, crowd)
    expected = label_pixels(small)
    expected = expected._replace(ids=expected.ids * 400_000_000)
    for one, other in zip(expected, label_pixels(huge)):
        np.testing.assert_array_equal(one, other)


def test_label_id_map_follows_the_table():
    id_map = np.array([[0, 70_000], [16_777_215, 70_000]], np.uint32)
    labels = label_pixels(
        segments.label_id_map(
            id_map, ids=[16_777_215, 70_000], categories=[2, 1], is_crowd=[True, False]
        )
    )
    np.testing.assert_array_equal(labels.labels, [0, 2, 1, 2])
    np.testing.assert_array_equal(labels.categories, [0, 2, 1])
    np.testing.assert_array_equal(labels.is_crowd, [False, True, False])


def table(overlaps):
    """Pixels of all pairs, shared or not: int64 [G + 1, P + 1]."""
    pixels = np.zeros((len(overlaps.gt_categories), len(overlaps.categories)), np.int64)
    pixels[overlaps.rows, overlaps.columns] = overlaps.pixels
    return pixels


def test_no_segment_at_all():
    void = segments.label_id_map(np.zeros((2, 3), np.uint32), ids=[], categories=[])
    assert table(segments.count_overlaps(void, void)).tolist() == [[6]]


@pytest.mark.parametrize(
    "ids, message",
    [
        ([5], "a.png: segment 9 has pixels in the PNG and no entry in segments_info"),
        ([5, 9, 3], "a.png: segment 3 is in segments_info and has no pixel in the PNG"),
        ([5, 9, 9], "a.png: segment 9 has more than one entry"),
        ([0, 5, 9], r"a.png: segment ids must be 1\.\.16777215, got 0"),
        ([5, 9, 2**24], r"a.png: segment ids must be 1\.\.16777215, got 16777216"),
    ],
)
def test_map_and_table_disagree(ids, message):
    with pytest.raises(ValueError, match=message):
        label_pixels(
            segments.label_id_map(
                np.array([[0, 5, 9]]), ids=ids, categories=[1] * len(ids), source="a.png"
            )
        )


def test_overlaps_count_every_pixel():
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 6, (2, 20, 30))
    overlaps = segments.count_overlaps(
        segments.label_masks(truth, truth), segments.label_masks(found, found)
    )
    expected = [[np.sum((truth == i) & (found == j)) for j in range(6)] for i in range(6)]
    np.testing.assert_array_equal(table(overlaps), expected)


def test_ids_beyond_those_of_a_png():
    for wrong in (-1, 2**24):
        with pytest.raises(ValueError, match=r"pixels must hold ids 0\.\.16777215"):
            label_pixels(segments.label_id_map(np.array([[0, wrong]]), ids=[], categories=[]))


def test_runs_start_where_any_mask_changes():
    one = np.array([[1, 1, 2, 2], [2, 2, 2, 2]])
    other = np.array([[0, 0, 0, 1], [1, 1, 0, 0]], np.uint8)
    expected = [True, False, True, True, False, False, True, False]
    assert segments.find_runs(one, other).tolist() == expected
    assert segments.find_runs(np.zeros((0, 3))).tolist() == []


def draw_masks(high):
    """Category, instance and crowd masks of one size for both sides: int [2, 3, H, W]."""
    shape = st.tuples(st.just(2), st.just(3), st.integers(0, 5), st.integers(0, 6))
    return arrays.arrays(np.int64, shape, elements=st.integers(0, high))


@hypothesis.given(draw_masks(2), st.sampled_from([1, 1000, 2**33]))
@hypothesis.settings(max_examples=150, deadline=None)
def test_overlaps_of_masks_equal_brute_force(masks, factor):
    truth, found = masks
    overlaps = segments.count_overlaps(
        segments.label_masks(truth[0], truth[1] * factor, truth[2] > 0),
        segments.label_masks(found[0], found[1] * factor),
    )
    rows = truth[0] * 9 + truth[1] * 3 + (truth[2] > 0)
    columns = found[0] * 9 + found[1] * 3
    rows[truth[0] == 0] = columns[found[0] == 0] = 0
    truths, founds = (sorted({0, *values.reshape(-1).tolist()}) for values in (rows, columns))
    expected = [[np.sum((rows == i) & (columns == j)) for j in founds] for i in truths]
    np.testing.assert_array_equal(table(overlaps), expected)
    assert overlaps.gt_categories.tolist() == [i // 9 for i in truths]
    assert overlaps.gt_is_crowd.tolist() == [i % 3 == 1 for i in truths]
    assert overlaps.categories.tolist() == [j // 9 for j in founds]


@hypothesis.given(draw_masks(2), st.sampled_from([1, 2**18]))
@hypothesis.settings(max_examples=50, deadline=None)
def test_pixels_of_keys_equal_brute_force(masks, factor):
    """Few keys are counted in a table, many by sorting."""
    values = masks[0, 0] * factor
    starts = np.flatnonzero(segments.find_runs(values))
    keys, pixels = segments.count_pixels(values.reshape(-1)[starts], starts=starts, end=values.size)
    expected = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(keys, expected[0])
    np.testing.assert_array_equal(pixels, expected[1])


def test_pairs_that_share_pixels_are_all_that_is_kept():
    """A table of all pairs of these segments has a hundred million entries."""
    ids = np.arange(1, 10_001).reshape(100, 100)
    one = segments.label_masks(np.ones_like(ids), ids)
    other = segments.label_masks(np.ones_like(ids), ids[::-1])
    overlaps = segments.count_overlaps(one, other)
    assert [len(part) for part in overlaps[:3]] == [10_000] * 3
    assert overlaps.rows.tolist() == list(range(1, 10_001))  # in ascending order
    np.testing.assert_array_equal(overlaps.columns.reshape(100, 100), ids[::-1])
    assert (overlaps.pixels == 1).all()


@hypothesis.given(draw_masks(3), st.integers(0, 2**32 - 1), st.sampled_from([np.uint32, np.int64]))
@hypothesis.settings(max_examples=150, deadline=None)
def test_overlaps_of_id_maps_equal_brute_force(masks, seed, dtype):
    rng = np.random.default_rng(seed)
    maps, tables = [], []
    for side in masks:
        ids = np.append(0, rng.choice(2**24 - 1, 3, replace=False) + 1)
        maps.append(ids[side[0]].astype(dtype))
        tables.append(rng.permutation([i for i in ids[1:] if i in maps[-1]]))
    overlaps = segments.count_overlaps(
        *(
            segments.label_id_map(id_map, ids=table, categories=np.arange(len(table)) + 1)
            for id_map, table in zip(maps, tables)
        )
    )
    truths, founds = ([0, *table] for table in tables)
    expected = [[np.sum((maps[0] == i) & (maps[1] == j)) for j in founds] for i in truths]
    np.testing.assert_array_equal(table(overlaps), expected)
