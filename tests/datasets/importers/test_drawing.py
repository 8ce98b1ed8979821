"""Masks that overlap, painted into one map; instances stay whole."""

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import rle
from panoptic_tf.datasets.annotations import Segment
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.importers import drawing, source

SIZE = (8, 9)
INFO = DatasetInfo.from_coco(
    [{"id": 5, "name": "cat"}, {"id": 9, "name": "sky", "isthing": 0}], name="drawn"
)
CAT, SKY = 5, 9


def square(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def masks_of(*items):
    return [source.Mask(category, rle.encode_rle(mask)) for category, mask in items]


LARGE, SMALL = square(0, 0, 6, 6), square(1, 1, 3, 3)


@pytest.mark.parametrize(
    "items, on_top, hidden",
    [
        ([LARGE, SMALL], drawing.SMALLER_ON_TOP, False),
        ([SMALL, LARGE], drawing.SMALLER_ON_TOP, False),
        ([LARGE, SMALL], drawing.LATER_ON_TOP, False),
        ([SMALL, LARGE], drawing.LATER_ON_TOP, True),
    ],
)
def test_which_mask_is_on_top(items, on_top, hidden):
    masks = masks_of(*((CAT, mask) for mask in items))
    rows, segments, notes = drawing.paint(masks, SIZE, INFO, on_top=on_top)
    if hidden:
        np.testing.assert_array_equal(rows, LARGE)
        assert segments == (Segment(1, CAT),) and notes == (drawing.HIDDEN,)
    else:
        large, small = rows[0, 0], rows[1, 1]
        assert {large, small} == {1, 2} and not notes
        np.testing.assert_array_equal(rows, np.where(SMALL, small, np.where(LARGE, large, 0)))
        assert segments == (Segment(1, CAT), Segment(2, CAT))


def test_stuff_of_a_category_is_one_segment():
    masks = masks_of((SKY, square(0, 0, 2, 9)), (CAT, SMALL), (SKY, square(6, 0, 8, 9)))
    rows, segments, _ = drawing.paint(masks, SIZE, INFO, on_top=drawing.LATER_ON_TOP)
    assert segments == (Segment(1, SKY), Segment(2, CAT))
    assert rows[0, 0] == rows[7, 0] == 1 and rows[1, 1] == 2 and rows[4, 4] == 0


def test_a_full_image_and_none():
    rows, segments, _ = drawing.paint(
        masks_of((SKY, np.ones(SIZE, bool))), SIZE, INFO, on_top=drawing.LATER_ON_TOP
    )
    np.testing.assert_array_equal(rows, 1)
    assert segments == (Segment(1, SKY),)
    rows, segments, _ = drawing.paint([], SIZE, INFO, on_top=drawing.LATER_ON_TOP)
    assert rows.shape == SIZE and not rows.any() and segments == ()


def draw(image, size):
    assert size == SIZE
    return masks_of((CAT, LARGE), (CAT, SMALL), (CAT, np.zeros(SIZE, bool)), (SKY, SMALL))


def test_instances_are_whole_things(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros([*SIZE, 3], np.uint8)).save(path)
    read = drawing.reader(draw, INFO, on_top=drawing.LATER_ON_TOP)
    loaded = read(source.SourceImage("a", str(path), "a.png"))
    assert loaded.image_bytes == path.read_bytes()
    assert [i.rle for i in loaded.instances] == [rle.encode_rle(LARGE), rle.encode_rle(SMALL)]
    assert {i.category for i in loaded.instances} == {1}
    assert loaded.notes == (drawing.NO_PIXEL, drawing.HIDDEN)
    np.testing.assert_array_equal(loaded.rows, np.where(SMALL, 2, LARGE))
