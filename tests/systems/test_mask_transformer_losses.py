"""Matching and losses of mask transformers, beside recorded ones and beside themselves."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.systems.mask_transformer import losses as losses_lib
from panoptic_tf.systems.mask_transformer import matching
from panoptic_tf.systems.mask_transformer.criteria import PointCriterion
from panoptic_tf.systems.mask_transformer.losses import MaskTransformerLoss
from panoptic_tf.systems.mask_transformer.mask_losses import sum_mask_losses

PARTS = ("class", "mask", "dice")
OUTPUTS = ("class_logits", "mask_embeddings", "mask_features")
OPTIONS = {
    "points": {"num_points": 64},
    "whole": {
        "mask_loss": "whole",
        "class_weight": 1.0,
        "mask_weight": 20.0,
        "dice_weight": 1.0,
    },
}
BATCH, PREDICTIONS, QUERIES, CHANNELS, CLASSES, SEGMENTS = 2, 2, 6, 4, 3, 5


def build(kind, **options):
    return MaskTransformerLoss(**{**OPTIONS[kind], **options})


def draw(seed=0, batch=BATCH):
    """Labels, of 3, 2, 3, ... segments that are stripes above void, and outputs."""
    rng = np.random.default_rng(seed)
    counts = 3 - np.arange(batch) % 2
    segment_map = np.zeros([batch, 16, 24], np.int32)
    for image, count in zip(segment_map, counts):
        image[:, : 6 * count] = np.repeat(np.arange(1, count + 1), 6)
        image[12:] = 0
    labels = {
        "segment_map": segment_map,
        "segment_classes": rng.integers(0, CLASSES, (batch, SEGMENTS)).astype(np.int32),
        "segment_valid": np.float32(np.arange(SEGMENTS) < counts[:, np.newaxis]),
        "seed": rng.integers(0, 2**31, (batch, 2)),
        "is_annotated": np.ones([batch], np.float32),
    }
    outputs = {
        "class_logits": rng.normal(size=(batch, PREDICTIONS, QUERIES, CLASSES + 1)),
        "mask_embeddings": rng.normal(size=(batch, PREDICTIONS, QUERIES, CHANNELS)),
        "mask_features": rng.normal(size=(batch, 4, 6, CHANNELS)),
    }
    return labels, {key: np.float32(value) for key, value in outputs.items()}


def losses_and_gradients(loss, labels, outputs, form=forms.Form.ACCELERATOR):
    labels, outputs = (
        {key: tf.convert_to_tensor(x) for key, x in values.items()} for values in (labels, outputs)
    )
    with forms.use(form), tf.GradientTape() as tape:
        tape.watch(outputs)
        losses = loss(labels, outputs)
    return losses, tape.gradient(losses["loss"], outputs)


def run_in_graph(loss, labels, outputs, *, form=forms.Form.ACCELERATOR, xla=False):
    run = functools.partial(losses_and_gradients, loss, form=form)
    return tf.function(run, autograph=False, jit_compile=xla)(labels, outputs)


def assert_equal(found, expected, *, rtol=1e-5, atol=1e-6):
    tf.nest.map_structure(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), found, expected
    )


def drop_images(arrays, kept):
    return {key: x[kept] for key, x in arrays.items()}


# Beside recorded cases.


RECORDED = {"points": "mask2former_losses_shared", "whole": "maskformer_losses"}


def read(golden, name):
    """Two predictions of 6 queries, three images of 4, 0 and 6 segments."""
    case = golden(f"mask_transformer/{name}")
    labels = {
        "segment_map": case["segment_map"],
        "segment_classes": np.maximum(case["classes"], 0),
        "segment_valid": np.float32(case["classes"] >= 0),
        "seed": np.zeros([3, 2], np.int64),
        "is_annotated": np.ones([3], np.float32),
    }
    return case, labels, {key: case[key] for key in OUTPUTS}


def recorded_points(case):
    """Those of each image, which its masks and predictions share: float32 [3, P, 2], (y, x)."""
    points = np.zeros([3, 64 + 192 + 16, 2], np.float32)
    points[:, :64] = case["matching_points"][0]
    for row, (image, _, _) in enumerate(case["rows"][0]):
        points[image, 64:256] = case["candidate_points"][0, row]
        points[image, 256:] = case["random_points"][0, row]
    return points[..., ::-1]


def build_recorded(kind, case):
    if kind == "whole":
        return build(kind)
    return build(kind, points=lambda seeds, count: tf.constant(recorded_points(case)))


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("how", ["eager", "cpu", "xla"])
def test_recorded_losses_and_gradients(golden, kind, how):
    case, labels, outputs = read(golden, RECORDED[kind])
    loss = build_recorded(kind, case)
    if how == "eager":
        losses, gradients = losses_and_gradients(loss, labels, outputs)
    else:
        form = forms.Form.CPU if how == "cpu" else forms.Form.ACCELERATOR
        losses, gradients = run_in_graph(loss, labels, outputs, form=form, xla=how == "xla")
    np.testing.assert_allclose(losses["loss"], case["loss"], rtol=1e-5)
    for part, name in zip(PARTS, ("cross_entropy", "mask", "dice")):
        np.testing.assert_allclose(losses[f"loss/{part}"], case[f"loss_{name}"].sum(), rtol=1e-5)
    for key in OUTPUTS:
        expected = case[f"gradient_{key}"]
        np.testing.assert_allclose(gradients[key], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", OPTIONS)
def test_recorded_matching(golden, kind, monkeypatch):
    case, labels, outputs = read(golden, RECORDED[kind])
    costs, found = [], []
    assign, match = matching.linear_assignment, matching.match
    monkeypatch.setattr(matching, "linear_assignment", lambda c, v: costs.append(c) or assign(c, v))
    monkeypatch.setattr(matching, "match", lambda *args: found.append(match(*args)) or found[-1])
    losses_and_gradients(build_recorded(kind, case), labels, outputs)
    np.testing.assert_array_equal(np.transpose(found[0], [1, 0, 2]), case["matches"])
    expected = np.transpose(case["costs"], [0, 1, 3, 2])  # [L, B, M, Q]
    is_valid = ~np.isnan(expected)
    np.testing.assert_allclose(costs[0].numpy()[is_valid], expected[is_valid], rtol=1e-5)


def test_recorded_masks_with_points_of_their_own(golden):
    """As the authors draw them: each mask by itself, at its own points."""
    case, labels, outputs = read(golden, "mask2former_losses")
    features = tf.constant(outputs["mask_features"])
    for prediction in range(2):
        total = np.zeros([2])
        for row, (image, query, segment) in enumerate(case["rows"][prediction]):
            names = ("candidate_points", "random_points")
            points = [case["matching_points"][prediction, image]]
            points += [case[name][prediction, row] for name in names]
            criterion = PointCriterion(
                tf.constant(labels["segment_map"][image : image + 1]),
                [tf.constant(x[np.newaxis, :, ::-1]) for x in points],
                num_uncertain=48,
            )
            embedding = outputs["mask_embeddings"][image, prediction, query]
            logits = tf.linalg.matvec(features[image : image + 1], embedding)
            losses = criterion.losses(
                logits[..., tf.newaxis, tf.newaxis], tf.constant([[segment + 1.0]], tf.float32)
            )
            total += np.squeeze(losses)
        expected = case["loss_mask"][prediction], case["loss_dice"][prediction]
        np.testing.assert_allclose(5.0 * total / 10, expected, rtol=1e-5)


# Beside plain formulas.


@pytest.mark.parametrize(
    "costs, of_pixel",
    [
        (matching.entropy_costs, lambda p, t: -t * np.log(p) - (1 - t) * np.log(1 - p)),
        (
            matching.focal_costs,
            lambda p, t: (
                -0.25 * t * (1 - p) ** 2 * np.log(p) - 0.75 * (1 - t) * p**2 * np.log(1 - p)
            ),
        ),
    ],
    ids=["entropy", "focal"],
)
def test_costs_of_pairs(costs, of_pixel):
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(2, 4, 9)), rng.integers(0, 2, (2, 3, 9))
    found = costs(tf.constant(logits, tf.float32), tf.constant(masks, tf.float32))
    p = 1.0 / (1.0 + np.exp(-logits))
    expected = of_pixel(p[:, np.newaxis], masks[:, :, np.newaxis]).mean(axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_every_prediction_is_matched_for_itself():
    """Two predictions whose masks are the segments in another order, and a class that decides."""
    masks = tf.constant(np.repeat(np.eye(3, dtype=np.float32), 4, axis=1)[np.newaxis])
    embeddings = np.zeros([1, 2, 4, 3], np.float32)
    embeddings[0, 0, [2, 0, 3]] = np.eye(3)
    embeddings[0, 1, [1, 3, 0]] = np.eye(3)
    features = tf.constant(20.0 * np.transpose(masks, [0, 2, 1]) - 10.0)
    none = tf.zeros([1, 2, 3, 4])
    valid = tf.constant([[True, True, True]])
    find = functools.partial(matching.match, pair_costs=matching.entropy_costs)
    queries = find(none, tf.constant(embeddings), features, masks, valid)
    np.testing.assert_array_equal(queries, [[[2, 0, 3], [1, 3, 0]]])
    # The first segment wants the query that none of the others has, whatever its mask.
    costs = np.zeros([1, 2, 3, 4], np.float32)
    costs[0, 0, 0, 1] = -100.0
    queries = find(tf.constant(costs), tf.constant(embeddings), features, masks, valid)
    np.testing.assert_array_equal(queries, [[[1, 0, 3], [1, 3, 0]]])
    # The second segment is none.
    valid = tf.constant([[True, False, True]])
    queries = find(none, tf.constant(embeddings), features, masks, valid)
    np.testing.assert_array_equal(queries, [[[2, -1, 3], [1, -1, 0]]])


def test_class_loss_drawn():
    """All logits 0, so that each query costs log(K + 1), whatever is matched."""
    labels, outputs = draw()
    outputs["class_logits"] *= 0.0
    for options in ({}, {"no_object_weight": 0.7}, {"class_weights": [1.0, 2.0, 3.0]}):
        losses, _ = losses_and_gradients(
            build("points", class_weight=2.0, **options), labels, outputs
        )
        expected = 2.0 * PREDICTIONS * np.log(CLASSES + 1)
        np.testing.assert_allclose(losses["loss/class"], expected, rtol=1e-5)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 3.0]])
def test_class_loss_of_matched_and_other_queries(weights, monkeypatch):
    labels, outputs = draw()
    found = []
    match = matching.match
    monkeypatch.setattr(matching, "match", lambda *args: found.append(match(*args)) or found[-1])
    loss = build("points", class_weights=weights)
    losses, _ = losses_and_gradients(loss, labels, outputs)
    logits = outputs["class_logits"].astype(np.float64)
    entropies = np.log(np.exp(logits).sum(-1, keepdims=True)) - logits
    expected = 0.0
    for prediction in range(PREDICTIONS):
        total = count = 0.0
        for image in range(BATCH):
            targets = np.full(QUERIES, CLASSES)
            for segment, query in enumerate(found[0][image, prediction].numpy()):
                if query >= 0:
                    targets[query] = labels["segment_classes"][image, segment]
            w = np.array([*(weights or [1.0] * CLASSES), 0.1])[targets]
            total += (w * entropies[image, prediction, range(QUERIES), targets]).sum()
            count += w.sum()
        expected += 2.0 * total / count
    np.testing.assert_allclose(losses["loss/class"], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("fraction", [1.0, 0.2])
def test_semantic_loss_equals_loops(kind, fraction):
    """The class at the middle of each cell of 4x4 pixels; void is more in the second image."""
    labels, outputs = draw()
    rest = losses_and_gradients(build(kind), labels, outputs)[0]
    logits = np.random.default_rng(1).normal(size=(BATCH, 4, 6, CLASSES)).astype(np.float32)
    outputs["semantic_logits"] = logits
    options = {"semantic_weight": 3.0, "semantic_top_k_fraction": fraction}
    losses, gradients = run_in_graph(build(kind, **options), labels, outputs)
    cells = np.zeros([BATCH, 4, 6])
    for b, y, x in np.ndindex(cells.shape):
        number = labels["segment_map"][b, 4 * y + 2, 4 * x + 2]
        if number:
            of_cell = logits[b, y, x]
            label = labels["segment_classes"][b, number - 1]
            cells[b, y, x] = np.log(np.exp(of_cell).sum()) - of_cell[label]
    assert np.sum(cells[0] > 0) > np.sum(cells[1] > 0) > 0
    hardest = np.sort(cells.reshape([BATCH, -1]))[:, -int(fraction * 24) :]
    np.testing.assert_allclose(losses["loss/semantic"], 3.0 * hardest.mean(), rtol=1e-5)
    np.testing.assert_allclose(losses["loss"] - losses["loss/semantic"], rest["loss"], rtol=1e-5)
    counts = cells >= hardest[:, :1, np.newaxis]
    counts &= cells > 0.0
    np.testing.assert_array_equal(np.any(gradients["semantic_logits"], axis=-1), counts)


# Beside itself.


@pytest.mark.parametrize("kind", OPTIONS)
def test_masks_of_a_part_of_the_segments(kind, monkeypatch):
    """Of a segment at a time, and with a segment that does not count in between."""
    labels, outputs = draw()
    labels["segment_valid"][0, 1] = 0.0
    expected = losses_and_gradients(build(kind), labels, outputs)
    part = functools.partial(sum_mask_losses, mask_bytes=1)
    monkeypatch.setattr(losses_lib, "sum_mask_losses", part)
    assert_equal(run_in_graph(build(kind), labels, outputs), expected)
    assert_equal(run_in_graph(build(kind), labels, outputs, form=forms.Form.CPU), expected)


@pytest.mark.parametrize("kind", OPTIONS)
def test_an_image_without_annotation_costs_nothing(kind):
    labels, outputs = draw(batch=3)
    for key in ("segment_map", "segment_valid", "is_annotated"):
        labels[key][1] = 0
    losses, gradients = run_in_graph(build(kind), labels, outputs)
    kept = [0, 2]
    others = losses_and_gradients(
        build(kind), drop_images(labels, kept), drop_images(outputs, kept)
    )
    assert_equal(losses, others[0])
    for key in OUTPUTS:
        assert not np.any(gradients[key][1])
        np.testing.assert_allclose(
            gradients[key].numpy()[kept], others[1][key], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("form", [forms.Form.ACCELERATOR, forms.Form.CPU])
def test_a_batch_of_crowds_only_teaches_no_object(form):
    labels, outputs = draw()
    labels["segment_map"][:] = 0
    labels["segment_valid"][:] = 0.0
    losses, gradients = run_in_graph(build("points"), labels, outputs, form=form)
    assert losses["loss/mask"] == losses["loss/dice"] == 0.0
    entropy = tf.nn.log_softmax(outputs["class_logits"])[..., -1]
    np.testing.assert_allclose(losses["loss"], -4.0 * tf.reduce_mean(entropy), rtol=1e-5)
    assert not np.any(gradients["mask_embeddings"]) and not np.any(gradients["mask_features"])


def test_points_come_from_the_seed():
    labels, outputs = draw()
    first, _ = losses_and_gradients(build("points"), labels, outputs)
    again, _ = losses_and_gradients(build("points"), labels, outputs)
    other, _ = losses_and_gradients(
        build("points"), {**labels, "seed": labels["seed"] + 1}, outputs
    )
    assert first["loss/mask"] == again["loss/mask"] != other["loss/mask"]
    np.testing.assert_allclose(first["loss/mask"], other["loss/mask"], rtol=0.5)


def test_half_precision_outputs():
    labels, outputs = draw()
    halves = {key: tf.cast(x, tf.float16) for key, x in outputs.items()}
    losses, gradients = losses_and_gradients(build("whole"), labels, halves)
    expected, _ = losses_and_gradients(build("whole"), labels, outputs)
    assert all(x.dtype == tf.float32 for x in losses.values())
    assert all(gradients[key].dtype == tf.float16 for key in OUTPUTS)
    assert_equal(losses, expected, rtol=1e-2)


def test_two_replicas_are_one_batch(mirrored):
    labels, outputs = draw(batch=4)
    labels["segment_valid"][0, 1:] = 0.0
    labels["is_annotated"][1] = labels["segment_valid"][1] = labels["segment_map"][1] = 0.0
    expected = losses_and_gradients(build("points"), labels, outputs)

    def halves(array):
        return mirrored.experimental_distribute_values_from_function(
            lambda context: tf.constant(np.split(array, 2)[context.replica_id_in_sync_group])
        )

    step = tf.function(
        lambda *values: mirrored.run(
            functools.partial(losses_and_gradients, build("points")), args=values
        ),
        autograph=False,
    )
    losses, gradients = step(*tf.nest.map_structure(halves, (labels, outputs)))
    for key, value in losses.items():
        total = mirrored.reduce("SUM", value, axis=None)
        np.testing.assert_allclose(total, expected[0][key], rtol=1e-5)
    for key, value in gradients.items():
        parts = tf.concat(mirrored.experimental_local_results(value), axis=0)
        np.testing.assert_allclose(parts, expected[1][key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_loss": "boxes"}, "must be one of points, whole, got 'boxes'"),
        ({"num_points": 0}, "num_points >= 1"),
        ({"importance_ratio": 1.5}, "importance_ratio <= 1"),
        ({"oversample_ratio": 0.5}, "<= oversample_ratio, got 12544, 0.75 and 0.5"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MaskTransformerLoss(**options)
