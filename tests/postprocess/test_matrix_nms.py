import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.postprocess import matrix_nms as matrix_nms_lib


def nms_by_loops(masks, scores, classes, valid, kernel, sigma, class_aware):
    def iou(i, j):
        union = masks[i].sum() + masks[j].sum() - (masks[i] * masks[j]).sum()
        may = valid[i] and valid[j] and (classes[i] == classes[j] or not class_aware)
        return (masks[i] * masks[j]).sum() / union if may and union > 0 else 0.0

    def f(x):
        return np.exp(-sigma * x**2) if kernel == "gaussian" else 1 - x

    decayed = np.zeros(len(scores))
    for j in np.flatnonzero(valid):
        decays = [1.0]
        for i in range(j):
            suppressed = max([iou(k, i) for k in range(i)], default=0.0)
            if f(suppressed) > 0:
                decays.append(f(iou(i, j)) / f(suppressed))
        decayed[j] = scores[j] * min(decays)
    return decayed


def draw(seed, count=9, pixels=24):
    rng = np.random.default_rng(seed)
    masks = (rng.random((count, pixels)) < rng.random((count, 1))).astype(np.float32)
    masks[3] = masks[1]
    masks[5] = 0
    scores = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    classes = rng.integers(0, 2, count).astype(np.int32)
    return masks, scores, classes, np.arange(count) < count - seed


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_a_batch_against_loops(kernel, class_aware):
    images = [draw(seed) for seed in range(4)]
    batch = [tf.constant(np.stack(x)) for x in zip(*images)]
    options = dict(kernel=kernel, sigma=1.5, class_aware=class_aware)
    found = matrix_nms_lib.matrix_nms(*batch, **options)
    for i, image in enumerate(images):
        np.testing.assert_allclose(found[i], nms_by_loops(*image, **options), atol=1e-5)


def test_drawn():
    # The second covers half of the first and more: IoU 2 / 4. The third is the second again: IoU 1,
    # but the second was half suppressed itself. The fourth is of another class.
    masks = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    scores = np.array([0.8, 0.8, 0.8, 0.8], np.float32)
    classes = np.array([0, 0, 0, 1], np.int32)
    arguments = [tf.constant(x[np.newaxis]) for x in (masks, scores, classes, np.ones(4, bool))]
    found = matrix_nms_lib.matrix_nms(*arguments, sigma=2.0)
    half = np.exp(-2 * 0.25)
    np.testing.assert_allclose(
        found[0], 0.8 * np.array([1, half, np.exp(-2.0) / half, 1]), rtol=1e-5
    )
    found = matrix_nms_lib.matrix_nms(*arguments, kernel="linear")
    np.testing.assert_allclose(found[0], [0.8, 0.4, 0, 0.8], atol=1e-6)


def test_an_unknown_kernel_is_refused():
    masks, scores, classes, valid = (x[np.newaxis] for x in draw(0))
    with pytest.raises(ValueError, match="'gaussian' or 'linear', got 'cubic'"):
        matrix_nms_lib.matrix_nms(masks, scores, classes, valid, kernel="cubic")
