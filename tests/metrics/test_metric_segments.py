import numpy as np
import pytest

from panoptic_tf.metrics import segments


def test_label_masks_drawn():
    category = np.array([[0, 0, 3], [1, 1, 3]])
    instance = np.array([[7, 0, 0], [5, 4, 0]])
    labels = segments.label_masks(category, instance)
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
    for one, other in zip(small, huge):
        np.testing.assert_array_equal(one, other)


def test_label_id_map_follows_the_table():
    id_map = np.array([[0, 70_000], [16_777_215, 70_000]], np.uint32)
    labels = segments.label_id_map(
        id_map, ids=[16_777_215, 70_000], categories=[2, 1], is_crowd=[True, False]
    )
    np.testing.assert_array_equal(labels.labels, [0, 2, 1, 2])
    np.testing.assert_array_equal(labels.categories, [0, 2, 1])
    np.testing.assert_array_equal(labels.is_crowd, [False, True, False])


def test_no_segment_at_all():
    void = segments.label_id_map(np.zeros((2, 3), np.uint32), ids=[], categories=[])
    assert segments.count_overlaps(void, void).pixels.tolist() == [[6]]


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
        segments.label_id_map(
            np.array([[0, 5, 9]]), ids=ids, categories=[1] * len(ids), source="a.png"
        )


def test_overlaps_count_every_pixel():
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 6, (2, 20, 30))
    overlaps = segments.count_overlaps(
        segments.label_masks(truth, truth), segments.label_masks(found, found)
    )
    expected = [[np.sum((truth == i) & (found == j)) for j in range(6)] for i in range(6)]
    np.testing.assert_array_equal(overlaps.pixels, expected)
