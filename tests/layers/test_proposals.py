import numpy as np
import pytest
import tensorflow as tf

from layers import box_oracle
from panoptic_tf.layers import anchors, proposals
from panoptic_tf.ops import forms

ANCHORS = anchors.generate_anchors((64, 96), min_level=2, max_level=5, scale=4.0)
ONES = (1.0, 1.0, 1.0, 1.0)


def build(**settings):
    defaults = dict(pre_nms_top_k=60, post_nms_top_k=50)
    return proposals.ProposalGenerator(**{**defaults, **settings})


def draw_outputs(seed, batch=2, *, equal=False):
    """Logits (many are equal), deltas and image sizes."""
    rng = np.random.default_rng(seed)
    logits, deltas = {}, {}
    for level, boxes in ANCHORS.items():
        shape = (batch, len(boxes))
        logits[level] = np.zeros(shape) if equal else rng.integers(-40, 40, shape) / 8
        deltas[level] = rng.normal(size=(*shape, 4)) * 0.2
    logits, deltas = ({k: v.astype(np.float32) for k, v in x.items()} for x in (logits, deltas))
    size = rng.integers(30, 64, (batch, 2)).astype(np.float32)
    return logits, deltas, size


def expected_proposals(logits, deltas, size, *, pre=60, post=50, threshold=0.7):
    """Boxes and logits of one image, in plain loops."""
    boxes, scores = [], []
    for level, anchor in ANCHORS.items():
        usable = np.flatnonzero(np.isfinite(logits[level]))
        best = sorted(usable, key=lambda i: (-logits[level][i], i))[:pre]
        decoded = [box_oracle.decode(deltas[level][i], anchor[i], ONES) for i in best]
        finite = [np.isfinite(box).all() for box in decoded]
        decoded = np.array([box_oracle.clip(box, size) for box in decoded]).reshape(-1, 4)
        is_box = (decoded[:, 2:] > decoded[:, :2]).all(axis=1) & finite
        score = logits[level][best]
        kept = box_oracle.nms(decoded, np.where(is_box, score, -np.inf), threshold)
        boxes += decoded[kept].tolist()
        scores += score[kept].tolist()
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:post]
    return np.array(boxes).reshape(-1, 4)[order], np.array(scores)[order]


def assert_equal_to_loops(found, logits, deltas, size, **settings):
    for i in range(len(size)):
        image = ({k: v[i] for k, v in x.items()} for x in (logits, deltas))
        boxes, scores = expected_proposals(*image, size[i], **settings)
        count = len(scores)
        np.testing.assert_array_equal(found.valid[i], np.arange(found.valid.shape[1]) < count)
        np.testing.assert_allclose(found.boxes[i, :count], boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores[i, :count], scores)
        assert not found.boxes[i, count:].numpy().any()
        assert not found.scores[i, count:].numpy().any()


