import tracemalloc

import numpy as np
import pytest

from panoptic_tf.visualization import labels, overlay, panel

COLORS = ((0, 0, 0), (200, 40, 40), (40, 160, 60))
NAMES = ("void", "person", "grass")


def test_segments_get_their_colors_and_void_is_dimmed_gray():
    # Left third void, middle third grass, right third person; the borders are at columns 10 and 20.
    image = np.full((30, 30, 3), (90, 120, 30), np.uint8)
    category_mask = np.repeat([0, 2, 1], 10)[np.newaxis].repeat(30, 0)
    drawn = overlay.draw_overlay(
        image, category_mask, (category_mask == 1).astype(int), colors=COLORS, alpha=1.0
    )
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape
    assert tuple(drawn[5, 15]) == COLORS[2]
    assert tuple(drawn[5, 25]) == COLORS[1]  # The first instance has the category's own colour.
    red, green, blue = drawn[5, 5].astype(int)
    assert red == green == blue < 60
    assert np.all(drawn[:, [10, 20]] > 210)


def test_instances_of_a_category_differ_whatever_their_ids():
    image = np.zeros((20, 40, 3), np.uint8)
    category_mask = np.ones((20, 40), int)
    instance_mask = np.where(np.arange(40) < 20, 7, 3)[np.newaxis].repeat(20, 0)
    drawn = _draw(image, category_mask, instance_mask)
    assert np.any(drawn[10, 5] != drawn[10, 35])
    swapped = np.where(instance_mask == 7, 2, 900)
    np.testing.assert_array_equal(drawn, _draw(image, category_mask, swapped))


def test_instance_colors_stay_distinct():
    colors = {overlay.instance_color((200, 40, 40), rank) for rank in range(30)}
    assert len(colors) == 30
    assert overlay.instance_color((200, 40, 40), 0) == (200, 40, 40)


def test_crowds_are_hatched():
    image = np.zeros((32, 32, 3), np.uint8)
    ones = np.ones((32, 32), int)
    plain = _draw(image, ones, ones)
    hatched = _draw(image, ones, ones, crowd_mask=ones.astype(bool))
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(hatched.reshape(-1, 3), axis=0)) == 2


def test_alpha_zero_shows_the_image_in_muted_colors():
    image = np.full((8, 8, 3), 77, np.uint8)
    drawn = overlay.draw_overlay(
        image, np.ones((8, 8), int), np.zeros((8, 8), int), colors=COLORS, alpha=0.0
    )
    np.testing.assert_array_equal(drawn, image)


def test_names_are_written_where_they_have_room():
    image = np.zeros((100, 100, 3), np.uint8)
    category_mask = np.full((100, 100), 2)
    category_mask[2:5, 2:5] = 1  # Too small for a name.
    instance_mask = (category_mask == 1).astype(int)
    without = _draw(image, category_mask, instance_mask)
    named = _draw(image, category_mask, instance_mask, names=NAMES)
    changed = np.any(without != named, axis=-1)
    rows, columns = np.nonzero(changed)
    assert rows.size > 100
    assert rows.min() > 30 and rows.max() < 70  # One name, in the middle of the large segment.
    assert not changed[:10, :10].any() and columns.max() < 90


def test_label_point_lies_inside_a_ring():
    rows, columns = np.mgrid[:60, :60]
    radius = np.hypot(rows - 30, columns - 30)
    numbers = ((radius > 12) & (radius < 28)).astype(int)
    depths = np.where(numbers == 1, labels._depths(numbers), 0)
    y, x = np.unravel_index(np.argmax(depths), depths.shape)
    assert numbers[y, x] == 1 and depths[y, x] >= 5


