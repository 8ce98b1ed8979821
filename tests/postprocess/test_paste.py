import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_tf.postprocess import paste

SIZE = (13, 17)


def paste_by_loops(mask, box, size):
    """Bilinear reading of one [m, m] mask at each pixel's center, zero around the mask."""
    cells = mask.shape[0]
    padded = np.pad(mask.astype(np.float64), 1)
    result = np.zeros(size)
    ymin, xmin, ymax, xmax = (float(v) for v in box)
    if ymax <= ymin or xmax <= xmin:
        return result
    for y, x in np.ndindex(*size):
        v = (y + 0.5 - ymin) / (ymax - ymin) * cells + 0.5  # in cells of the padded mask
        u = (x + 0.5 - xmin) / (xmax - xmin) * cells + 0.5
        if not (0 <= v < cells + 1 and 0 <= u < cells + 1):
            continue
        i, j = int(v), int(u)
        top = padded[i, j] * (1 - (u - j)) + padded[i, j + 1] * (u - j)
        bottom = padded[i + 1, j] * (1 - (u - j)) + padded[i + 1, j + 1] * (u - j)
        result[y, x] = top * (1 - (v - i)) + bottom * (v - i)
    return result


def draw(seed, batch=1, count=6, cells=5, size=SIZE):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-4, max(size) + 4, (batch, count, 2, 2))
    boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=-1)
    boxes[:, 0] = np.round(boxes[:, 0])
    boxes[:, 1, 2] = boxes[:, 1, 0]  # no height
    boxes[:, 2, 3] = boxes[:, 2, 1]  # no width
    boxes[:, 3, 2] = boxes[:, 3, 0] + 0.1  # thinner than a pixel
    masks = rng.random((batch, count, cells, cells))
    return masks.astype(np.float32), boxes.astype(np.float32)


def in_yxyx(boxes):
    return boxes[:, [1, 0, 3, 2]]


@pytest.mark.reference
def test_recorded(golden):
    recorded = golden("paste_masks")
    masks, boxes = recorded["masks"][None], in_yxyx(recorded["boxes"])[None]
    size = tuple(int(v) for v in recorded["image_hw"])
    soft = paste.paste_masks(tf.constant(masks), tf.constant(boxes), output_size=size)
    np.testing.assert_allclose(soft[0], recorded["soft"], atol=1e-4)
    np.testing.assert_array_equal(soft[0] >= recorded["threshold"], recorded["pasted"])
    assert recorded["pasted"].any()


def test_a_mask_of_two_cells():
    # The box spans columns 1..5, so that each of the 2 cells is 2 pixels wide: the cells' centers
    # lie at 2 and 4, a pixel's center at x + 0.5. Half a cell outside the box half of it is left.
    mask = tf.constant([[[[1.0, 0.0], [1.0, 0.0]]]])
    box = tf.constant([[[0.0, 1.0, 4.0, 5.0]]])
    soft = paste.paste_masks(mask, box, output_size=(4, 6))[0, 0]
    row = [0.25, 0.75, 0.75, 0.25, 0.0, 0.0]
    np.testing.assert_allclose(soft, np.outer([0.75, 1, 1, 0.75], row), atol=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5, 28]))
def test_against_loops(seed, cells):
    masks, boxes = draw(seed, cells=cells)
    soft = paste.paste_masks(tf.constant(masks), tf.constant(boxes), output_size=SIZE)[0]
    for k in range(masks.shape[1]):
        expected = paste_by_loops(masks[0, k], boxes[0, k], SIZE)
        np.testing.assert_allclose(soft[k], expected, atol=1e-4)
    assert not soft[1].numpy().any() and not soft[2].numpy().any()


def test_one_at_a_time_and_all_together():
    masks, boxes = (tf.constant(v) for v in draw(3, batch=3))
    together = paste.paste_masks(masks, boxes, output_size=SIZE)
    for k in range(masks.shape[1]):
        alone = paste.paste_masks(masks[:, k], boxes[:, k], output_size=SIZE)
        np.testing.assert_allclose(together[:, k], alone, atol=1e-6)


def test_nothing_is_pasted_beyond_the_box():
    # At the edge of the box half of the outermost cell is left: below the threshold further out.
    masks, boxes = np.ones((1, 6, 5, 5), np.float32), draw(4)[1]
    found = paste.paste_masks(masks, boxes, output_size=SIZE)[0].numpy() >= 0.5
    assert found.any()
    for k in range(6):
        ymin, xmin, ymax, xmax = boxes[0, k]
        y, x = np.nonzero(found[k])
        assert ((y + 0.5 >= ymin) & (y + 0.5 <= ymax)).all()
        assert ((x + 0.5 >= xmin) & (x + 0.5 <= xmax)).all()


def test_static_shapes_with_unknown_batch():
    function = tf.function(lambda m, b: paste.paste_masks(m, b, output_size=SIZE))
    traced = function.get_concrete_function(
        tf.TensorSpec([None, 6, 5, 5]), tf.TensorSpec([None, 6, 4])
    )
    assert traced.structured_outputs.shape.as_list() == [None, 6, *SIZE]
