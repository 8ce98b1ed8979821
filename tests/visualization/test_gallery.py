"""The best and the worst images of a stream."""

import numpy as np

from panoptic_tf.visualization.gallery import Gallery

COLORS = [(0, 0, 0), (200, 0, 0), (0, 200, 0)]


def masks(value):
    mask = np.full((6, 8), value, np.int32)
    return {
        "category_mask": mask,
        "instance_mask": np.zeros_like(mask),
        "crowd_mask": np.zeros(mask.shape, bool),
    }


def test_keeps_the_extremes_and_draws_each_once():
    gallery = Gallery(2)
    for number, pq in enumerate([50.0, None, 10.0, 90.0, 70.0, 30.0]):
        gallery.add(str(number), pq, masks(1), masks(2))
    assert set(gallery.image_ids) == {"3", "4", "2", "5"}
    images = {image_id: np.zeros((6, 8, 3), np.uint8) for image_id in gallery.image_ids}
    items = gallery.draw(images, colors=COLORS, tile_size=32)
    assert [(item["image_id"], item["group"]) for item in items] == [
        ("3", "best"),
        ("4", "best"),
        ("2", "worst"),
        ("5", "worst"),
    ]
    assert all(item["panel"].dtype == np.uint8 and item["panel"].ndim == 3 for item in items)


def test_an_image_that_is_best_and_worst_stands_once():
    gallery = Gallery(3)
    gallery.add("1", 40.0, masks(1), masks(1))
    images = {"1": np.zeros((6, 8, 3), np.uint8)}
    assert [item["group"] for item in gallery.draw(images, colors=COLORS)] == ["best"]
    assert gallery.draw({}, colors=COLORS) == []


def test_size_zero_keeps_nothing():
    gallery = Gallery(0)
    gallery.add("1", 40.0, masks(1), masks(1))
    assert gallery.image_ids == ()
