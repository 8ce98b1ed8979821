import builtin_tflite
import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.layers import dynamic_conv
from panoptic_tf.ops import forms
from panoptic_tf.postprocess import kernel_fusion


def fuse_by_loops(kernels, scores, classes, valid, threshold=0.9, class_aware=True):
    """[(mean kernel, score, class)] of one image in order."""
    first = {}
    for j in np.flatnonzero(valid):
        first[j] = j
        for i in np.flatnonzero(valid[:j]):
            lengths = np.linalg.norm(kernels[i]) * np.linalg.norm(kernels[j])
            similarity = kernels[i] @ kernels[j] / max(lengths, 1e-16)
            if similarity >= threshold and (classes[i] == classes[j] or not class_aware):
                first[j] = i
                break
    fused = []
    for i in first:
        if first[i] == i:
            members = [j for j in first if first[j] == i]
            fused.append((kernels[members].mean(axis=0), scores[i], classes[i]))
    return fused


def draw(seed, count=14, channels=3, classes=2):
    """Kernels of few channels, of which many are similar, by falling score, the last not valid."""
    rng = np.random.default_rng(seed)
    kernels = rng.normal(size=(count, channels)).astype(np.float32)
    scores = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    valid = np.arange(count) < rng.integers(0, count + 1)
    return kernels, scores, rng.integers(0, classes, count).astype(np.int32), valid


def fuse(*image, **options):
    """The same of a batch of one."""
    found = kernel_fusion.fuse_kernels(*(tf.constant(x[np.newaxis]) for x in image), **options)
    return [x[0].numpy() for x in found]


def assert_equal(found, expected):
    kernels, scores, classes, valid = found
    count = len(expected)
    assert valid.tolist() == [i < count for i in range(len(valid))]
    assert not kernels[count:].any() and not scores[count:].any() and not classes[count:].any()
    for i, (kernel, score, category) in enumerate(expected):
        np.testing.assert_allclose(kernels[i], kernel, atol=1e-5)
        assert (scores[i], classes[i]) == (score, category)


@pytest.mark.reference
def test_recorded(golden):
    recorded = golden("pfcn_kernel_fusion")
    weight, bias = recorded["w_thing_embed"][:, :, 0, 0].T, recorded["b_thing_embed"]
    kernels = recorded["thing_kernels"] @ weight + bias
    np.testing.assert_allclose(kernels, recorded["thing_embedded"], atol=1e-4)
    image = kernels, recorded["thing_scores"], recorded["thing_classes"], np.ones(14, bool)
    threshold = float(recorded["sim_thres"])
    found = fuse(*image, similarity_threshold=threshold)
    names = [f"fused_thing_{name}" for name in ("kernels", "scores", "classes")]
    assert_equal(found, list(zip(*(recorded[name] for name in names))))
    encoded = tf.constant(np.transpose(recorded["encoded_feature"], [0, 2, 3, 1]))
    logits = dynamic_conv.mask_logits(tf.constant(found[0][np.newaxis, :10]), encoded)
    np.testing.assert_allclose(logits, recorded["pred_thing_logits"], atol=1e-4)


def test_a_chain():
    # At 30 degrees from one to the next, and a cosine of at least 0.8: neighbours are similar, and
    # no others. 1 belongs to 0; so 2, which belongs to 1, is dropped and counts nowhere; 3 belongs
    # to 2 and is dropped as well. 4 is like 0, of another class.
    angles = np.radians([0, 30, 60, 90, 0])
    kernels = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    image = kernels, scores, np.array([1, 1, 1, 1, 2], np.int32), np.ones(5, bool)
    found = fuse(*image, similarity_threshold=0.8)
    assert_equal(found, [(kernels[:2].mean(axis=0), scores[0], 1), (kernels[4], scores[4], 2)])
    found = fuse(*image, similarity_threshold=0.8, class_aware=False)
    assert_equal(found, [(kernels[[0, 1, 4]].mean(axis=0), scores[0], 1)])


def test_equal_kernels_are_similar_and_silent_ones_are_not():
    kernels = np.array([[0.1, 0.3], [0, 0], [0.2, 0.6], [0, 0]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    image = kernels, scores, np.zeros(4, np.int32), np.ones(4, bool)
    expected = [(kernels[[0, 2]].mean(axis=0), scores[0], 0), (kernels[1], scores[1], 0)]
    expected.append((kernels[3], scores[3], 0))
    assert_equal(fuse(*image, similarity_threshold=1.0), expected)


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_a_batch_against_loops(threshold, class_aware):
    images = [draw(seed) for seed in range(6)]
    batch = [tf.constant(np.stack(x)) for x in zip(*images)]
    options = dict(similarity_threshold=threshold, class_aware=class_aware)
    found = kernel_fusion.fuse_kernels(*batch, **options)
    for i, image in enumerate(images):
        expected = fuse_by_loops(*image, threshold, class_aware)
        assert_equal([x[i].numpy() for x in found], expected)


def test_in_tflite_with_builtin_operators():
    images = [draw(seed) for seed in range(3)]
    names = kernel_fusion.Kernels._fields
    specs = [
        tf.TensorSpec([1, *x.shape], tf.as_dtype(x.dtype), name)
        for name, x in zip(names, images[0])
    ]
    with forms.use(forms.Form.TFLITE):
        traced = tf.function(
            lambda *image: kernel_fusion.fuse_kernels(*image)._asdict()
        ).get_concrete_function(*specs)
    run = builtin_tflite.runner(traced)
    for image in images:
        found = run(**{name: x[np.newaxis] for name, x in zip(names, image)})
        assert_equal([found[name][0] for name in names], fuse_by_loops(*image))
