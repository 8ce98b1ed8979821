"""Panoptic FPN against recorded losses and counts of the reference, and at its edges."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from small_systems import (
    FROZEN_NORM,
    ROWS,
    count_parameters,
    draw_sample,
    get_params,
    get_task,
    make_batch,
    row_task,
)

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.ops import boxes as box_ops
from panoptic_tf.structures import InstanceAnnotations, Prediction
from panoptic_tf.systems.panoptic_fpn import losses, network
from panoptic_tf.systems.panoptic_fpn.instance_branch import build_anchors

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ROW = next(row for row in ROWS if row.system == "panoptic_fpn")


def yx(boxes):
    """(x0, y0, x1, y1) or (dx, dy, dw, dh) with the vertical first."""
    return boxes[..., [1, 0, 3, 2]]


@pytest.fixture(scope="module")
def recorded():
    return dict(np.load(GOLDEN / "rcnn_losses.npz"))


def test_recorded_rpn_losses(recorded):
    count = int(recorded["rpn_batch_size_per_image"])
    labels = recorded["rpn_labels"]  # [2, A]: 1, 0 or -1, ignored
    # The sampled anchors first, then anchors without weight up to the count.
    order = np.argsort(labels < 0, axis=1, kind="stable")[:, :count]
    sampled = np.take_along_axis(labels, order, axis=1)
    anchors = yx(recorded["rpn_anchors"])[order]
    truth = np.take_along_axis(yx(recorded["rpn_gt_boxes"]), order[..., None], axis=1)
    deltas = box_ops.encode_boxes(truth, anchors, weights=(1, 1, 1, 1)).numpy()
    positive = (sampled == 1).astype(np.float32)
    result = losses._rpn_losses(
        {
            "anchor_indices": tf.constant(order, tf.int32),
            "anchor_classes": tf.constant(positive),
            "anchor_weights": tf.constant((sampled >= 0).astype(np.float32)),
            "anchor_deltas": tf.constant(np.where(positive[..., None] > 0, deltas, 0.0)),
        },
        {
            "rpn_logits": tf.constant(recorded["rpn_logits"]),
            "rpn_deltas": tf.constant(yx(recorded["rpn_deltas"])),
        },
    )
    np.testing.assert_allclose(result["loss/rpn_class"], recorded["loss_rpn_cls"], rtol=1e-4)
    np.testing.assert_allclose(result["loss/rpn_box"], recorded["loss_rpn_loc"], rtol=1e-4)


def test_recorded_box_losses(recorded):
    background = int(recorded["bg_class"])
    classes = recorded["box_gt_classes"]
    proposals, truth = yx(recorded["box_proposals"]), yx(recorded["box_gt_boxes"])
    result = losses._box_losses(
        {
            "class_logits": tf.constant(recorded["box_scores"])[None],
            "box_deltas": tf.constant(yx(recorded["box_deltas"].reshape(1, -1, background, 4))),
            "sampled_classes": tf.one_hot(classes, background + 1)[None],
            "sampled_deltas": box_ops.encode_boxes(truth, proposals, weights=(10, 10, 5, 5))[None],
            "sampled_weights": tf.ones([1, len(classes)]),
            "sampled_is_positive": tf.constant((classes < background).astype(np.float32))[None],
        }
    )
    np.testing.assert_allclose(result["loss/class"], recorded["box_loss_cls"], rtol=1e-4)
    np.testing.assert_allclose(result["loss/box"], recorded["box_loss_box_reg"], rtol=1e-4)


def test_recorded_mask_loss(recorded):
    count = len(recorded["mask_targets"])
    padding = [[0, 0], [0, 2], [0, 0], [0, 0]]  # regions that do not count
    outputs = {
        "mask_logits": tf.pad(recorded["mask_logits_gtclass"][None], padding),
        "sampled_masks": tf.pad(recorded["mask_targets"][None].astype(np.float32), padding),
        "sampled_mask_weights": tf.constant([[1.0] * count + [0.0, 0.0]]),
    }
    np.testing.assert_allclose(losses._mask_loss(outputs), recorded["mask_loss"], rtol=1e-4)


def test_parameters_are_those_of_the_reference():
    counts = count_parameters("panoptic_fpn_resnet50_coco", but=FROZEN_NORM)
    assert counts["backbone"] + counts["fpn"] == 26_799_296
    assert counts["rpn"] == 593_935
    assert counts["box"] + counts["mask"] == 16_949_985
    assert counts["semantic"] == 1_630_774
    assert sum(counts.values()) == 45_973_990


def test_channels_of_the_semantic_branch():
    info = DatasetInfo.load("shapes")
    model = get_params("panoptic_fpn_shapes").task.model
    model.semantic.thing_classes = "other"
    categories = network.semantic_categories(model, info)
    assert categories == [0, *info.stuff_ids]
    channels = network.channel_of_category(model, info)
    assert channels[0] == 0  # void is ignored
    assert {channels[c] for c in info.thing_ids} == {1}
    assert [channels[c] for c in info.stuff_ids] == list(range(2, 2 + len(info.stuff_ids)))
    model.semantic.thing_classes = "all"
    assert network.channel_of_category(model, info) == list(range(info.num_categories + 1))


@pytest.mark.parametrize(
    "override, expected",
    [
        ({"fpn": {"sharing": "both"}}, "task.model.fpn.sharing must be one of shared, split"),
        ({"semantic": {"thing_classes": "none"}}, "thing_classes must be 'other' or 'all'"),
    ],
)
def test_unknown_choices_are_named(override, expected):
    with pytest.raises(ValueError, match=expected):
        row_task(ROW, {"model": override}).build_model()


def test_unknown_updates_are_named():
    with pytest.raises(ValueError, match="task.losses.updates must be one of combined"):
        row_task(ROW, {"losses": {"updates": "sometimes"}})


def test_alternating_updates():
    task = row_task(ROW, {"losses": {"updates": "alternating"}})
    even, odd = (task.loss_factors(tf.constant(step, tf.int64)) for step in (0, 1))
    assert set(even) == set(task.loss_names())
    for name in task.loss_names():
        is_semantic = name == "loss/semantic"
        assert (float(even[name]), float(odd[name])) == (1.0 - is_semantic, 1.0 * is_semantic)


def run(task, batch):
    """Losses and prediction of a fresh model on a batch."""
    tf.keras.utils.set_random_seed(3)
    model = task.build_model()
    return model, *losses_and_prediction(task, model, batch)


def losses_and_prediction(task, model, batch):
    features, labels = batch
    result = task.build_loss()(labels, model(features, training=True))
    prediction = model({k: features[k] for k in ("image", "image_info")}, training=False)
    return result, {key: value.numpy() for key, value in prediction.items()}


def assert_sane(task, result, prediction):
    assert set(result) == {"loss", *task.loss_names()}
    for name, value in result.items():
        assert np.isfinite(value), name
    for key, value in prediction.items():
        assert np.isfinite(value).all(), key


def sample_of_ids(ids, *, crowd=False, size=64):
    """A sample whose instances are those of an id map, all of the first thing category."""
    ids = np.asarray(ids, np.int32)
    stuff = DatasetInfo.load("shapes").stuff_ids[0]
    return draw_sample(0, size)._replace(
        category_mask=tf.constant(np.where(ids > 0, 1, stuff).astype(np.int32)),
        instance_mask=tf.constant(ids),
        crowd_mask=tf.constant((ids > 0) & crowd),
    )


def ids_of(*rectangles):
    ids = np.zeros([64, 64], np.int32)
    for number, (top, left, bottom, right) in enumerate(rectangles, 1):
        ids[top:bottom, left:right] = number
    return ids


EDGES = {
    "no_instance": ids_of(),
    "one_giant": ids_of((0, 0, 64, 64)),
    "one_pixel": ids_of((30, 40, 31, 41)),
    "crowd_only": ids_of((5, 5, 40, 40)),
    "more_than_fit": np.arange(64 * 64).reshape(64, 64) // 16,
}


@pytest.fixture(scope="module")
def fresh():
    tf.keras.utils.set_random_seed(3)
    task = row_task(ROW)
    return task, task.build_model()


@pytest.mark.parametrize("edge", EDGES)
def test_images_at_the_edge(fresh, edge):
    task, model = fresh
    batch = make_batch(task, [sample_of_ids(EDGES[edge], crowd=edge == "crowd_only")])
    result, prediction = losses_and_prediction(task, model, batch)
    assert_sane(task, result, prediction)
    boxes_with_loss = result["loss/mask"] > 0
    assert boxes_with_loss == (edge not in ("no_instance", "crowd_only"))


def test_of_too_many_instances_the_largest_stay():
    ids = ids_of(*[(4 * i, 0, 4 * i + 2, 10 + i) for i in range(12)])
    features, _ = make_batch(row_task(ROW), [sample_of_ids(ids)])
    assert features["gt_valid"].numpy().all() and features["gt_valid"].shape == [1, 8]
    expected = [[4 * i, 0, 4 * i + 2, 10 + i] for i in reversed(range(4, 12))]
    np.testing.assert_array_equal(features["gt_boxes"][0], expected)
    words = features["gt_masks"][0, ..., 0].numpy()
    for row, i in enumerate(reversed(range(4, 12))):
        np.testing.assert_array_equal((words >> row) & 1, ids == i + 1)


def test_no_proposal_and_no_detection():
    nothing = {"model": {"postprocessor": {"detection_threshold": 1.0, "output_detections": True}}}
    task = row_task(ROW, nothing)
    batch = make_batch(task, [draw_sample(1)])
    model, result, prediction = run(task, batch)
    assert_sane(task, result, prediction)
    assert prediction[Prediction.NUM_DETECTIONS] == 0
    assert not np.any(prediction[Prediction.DETECTION_SCORES])
    assert not np.any(prediction[Prediction.INSTANCE_MASK])

    # Deltas that are no number leave no proposal; what is left trains on the instances themselves.
    rpn = model.parts["rpn"]
    rpn.deltas.conv.bias.assign(tf.fill(rpn.deltas.conv.bias.shape, np.nan))
    outputs = model(batch[0], training=True)
    # A quarter of the 16 to be sampled; there is nothing else but instances.
    assert batch[0]["gt_valid"].numpy().sum() == 6
    assert outputs["sampled_is_positive"].numpy().sum() == 4
    assert outputs["sampled_weights"].numpy().sum() == 4
    for name, value in losses.PanopticFPNLoss()(batch[1], outputs).items():
        assert np.isfinite(value) == (name not in ("loss", "loss/rpn_box")), name
    prediction = model({k: batch[0][k] for k in ("image", "image_info")}, training=False)
    assert prediction[Prediction.NUM_DETECTIONS] == 0


def test_overlapping_instances_of_the_record_are_used():
    sample = draw_sample(2)
    masks = np.zeros([3, 64, 64], np.uint8)
    masks[0, 10:30, 10:30] = masks[1, 20:50, 20:60] = masks[2, :, :5] = 1
    sample = sample._replace(
        instances=InstanceAnnotations(
            masks=tf.constant(masks),
            categories=tf.constant([1, 2, 1]),
            is_crowd=tf.constant([False, False, True]),
        )
    )
    features, _ = make_batch(row_task(ROW), [sample])
    assert features["gt_valid"][0].numpy().sum() == 2
    np.testing.assert_array_equal(features["gt_boxes"][0, :2], [[20, 20, 50, 60], [10, 10, 30, 30]])
    np.testing.assert_array_equal(features["gt_classes"][0, :2], [1, 0])
    words = features["gt_masks"][0, ..., 0].numpy()
    np.testing.assert_array_equal(words & 1, masks[1])
    np.testing.assert_array_equal((words >> 1) & 1, masks[0])


def test_anchors_in_the_padding_do_not_count():
    task = row_task(ROW)
    sample = sample_of_ids(ids_of((4, 4, 20, 20)))
    # The image fills the upper half of the frame.
    info = sample.image_info.numpy()
    info[0] = [32, 64]
    _, labels = make_batch(task, [sample._replace(image_info=tf.constant(info))])
    model = task.task_config.model
    anchors = np.concatenate(list(build_anchors(model, model.train_size).values()))
    used = labels["anchor_indices"][0].numpy()[labels["anchor_weights"][0] > 0]
    assert len(used) > 0
    assert (anchors[used][:, [0, 2]].mean(axis=1) < 32).all()


def test_static_shapes_train_on_the_same_masks():
    outputs = []
    for trim in (True, False):
        sampler = {"model": {"roi": {"sampler": {"trim_positives": trim}}}}
        task = row_task(ROW, sampler)
        batch = make_batch(task, [draw_sample(0), draw_sample(1)])
        model, result, _ = run(task, batch)
        outputs.append((model.training_network.output["mask_logits"].shape[1], result))
    assert outputs[0][0] is None and outputs[1][0] == 4
    for name, value in outputs[0][1].items():
        np.testing.assert_allclose(outputs[1][1][name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "override, expected",
    [
        ({"has_instance_branch": False, "has_semantic_branch": False}, "needs a branch"),
        ({"has_instance_branch": False}, "thing_classes=all"),
    ],
)
def test_networks_that_would_answer_nothing_are_refused(override, expected):
    with pytest.raises(ValueError, match=expected):
        row_task(ROW, {"model": override}).build_model()


@pytest.mark.parametrize("system", ["panoptic_fpn", "mask_rcnn", "semantic_fpn"])
def test_ceiling_of_every_form(system):
    params = get_params(
        f"{system}_shapes", ROW.overrides, {"model": {"semantic": {"thing_classes": "all"}}}
    )
    task = get_task(params)
    sample = draw_sample(3)
    features, labels = make_batch(task, [sample])
    prediction = task.ideal_prediction({**features, **labels}, features["image_info"])
    evaluator = task.build_evaluator()
    truth = {
        "category_mask": sample.category_mask.numpy(),
        "instance_mask": sample.instance_mask.numpy(),
        "crowd_mask": sample.crowd_mask.numpy(),
        "image_id": b"3",
    }
    evaluator.update(truth, {key: value[0].numpy() for key, value in prediction.items()})
    result = evaluator.result()
    expected = {"panoptic_fpn": "PQ", "mask_rcnn": "AP", "semantic_fpn": "mIoU"}[system]
    assert result[expected] > 80.0
    assert (result["PQ"] is None) == (system != "panoptic_fpn")


@pytest.mark.slow
def test_detections_survive_export(tmp_path):
    from panoptic_tf.serving.tflite import TFLiteRunner, export_tflite

    task = row_task(ROW, {"model": {"postprocessor": {"output_detections": True}}})
    features, _ = make_batch(task, [draw_sample(0)])
    tf.keras.utils.set_random_seed(5)
    model = task.build_model()
    expected = model({k: features[k] for k in ("image", "image_info")}, training=False)
    path = export_tflite(
        model.inference_network,
        dataset_info=task.dataset_info,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        channel_order="RGB",
        input_size=(64, 64),
        tflite_path=str(tmp_path / "model.tflite"),
    )
    found = TFLiteRunner(path)(features["image"][0].numpy(), features["image_info"][0].numpy())
    assert int(expected[Prediction.NUM_DETECTIONS][0]) > 0
    for key in Prediction.DETECTION_KEYS:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-3, err_msg=key)


@pytest.mark.parametrize(
    "system, present, absent",
    [
        ("mask_rcnn", set(Prediction.DETECTION_KEYS), {Prediction.CATEGORY_MASK}),
        ("semantic_fpn", {Prediction.SEMANTIC_MASK}, {Prediction.CATEGORY_MASK}),
    ],
)
def test_one_branch_alone(system, present, absent):
    params = get_params(f"{system}_shapes", ROW.overrides)
    if system == "semantic_fpn":
        params.override({"task": {"model": {"semantic": {"thing_classes": "all"}}}})
    task = get_task(params)
    batch = make_batch(task, [draw_sample(0), draw_sample(1)])
    model, result, prediction = run(task, batch)
    assert_sane(task, result, prediction)
    assert present | {Prediction.IMAGE_SIZE} == set(prediction) and not absent & set(prediction)
    assert ("semantic" in model.parts) == (system == "semantic_fpn")
    assert ("rpn" in model.parts) == (system == "mask_rcnn")


def test_split_pyramid_gives_each_branch_its_own_channels():
    task = row_task(ROW, {"model": {"fpn": {"sharing": "split", "filters": 64}}})
    model = task.build_model()
    assert {"fpn_instance", "fpn_semantic"} <= set(model.parts)
    batch = make_batch(task, [draw_sample(0), draw_sample(1)])
    with tf.GradientTape() as tape:
        outputs = model(batch[0], training=True)
        semantic = task.build_loss()(batch[1], outputs)["loss/semantic"]
    variables = model.parts["fpn_instance"].trainable_variables
    assert all(g is None for g in tape.gradient(semantic, variables))


def test_ceiling_is_high():
    task = row_task(ROW)
    features, labels = make_batch(task, [draw_sample(3)])
    prediction = task.ideal_prediction({**features, **labels}, features["image_info"])
    sample = draw_sample(3)
    same = prediction[Prediction.CATEGORY_MASK][0] == sample.category_mask
    annotated = (sample.category_mask > 0) & ~sample.crowd_mask
    assert np.mean(same.numpy()[annotated.numpy()]) > 0.9


def test_weight_decay_pulls_all_but_normalization():
    batch = make_batch(row_task(ROW), [draw_sample(0)])
    model = row_task(ROW).build_model()
    weights = model.get_weights()
    before = [v.numpy() for v in model.trainable_variables]
    after = []
    for decay in (0.0, 0.1):
        task = row_task(ROW, {"weight_decay": decay})
        model.set_weights(weights)
        tf.keras.utils.set_random_seed(4)
        task.train_step(batch, model, tf.keras.optimizers.legacy.SGD(1.0))
        after.append([v.numpy() for v in model.trainable_variables])
    for variable, start, free, decayed in zip(model.trainable_variables, before, *after):
        is_norm = "/norm/" in variable.name
        expected = 0.0 * start if is_norm else 0.1 * start
        np.testing.assert_allclose(free - decayed, expected, atol=1e-5, err_msg=variable.name)
