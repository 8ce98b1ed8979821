"""Maps of segments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_tf.datasets import segments

SMALL = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)


@given(hnp.arrays(np.uint32, SMALL, elements=st.integers(0, segments.MAX_SEGMENT_ID)))
def test_colours_hold_every_id(ids):
    np.testing.assert_array_equal(segments.rgb_to_id(segments.id_to_rgb(ids)), ids)


def test_colour_is_red_first():
    np.testing.assert_array_equal(
        segments.id_to_rgb(np.array([[1 + 256 * 2 + 65536 * 3]])), [[[1, 2, 3]]]
    )


@pytest.mark.parametrize("value", [-1, 256**3])
def test_ids_beyond_three_bytes_are_refused(value):
    with pytest.raises(ValueError, match="ids must lie in 0..16777215"):
        segments.id_to_rgb(np.array([[value]]))


def test_rows_areas_and_boxes_by_hand():
    id_map = np.array(
        [
            [0, 9, 9, 0],
            [4, 9, 0, 0],
            [4, 4, 0, 8],
        ]
    )
    rows, unknown = segments.ids_to_rows(id_map, [9, 5, 4])  # 5 is not in the map, 8 not listed
    np.testing.assert_array_equal(rows, [[0, 1, 1, 0], [3, 1, 0, 0], [3, 3, 0, 0]])
    assert unknown.tolist() == [8]
    areas, boxes = segments.areas_and_boxes(rows, 3)
    assert areas.tolist() == [3, 0, 3]
    assert boxes.tolist() == [[1, 0, 2, 2], [0, 0, 0, 0], [0, 1, 2, 2]]


def test_no_segment_at_all():
    rows, unknown = segments.ids_to_rows(np.zeros((2, 3), np.uint32), [])
    areas, boxes = segments.areas_and_boxes(rows, 0)
    assert not rows.any() and not len(unknown)
    assert areas.shape == (0,) and boxes.shape == (0, 4)


def test_masks_by_hand():
    rows = np.array([[0, 1, 2], [3, 3, 4]])
    category_mask, instance_mask, crowd_mask = segments.rows_to_masks(
        rows, categories=[2, 1, 2, 3], is_crowd=[False, False, True, False], thing_ids=[2]
    )
    np.testing.assert_array_equal(category_mask, [[0, 2, 1], [2, 2, 3]])
    np.testing.assert_array_equal(instance_mask, [[0, 1, 0], [3, 3, 0]])
    np.testing.assert_array_equal(crowd_mask, [[False, False, False], [True, True, False]])


def test_masks_to_rows_by_hand():
    # Instance 5 of category 1, stuff 2, instance 4 of category 3; void whatever its instance.
    category_mask = np.array([[1, 0, 2], [3, 3, 2]])
    instance_mask = np.array([[5, 6, 0], [4, 4, 0]])
    rows, categories, instances = segments.masks_to_rows(category_mask, instance_mask)
    np.testing.assert_array_equal(rows, [[1, 0, 2], [3, 3, 2]])
    assert categories.tolist() == [1, 2, 3] and instances.tolist() == [5, 0, 4]


@pytest.mark.parametrize("value", [0, 1])
def test_masks_to_rows_of_one_value(value):
    mask = np.full((2, 2), value)
    rows, categories, _ = segments.masks_to_rows(mask, 0 * mask)
    assert (rows == value).all() and categories.tolist() == [value] * value


@given(hnp.arrays(np.int32, SMALL, elements=st.integers(0, 4)))
def test_areas_and_boxes_equal_a_loop(rows):
    areas, boxes = segments.areas_and_boxes(rows, 4)
    for row in range(1, 5):
        y, x = np.nonzero(rows == row)
        assert areas[row - 1] == len(y)
        expected = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1] if len(y) else [0] * 4
        assert boxes[row - 1].tolist() == expected
