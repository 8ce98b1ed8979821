import numpy as np
import pytest
import tensorflow as tf
from layers import box_oracle

from panoptic_tf.layers import anchors, proposals
from panoptic_tf.ops import boxes, forms
from panoptic_tf.postprocess import detections

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
SETTINGS = dict(box_weights=WEIGHTS, max_detections=20)


def draw_outputs(seed, *, batch=2, count=30, things=4, equal=False):
    """The arguments of `generate_detections`, as arrays."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, count, things + 1)) * (0.0 if equal else 2.0)
    deltas = rng.normal(size=(batch, count, things, 4))
    boxes_ = box_oracle.random_boxes(rng, (batch, count), extent=70, largest=50)
    size = rng.integers(40, 70, (batch, 2))
    valid = rng.random((batch, count)) < 0.9
    return [
        logits.astype(np.float32),
        deltas.astype(np.float32),
        boxes_,
        valid,
        size.astype(np.float32),
    ]


def generate(arguments, **settings):
    """Detections; consistency of what is not valid is asserted."""
    found = detections.generate_detections(
        *(tf.constant(x) for x in arguments), **{**SETTINGS, **settings}
    )
    valid = found.valid.numpy()
    np.testing.assert_array_equal(valid, np.sort(valid, axis=1)[:, ::-1])
    for value in found:
        assert np.isfinite(value.numpy()).all() and not value.numpy()[~valid].any()
    assert found.classes.dtype == tf.int32
    return found


def expected_detections(logits, deltas, proposals_, valid, size, **settings):
    """(score, class, box) of one image: all candidates, NMS per class, in plain loops."""
    things = deltas.shape[1]
    scores = tf.nn.softmax(logits).numpy()[:, :things]
    kept = []
    for thing in range(things):
        decoded = [box_oracle.decode(d[thing], p, WEIGHTS) for d, p in zip(deltas, proposals_)]
        finite = np.array([np.isfinite(box).all() for box in decoded])
        decoded = np.array([box_oracle.clip(box, size) for box in decoded])
        passes = (scores[:, thing] > settings.get("score_threshold", 0.05)) & valid & finite
        candidates = np.where(passes, scores[:, thing], -np.inf)
        for row in box_oracle.nms(decoded, candidates, 0.5):
            kept.append((scores[row, thing], row, thing, decoded[row]))
    kept.sort(key=lambda k: (-k[0], k[1], k[2]))
    return kept[: settings.get("max_detections", 20)]


def assert_equal_to_loops(arguments, found, **settings):
    for i in range(len(arguments[0])):
        expected = expected_detections(*(x[i] for x in arguments), **settings)
        count = int(found.valid[i].numpy().sum())
        assert count == len(expected)
        if count:
            scores, _, classes, boxes_ = (np.array(x) for x in zip(*expected))
            np.testing.assert_allclose(found.scores[i, :count], scores, rtol=1e-5)
            np.testing.assert_array_equal(found.classes[i, :count], classes)
            np.testing.assert_allclose(found.boxes[i, :count], boxes_, atol=1e-3)


@pytest.mark.reference
def test_detections_equal_the_recorded_ones(golden):
    # Recorded from the boxes of every class; here they are encoded from one proposal.
    case = golden("nms")
    box = box_oracle.yxyx(case["det_boxes"]).reshape(1, 60, 4, 4)
    proposal = np.tile(np.array([0, 0, 100, 100], np.float32), [1, 60, 1])
    deltas = boxes.encode_boxes(box, proposal[:, :, np.newaxis], weights=WEIGHTS)
    size = case["det_image_hw"][np.newaxis].astype(np.float32)
    logits, valid = case["det_logits"][np.newaxis], np.ones([1, 60], bool)
    found = generate([logits, deltas.numpy(), proposal, valid, size])
    assert found.valid.numpy().all()
    np.testing.assert_allclose(
        found.boxes[0], box_oracle.yxyx(case["det_out_boxes"]), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(found.scores[0], case["det_out_scores"], atol=1e-5)
    np.testing.assert_array_equal(found.classes[0], case["det_out_classes"])


@pytest.mark.parametrize("things", [1, 2, 7])
@pytest.mark.parametrize("equal", [False, True])
def test_against_loops(things, equal):
    arguments = draw_outputs(things, things=things, equal=equal)
    found = generate(arguments)
    assert found.boxes.shape == (2, 20, 4)
    assert_equal_to_loops(arguments, found)
    assert found.valid.numpy().any()


def test_preselection_is_exact_while_enough_are_selected():
    arguments = draw_outputs(3)
    passing = (tf.nn.softmax(arguments[0]).numpy()[..., :4] > 0.05) & arguments[3][..., None]
    most = int(passing.sum(axis=(1, 2)).max())
    assert most < 30 * 4
    for value, whole in zip(
        generate(arguments, pre_nms_top_k=most, max_detections=99),
        generate(arguments, max_detections=99),
    ):
        np.testing.assert_array_equal(value, whole)
    # The best are found even if fewer are selected than pass.
    few, whole = (generate(arguments, pre_nms_top_k=k, max_detections=3) for k in (25, 4000))
    np.testing.assert_array_equal(few.boxes, whole.boxes)


def test_nothing_above_the_threshold():
    arguments = draw_outputs(4)
    assert not generate(arguments, score_threshold=0.9999).valid.numpy().any()
    arguments[0][..., -1] = 100.0  # all is background
    assert not generate(arguments).valid.numpy().any()


def test_no_proposal_valid():
    arguments = draw_outputs(5)
    arguments[3][0] = False
    found = generate(arguments)
    assert not found.valid[0].numpy().any() and found.valid[1].numpy().any()
    assert_equal_to_loops(arguments, found)


def test_what_is_not_finite_is_dropped():
    arguments = draw_outputs(6)
    logits, deltas, proposals_ = arguments[:3]
    deltas[:, 0, :, 0], deltas[:, 1, 0, 3], deltas[:, 2, 1, 1] = np.nan, np.nan, np.inf
    proposals_[:, 3], proposals_[:, 4, 2] = np.nan, np.inf
    logits[:, 5, 2] = np.nan
    logits[:, :6, :2] += 3.0
    found = generate(arguments)
    assert found.valid.numpy().any()
    assert_equal_to_loops(arguments, found)


def test_empty_boxes_stay_and_suppress_nothing():
    # As in published systems: two boxes outside of the image, clipped to its edge.
    proposal = np.array([[[90, 90, 99, 99], [90, 90, 99, 99]]], np.float32)
    logits = np.array([[[5, 0], [4, 0]]], np.float32)
    size = np.array([[50, 60]], np.float32)
    found = generate(
        [logits, np.zeros([1, 2, 1, 4], np.float32), proposal, np.ones([1, 2], bool), size]
    )
    np.testing.assert_array_equal(found.boxes[0, :2], [[50, 60, 50, 60]] * 2)
    assert found.valid.numpy().sum() == 2


def signature(arguments, batch):
    return [tf.TensorSpec([batch, *x.shape[1:]], x.dtype) for x in arguments]


def test_unknown_batch_equals_its_images():
    arguments = draw_outputs(7, batch=3)
    function = tf.function(
        lambda *x: detections.generate_detections(*x, **SETTINGS),
        input_signature=signature(arguments, None),
    )
    shapes = [x.shape.as_list() for x in function.get_concrete_function().outputs]
    assert shapes == [[None, 20, 4], [None, 20], [None, 20], [None, 20]]
    together = function(*arguments)
    for i in range(3):
        for a, b in zip(together, generate([x[i : i + 1] for x in arguments])):
            np.testing.assert_allclose(a[i], b[0], atol=1e-5)


class _BoxStage(tf.Module):
    """Proposals, then detections with the logits of the draw."""

    def __init__(self):
        super().__init__()
        self.anchors = anchors.generate_anchors((64, 64), min_level=3, max_level=4)
        self.layer = proposals.ProposalGenerator(pre_nms_top_k=40, post_nms_top_k=30)

    def __call__(self, fine, coarse, fine_deltas, coarse_deltas, logits, deltas, size):
        found = self.layer(
            {"3": fine, "4": coarse},
            {"3": fine_deltas, "4": coarse_deltas},
            self.anchors,
            size,
        )
        result = detections.generate_detections(
            logits, deltas, found.boxes, found.valid, size, **SETTINGS
        )
        return {"proposals": found.boxes, **result._asdict()}

    def draw_inputs(self, batch, *, equal):
        rng = np.random.default_rng(8)
        logits, deltas, _, _, size = draw_outputs(8, batch=batch, equal=equal)
        counts = [len(x) for x in self.anchors.values()]
        levels = [rng.normal(size=(batch, n)) * (not equal) for n in counts]
        levels += [rng.normal(size=(batch, n, 4)) * 0.2 for n in counts]
        return [x.astype(np.float32) for x in (*levels, logits, deltas, size)]

    def traced(self, batch):
        arguments = self.draw_inputs(1, equal=False)
        return tf.function(self.__call__, input_signature=signature(arguments, batch))


def test_saved_model_with_unknown_batch(tmp_path):
    stage = _BoxStage()
    stage.serve = stage.traced(None)
    tf.saved_model.save(stage, str(tmp_path), signatures=stage.serve.get_concrete_function())
    loaded = tf.saved_model.load(str(tmp_path))
    for batch in (1, 3):
        inputs = stage.draw_inputs(batch, equal=False)
        expected = stage(*inputs)
        for key, value in loaded.serve(*(tf.constant(x) for x in inputs)).items():
            np.testing.assert_allclose(value, expected[key], atol=1e-4)


@pytest.mark.slow
def test_converts_with_builtin_operators_only():
    stage = _BoxStage()
    with forms.use(forms.Form.TFLITE):
        traced = stage.traced(1).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], stage)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        content = converter.convert()
    run = tf.lite.Interpreter(model_content=content).get_signature_runner()
    names = list(traced.structured_input_signature[1]) or [
        x.name.split(":")[0] for x in traced.inputs if x.dtype != tf.resource
    ]
    for equal in (False, True):
        inputs = stage.draw_inputs(1, equal=equal)
        found, expected = run(**dict(zip(names, inputs))), stage(*inputs)
        assert expected["valid"].numpy().any()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=1e-3)
