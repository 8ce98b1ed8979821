import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.postprocess import painting

SIZE = (14, 18)


def paint(masks, takes_part, *, overlap=0.5, answered=None, xla=False):
    """`painting.paint` of masks [B, K, H, W], in a graph, as numpy."""

    @tf.function(autograph=False, jit_compile=xla)
    def run(masks, takes_part, answered):
        return painting.paint(
            lambda k: tf.gather(masks, k, axis=1),
            takes_part,
            size=tuple(masks.shape[2:]),
            overlap_threshold=overlap,
            answered=answered,
        )

    arguments = (None if x is None else tf.constant(x) for x in (masks, takes_part, answered))
    return painting.Painted(*(None if x is None else x.numpy() for x in run(*arguments)))


def draw(seed, count, batch):
    """Random rectangles with holes, some empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((batch, count, *SIZE), bool)
    for mask in masks.reshape(-1, *SIZE):
        y, x = rng.integers(0, SIZE[0]), rng.integers(0, SIZE[1])
        mask[y : y + rng.integers(0, 9), x : x + rng.integers(1, 9)] = True
        mask &= rng.random(SIZE) < rng.choice([0.5, 1.0])
    return masks


def paint_by_loops(masks, takes_part, overlap):
    """The owner of each pixel of one image; of masks [K, H, W]."""
    owner = np.zeros(masks.shape[1:])
    for k, mask in enumerate(masks):
        free = mask & (owner == 0)
        if takes_part[k] and mask.any() and 1 - free.sum() / mask.sum() <= overlap:
            owner[free] = k + 1
    return owner


def assert_answered(painted, masks):
    """Bits and boxes are those of masks [B, K, H, W]."""
    assert painted.bit_masks.shape[-1] == -(-masks.shape[1] // 32)
    for (b, k), mask in zip(np.ndindex(masks.shape[:2]), masks.reshape(-1, *masks.shape[2:])):
        bits = painted.bit_masks[b, ..., k // 32].view(np.uint32) >> np.uint32(k % 32) & 1
        np.testing.assert_array_equal(bits, mask)
        box = [0] * 4
        if mask.any():
            y, x = np.nonzero(mask)
            box = [y.min(), x.min(), y.max() + 1, x.max() + 1]
        assert painted.boxes[b, k].tolist() == box


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("answers", [False, True])
def test_a_batch_against_loops(answers, overlap, xla):
    count = 40
    masks = draw(2, count, batch=4)
    number = np.array([[40], [33], [0], [12]])
    valid = np.arange(count) < number
    takes_part = np.arange(count) < number // 2
    answered = valid if answers else None
    painted = paint(masks, takes_part, overlap=overlap, answered=answered, xla=xla)
    for b in range(len(masks)):
        expected = paint_by_loops(masks[b], takes_part[b], overlap)
        np.testing.assert_array_equal(painted.owner[b], expected)
    assert painted.owner.max() > 3
    if answers:
        assert_answered(painted, masks & valid[..., np.newaxis, np.newaxis])
    else:
        assert painted.bit_masks is None and painted.boxes is None


@pytest.mark.parametrize("count", [1, 16, 17, 32, 33, 300])
def test_any_number_of_instances(count):
    # One pixel each.
    masks = np.zeros([1, count, 16, 20], bool)
    masks.reshape([count, -1])[np.arange(count), np.arange(count)] = True
    everyone = np.ones([1, count], bool)
    painted = paint(masks, everyone, overlap=0.0, answered=everyone)
    flat = painted.owner.reshape(-1)
    np.testing.assert_array_equal(flat[:count], 1 + np.arange(count))
    assert not flat[count:].any()
    assert_answered(painted, masks)


def test_drawn():
    # Two thirds of the second lie on the first: dropped. Half of the third does: it keeps the rest.
    # The fourth is empty. The fifth only counts as a detection.
    rows = ["AAAAAA..", "..AAAA..", "........"]
    first = np.array([[c == "A" for c in row] for row in rows])
    second, third = np.zeros_like(first), np.zeros_like(first)
    second[0:2, 5], second[2, 5] = True, True
    third[0, 4:8] = True
    masks = np.stack([first, second, third, np.zeros_like(first), np.ones_like(first)])
    painted = paint(
        masks[np.newaxis],
        np.array([[True] * 4 + [False]]),
        answered=np.ones([1, 5], bool),
    )
    expected = [[1, 1, 1, 1, 1, 1, 3, 3], [0, 0, 1, 1, 1, 1, 0, 0], [0] * 8]
    np.testing.assert_array_equal(painted.owner[0], expected)
    np.testing.assert_array_equal(
        painted.bit_masks[0, ..., 0], np.tensordot(1 << np.arange(5), masks, 1)
    )
    boxes = [[0, 0, 2, 6], [0, 5, 3, 6], [0, 4, 1, 8], [0, 0, 0, 0], [0, 0, 3, 8]]
    np.testing.assert_array_equal(painted.boxes[0], boxes)


@pytest.mark.parametrize("answered, end", [(None, 4), (6, 6)])
def test_the_loop_ends_at_the_last_that_is_needed(answered, end):
    called = []

    def mask_of(k):
        called.append(int(k))
        return tf.zeros([2, *SIZE], tf.bool)

    painting.paint(
        mask_of,
        tf.constant([[True] + [False] * 7, [True] * 4 + [False] * 4]),
        size=SIZE,
        overlap_threshold=0.5,
        answered=None if answered is None else tf.range(8) < tf.constant([[answered], [0]]),
    )
    assert called == list(range(end))