def drawn_by_loops(image, category_mask, instance_mask, crowd_mask, alpha):
    """What the module says, pixel by pixel in float64."""
    height, width = category_mask.shape
    first, ranks = {}, {}
    for y in range(height):
        for x in range(width):
            key = (category_mask[y, x], instance_mask[y, x] if category_mask[y, x] else 0)
            if key not in first:
                first[key] = len(first)
                ranks[key] = sum(k[0] == key[0] for k in first) - 1
    reach = max(1, round(max(height, width) / 500))
    period = max(4, max(height, width) // 48)
    drawn = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            category = category_mask[y, x]
            key = (category, instance_mask[y, x] if category else 0)
            gray = image[y, x] @ [0.299, 0.587, 0.114]
            paint = np.array(overlay.instance_color(COLORS[category], ranks[key]), float)
            if crowd_mask[y, x] and (y + x) % period < period // 2:
                paint *= 0.6
            value = (image[y, x] * 0.3 + gray * 0.7) * (1 - alpha) + paint * alpha
            if category == 0:
                value = np.full(3, gray * 0.45)
            others = [(y - d, x) for d in range(1, reach + 1) if y >= d]
            others += [(y, x - d) for d in range(1, reach + 1) if x >= d]
            keys = {(category_mask[p], instance_mask[p] if category_mask[p] else 0) for p in others}
            if keys - {key}:
                value = value * 0.15 + 255 * 0.85
            drawn[y, x] = value
    return drawn


@pytest.mark.parametrize("size", [(30, 41), (70, 9), (3, 1300)])
def test_equals_plain_loops(size):
    rng = np.random.default_rng(size[0])
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    cells = rng.integers(0, 3, (2, -(-size[0] // 7), -(-size[1] // 7)))
    category_mask, instance_mask = np.kron(cells, np.ones((7, 7), int))[:, : size[0], : size[1]]
    crowd_mask = (category_mask == 1) & (instance_mask == 2)
    drawn = _draw(image, category_mask, instance_mask, crowd_mask=crowd_mask, alpha=0.6)
    expected = drawn_by_loops(image, category_mask, instance_mask, crowd_mask, 0.6)
    np.testing.assert_allclose(drawn, expected, atol=0.501)  # rounded


def test_names_on_a_large_image_stand_where_they_stand_on_a_small_one():
    category_mask = np.full((300, 400), 2)
    category_mask[40:160, 30:230] = 1
    instance_mask = (category_mask == 1).astype(int)
    places = []
    for scale in (2, 4):  # 800 and 1600 pixels, of which places are sought on every second
        masks = [np.kron(m, np.ones((scale, scale), int)) for m in (category_mask, instance_mask)]
        image = np.zeros((*masks[0].shape, 3), np.uint8)
        written = np.any(_draw(image, *masks) != _draw(image, *masks, names=NAMES), axis=-1)
        rows, columns = np.nonzero(written)
        of_person = columns < 230 * scale
        places.append([v[of_person].mean() / scale for v in (rows, columns)])
    np.testing.assert_allclose(places[0], places[1], atol=4)
    assert 90 < places[0][0] < 110


def test_memory_is_a_few_bytes_a_pixel():
    masks = np.kron(np.arange(2400).reshape(40, 60) % 3, np.ones((25, 25), np.int32))
    image = np.zeros((*masks.shape, 3), np.uint8)
    tracemalloc.start()
    _draw(image, masks, masks, names=NAMES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The result takes 3, the segment of each pixel 4; 15 with all that is needed at one time.
    assert peak / masks.size < 18


def test_long_and_broken_names_become_one_short_line():
    assert labels.shorten("a\nb\tc") == "a b c"
    assert len(labels.shorten("x" * 500)) == 28


@pytest.mark.parametrize("category", [0, 1, 2])
def test_one_segment_alone(category):
    masks = np.full((5, 7), category)
    drawn = _draw(np.zeros((5, 7, 3), np.uint8), masks, 0 * masks, names=NAMES)
    assert drawn.shape == (5, 7, 3)


def test_errors_name_what_came():
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int)
    with pytest.raises(ValueError, match=r"instance_mask must .* \[4, 4\], got \[4, 5\]"):
        _draw(image, mask, np.zeros((4, 5), int))
    with pytest.raises(ValueError, match=r"ids 0\.\.3, but colors has entries for 0\.\.2"):
        _draw(image, mask + 3, mask)
    with pytest.raises(ValueError, match="ids -1"):
        _draw(image, mask - 1, mask)
    with pytest.raises(ValueError, match="image must be uint8"):
        _draw(image.astype(float), mask, mask)


def test_panel_puts_tiles_side_by_side():
    image = np.zeros((32, 64, 3), np.uint8)
    masks = {"category_mask": np.ones((32, 64), int), "instance_mask": np.ones((32, 64), int)}
    one = panel.draw_panel(image, colors=COLORS, tile_size=128)
    assert one.shape == (64 + 24, 128, 3)
    all_tiles = panel.draw_panel(
        image,
        masks,
        masks,
        colors=COLORS,
        names=NAMES,
        show_difference=True,
        tile_size=128,
    )
    assert all_tiles.shape == (64 + 24, 4 * 128 + 3 * 4, 3)
    # The same masks draw the same tile under "ground truth" and "prediction".
    np.testing.assert_array_equal(all_tiles[24:, 132:260], all_tiles[24:, 264:392])


def test_panel_cuts_padded_masks_and_reddens_wrong_categories():
    image = np.full((32, 32, 3), 100, np.uint8)
    ground_truth = {"category_mask": np.ones((32, 32), int), "instance_mask": np.ones((32, 32))}
    ground_truth["category_mask"][:, :4] = 0
    wrong = np.ones((40, 48), int)
    wrong[:, 16:] = 2
    prediction = {"category_mask": wrong, "instance_mask": np.zeros((40, 48), int)}
    drawn = panel.draw_panel(
        image, ground_truth, prediction, colors=COLORS, show_difference=True, tile_size=32
    )
    tile = drawn[-32:, -32:].astype(int)
    is_red = tile[..., 0] > tile[..., 1] + 50
    assert is_red[:, 16:].all() and not is_red[:, :16].any()
    assert tile[0, 0, 0] < tile[0, 8, 0]  # Void is darker than what agrees.


def test_panel_refuses_masks_smaller_than_the_image():
    masks = {"category_mask": np.ones((8, 8), int), "instance_mask": np.ones((8, 8), int)}
    with pytest.raises(ValueError, match=r"category_mask must cover .*\[16, 16\], got \[8, 8\]"):
        panel.draw_panel(np.zeros((16, 16, 3), np.uint8), masks, colors=COLORS)


def _draw(image, category_mask, instance_mask, **kwargs):
    return overlay.draw_overlay(image, category_mask, instance_mask, colors=COLORS, **kwargs)