@pytest.mark.reference
def test_proposals_equal_the_recorded_ones(golden):
    # Recorded from boxes; here they are the anchors, with deltas of zero.
    case = golden("nms")
    boxes = {k: box_oracle.yxyx(case[f"rpn_boxes_l{k}"][0]) for k in "012"}
    deltas = {k: tf.zeros([1, *box.shape]) for k, box in boxes.items()}
    logits = {k: tf.constant(case[f"rpn_logits_l{k}"]) for k in boxes}
    size = tf.constant(case["rpn_image_hw"][np.newaxis], tf.float32)
    layer = build(pre_nms_top_k=int(case["rpn_pre"]), post_nms_top_k=int(case["rpn_post"]))
    found = layer(logits, deltas, boxes, size)
    assert found.valid.numpy().all()
    np.testing.assert_allclose(
        found.boxes[0], box_oracle.yxyx(case["rpn_out_boxes"]), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_array_equal(found.scores[0], case["rpn_out_logits"])


@pytest.mark.parametrize("form", [forms.Form.ACCELERATOR, forms.Form.CPU])
@pytest.mark.parametrize("equal", [False, True])
def test_against_loops(form, equal):
    logits, deltas, size = draw_outputs(1, equal=equal)
    with forms.use(form):
        found = build()(logits, deltas, ANCHORS, size)
    assert found.boxes.shape == (2, 50, 4)
    assert found.valid.numpy().all()
    assert_equal_to_loops(found, logits, deltas, size)


def test_fewer_anchors_than_are_asked_for():
    logits, deltas, size = draw_outputs(2)
    total = sum(len(boxes) for boxes in ANCHORS.values())
    found = build(pre_nms_top_k=5000, post_nms_top_k=5000)(logits, deltas, ANCHORS, size)
    assert found.boxes.shape == (2, total, 4)
    assert_equal_to_loops(found, logits, deltas, size, pre=5000, post=5000)


def test_what_is_not_finite_or_empty_is_dropped():
    logits, deltas, size = draw_outputs(3)
    for level in ANCHORS:
        best = np.argsort(-logits[level], axis=1)
        for i in range(2):
            deltas[level][i, best[i, 0], 0] = np.nan
            deltas[level][i, best[i, 1], 3] = np.nan
            deltas[level][i, best[i, 2], 1] = np.inf
            deltas[level][i, best[i, 3], 2] = -np.inf  # no height
            deltas[level][i, best[i, 4], 0] = -1e4  # outside, so clipped to no height
            logits[level][i, best[i, 5:8]] = [np.nan, np.inf, -np.inf]
    found = build()(logits, deltas, ANCHORS, size)
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()
    assert found.valid.numpy().sum() > 20
    assert_equal_to_loops(found, logits, deltas, size)


def test_no_proposal():
    logits, deltas, size = draw_outputs(4)
    deltas = {k: np.full_like(v, np.nan) for k, v in deltas.items()}
    size[1] = 0.0
    found = build()(logits, deltas, ANCHORS, size)
    for value in found:
        assert not value.numpy().any()


def test_unknown_batch_equals_its_images():
    layer, (logits, deltas, size) = build(), draw_outputs(5, batch=3)
    spec = {k: tf.TensorSpec([None, *v.shape[1:]]) for k, v in logits.items()}
    function = tf.function(
        lambda *x: layer(x[0], x[1], ANCHORS, x[2]),
        input_signature=[
            spec,
            {k: tf.TensorSpec([None, *v.shape[1:]]) for k, v in deltas.items()},
            tf.TensorSpec([None, 2]),
        ],
    )
    shapes = [x.shape.as_list() for x in function.get_concrete_function().outputs]
    assert shapes == [[None, 50, 4], [None, 50], [None, 50]]
    together = function(logits, deltas, size)
    for i in range(3):
        one = ({k: v[i : i + 1] for k, v in x.items()} for x in (logits, deltas))
        for a, b in zip(together, layer(*one, ANCHORS, size[i : i + 1])):
            np.testing.assert_allclose(a[i], b[0], atol=1e-5)


def test_no_gradient_and_float32(mixed_bfloat16):
    logits, deltas, size = (tf.nest.map_structure(tf.Variable, x) for x in draw_outputs(6, batch=1))
    with tf.GradientTape() as tape:
        low = {k: tf.cast(v, tf.bfloat16) for k, v in logits.items()}
        found = build()(low, deltas, ANCHORS, size)
        total = tf.reduce_sum(found.boxes) + tf.reduce_sum(found.scores)
    assert found.boxes.dtype == found.scores.dtype == tf.float32
    assert tape.gradient(total, [*logits.values(), *deltas.values()]) == [None] * 8


def test_in_a_functional_network():
    logits, deltas, size = draw_outputs(7)
    inputs = tf.nest.map_structure(
        lambda x: tf.keras.Input(x.shape[1:]), (logits, deltas, size), check_types=False
    )
    network = tf.keras.Model(inputs, build()(inputs[0], inputs[1], ANCHORS, inputs[2])._asdict())
    found = proposals.Proposals(**network((logits, deltas, size)))
    assert_equal_to_loops(found, logits, deltas, size)
    assert not network.layers[-1].variables
