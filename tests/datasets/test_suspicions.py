"""Each reason to look at an image, drawn; and an image that has none."""

import io

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import rle, segments
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.datasets.suspicions import SeenImage, Suspicions, Thresholds

INFO = DatasetInfo.from_coco(
    [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "grass", "isthing": 0}],
    name="drawn",
)


def disc(size, y, x, radius):
    rows, columns = np.ogrid[:size, :size]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def seen(rows, categories, *, crowds=(), instances=(), seed=None, name="a"):
    """An image of rows, with `instances` of (category, mask)."""
    rows = np.asarray(rows, np.int32)
    is_crowd = [i in crowds for i in range(len(categories))]
    areas, boxes = segments.areas_and_boxes(rows, len(categories))
    masks = segments.rows_to_masks(
        rows, categories=categories, is_crowd=is_crowd, thing_ids=INFO.thing_ids
    )
    content = None
    if seed is not None:
        content = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, [*rows.shape, 3], np.uint8)
        Image.fromarray(pixels).save(content, "PNG")
    return SeenImage(
        name,
        content.getvalue() if content else None,
        rows,
        areas,
        boxes,
        np.asarray(categories, np.int32),
        np.asarray(is_crowd, bool),
        masks,
        [rle.encode_rle(mask) for _, mask in instances],
        [category for category, _ in instances],
    )


def sound():
    rows = np.ones([40, 40], np.int32)
    rows[disc(40, 20, 20, 8)] = 2
    return rows, [3, 1]


def kinds(image, **thresholds):
    found = Suspicions(INFO, Thresholds(**thresholds)).find(image)
    assert all(s.weight > 0 and s.text for s in found)
    return [s.kind for s in found]


def test_a_sound_image():
    rows, categories = sound()
    discs = [(1, disc(40, 20, 20, 8)), (1, disc(40, 20, 30, 8)), (2, disc(40, 20, 21, 8))]
    assert kinds(seen(rows, categories, instances=discs, seed=0)) == []


def test_void():
    rows, categories = sound()
    assert kinds(seen(0 * rows, [])) == ["no label"]
    rows[:21] = 0
    assert kinds(seen(rows, categories)) == ["much void"]
    assert kinds(seen(rows, categories), void_share=0.6) == []


def test_one_segment_covers_all():
    rows = np.ones([40, 40], np.int32)
    assert kinds(seen(rows, [3])) == ["one segment covers all"]
    rows[disc(40, 20, 20, 4)] = 2  # 49 of 1600 pixels.
    assert kinds(seen(rows, [3, 1])) == []
    assert kinds(seen(rows, [3, 1]), cover_share=0.9) == ["one segment covers all"]


def test_tiny_segments():
    rows, categories = sound()
    rows[0, :15] = 3
    (found,) = Suspicions(INFO).find(seen(rows, [*categories, 3]))
    assert found.kind == "tiny segments" and found.text == "1 segments have fewer than 16 pixels"
    assert kinds(seen(rows, [*categories, 3]), tiny_area=15) == []


def test_boxes_and_lines():
    rows, categories = sound()
    rows[0:8, 0:9] = 3
    assert kinds(seen(rows, [*categories, 2])) == ["boxes, not outlines"]
    assert kinds(seen(rows, [*categories, 3])) == []  # Stuff may be what it is.
    assert kinds(seen(rows, [*categories, 2], crowds=[2])) == []
    rows[0, 0] = 1
    assert kinds(seen(rows, [*categories, 2])) == []
    rows, categories = sound()
    rows[:30, 39] = 3
    assert kinds(seen(rows, [*categories, 2])) == ["lines"]


def test_things_in_pieces():
    rows, categories = sound()
    for place in range(5):
        rows[1:5, 7 * place : 7 * place + 3] = 3
    assert kinds(seen(rows, [*categories, 1])) == ["things in pieces"]
    assert kinds(seen(rows, [*categories, 3])) == []
    assert kinds(seen(rows, [*categories, 1]), pieces=5) == []
    rows[rows == 2] = 1
    rows[disc(40, 22, 20, 10)] = 3  # 317 of 377 pixels are one piece.
    rows[38:] = 2
    assert "things in pieces" not in kinds(seen(rows, [3, 3, 1]))


def test_instances_that_cover_each_other():
    rows, categories = sound()
    twice = [(1, disc(40, 20, 20, 8)), (2, disc(40, 9, 9, 5)), (1, disc(40, 20, 21, 8))]
    image = seen(rows, categories, instances=twice)
    overlap = (twice[0][1] & twice[2][1]).sum() / (twice[0][1] | twice[2][1]).sum()
    assert kinds(image, overlap=overlap - 0.01) == ["instances that cover each other"]
    assert kinds(image, overlap=overlap + 0.01) == []


def test_copies_of_a_photograph():
    rows, categories = sound()
    suspicions = Suspicions(INFO)
    for number, seed in enumerate([0, 1, 0, None, None]):
        found = suspicions.find(seen(rows, categories, seed=seed, name=f"image {number}"))
        assert [s.text for s in found] == ["the same photograph as image 0"] * (number == 2)


@pytest.mark.parametrize(
    "categories, expected",
    [
        ([], ["no label"]),
        ([3], ["one segment covers all", "tiny segments"]),
        ([1], ["one segment covers all", "tiny segments"]),  # Too small to be called a box.
    ],
)
def test_an_image_of_one_pixel(categories, expected):
    assert kinds(seen([[len(categories)]], categories)) == expected
