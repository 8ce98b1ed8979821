"""Panoptic-DeepLab against values recorded from the reference implementation."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.ops import forms
from panoptic_tf.structures import PanopticSample
from panoptic_tf.systems.panoptic_deeplab.losses import PanopticDeepLabLoss
from panoptic_tf.systems.panoptic_deeplab.postprocessor import PanopticDeepLabPostProcessor
from panoptic_tf.systems.panoptic_deeplab.targets import PanopticDeepLabTargetGenerator

pytestmark = pytest.mark.reference


def as_partition(panoptic, divisor):
    """{(category, frozenset of flat pixels)} of a `category * divisor + instance` map, -1 void."""
    flat = panoptic.reshape(-1)
    order = np.argsort(flat, kind="stable")
    values, starts = np.unique(flat[order], return_index=True)
    groups = np.split(order, starts[1:])
    return {
        (int(value) // divisor, group.tobytes())
        for value, group in zip(values, groups)
        if value >= 0
    }


@pytest.mark.parametrize("case", ["realistic", "no_center", "only_stuff", "topk", "plateau"])
@pytest.mark.parametrize("form", forms.Form)
def test_postprocessing_finds_the_reference_segments(golden, case, form):
    recorded = golden(f"panoptic_deeplab_post_{case}")
    semantic = recorded["semantic"].astype(np.int32)  # [1, H, W], 0-based
    num_categories = int(max(semantic.max(), recorded["thing_ids"].max())) + 1
    layer = PanopticDeepLabPostProcessor(
        output_size=semantic.shape[1:],
        thing_ids=[int(i) + 1 for i in recorded["thing_ids"]],
        center_threshold=float(recorded["threshold"]),
        nms_kernel=int(recorded["nms_kernel"]),
        top_k=int(recorded["top_k"]),
        stuff_area=int(recorded["stuff_area"]),
    )
    # Heads at the image's own size, where rescaling leaves them as they are.
    heads = {
        "semantic_logits": tf.one_hot(semantic, num_categories) * 9.0,
        "center_heatmap": tf.constant(recorded["center_heatmap"][..., np.newaxis]),
        "offsets": tf.constant(np.moveaxis(recorded["offsets"], 0, -1)[np.newaxis]),
    }
    _, image_info = geometry.fit_and_pad(tf.zeros([*semantic.shape[1:], 3]), semantic.shape[1:])
    with forms.use(form):
        prediction = layer(heads, image_info[tf.newaxis])
    divisor = int(recorded["label_divisor"])
    category = prediction["category_mask"].numpy()
    ours = np.where(category > 0, (category - 1) * divisor + prediction["instance_mask"], -1)
    assert as_partition(ours, divisor) == as_partition(recorded["panoptic"], divisor)
    areas = prediction["segment_area"].numpy()[0]
    assert (areas > 0).sum() == prediction["num_segments"].numpy()[0]
    assert areas.sum() == (category > 0).sum()


def nhwc(array):
    return tf.constant(np.moveaxis(array, 1, -1))


@pytest.mark.parametrize("fraction,name", [(0.2, "top0.2"), (1.0, "top1.0")])
@pytest.mark.parametrize("weighted", [True, False])
def test_cross_entropy_over_the_batch(golden, fraction, name, weighted):
    from panoptic_tf.losses.cross_entropy import WeightedBootstrappedCrossEntropy
    from panoptic_tf.losses.reduction import reduce_loss

    recorded = golden("deeplab_ce")
    labels = recorded["labels"].astype(np.int32)
    categories = np.where(labels == int(recorded["ignore_label"]), 0, labels + 1)
    logits = tf.Variable(nhwc(recorded["logits"]))
    loss_layer = WeightedBootstrappedCrossEntropy(top_k_fraction=fraction, rank_over="batch")
    weights = tf.constant(recorded["weights"].astype(np.float32)) if weighted else None
    with tf.GradientTape() as tape:
        loss = reduce_loss(*loss_layer(logits, categories, weights))
    expected = recorded[f"loss_{'weighted' if weighted else 'unweighted'}_{name}"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    if weighted and fraction == 0.2:
        gradient = np.moveaxis(tape.gradient(loss, logits).numpy(), -1, 1)
        np.testing.assert_allclose(gradient, recorded["grad_weighted_top02"], atol=1e-6)
    nothing = reduce_loss(*loss_layer(logits, np.zeros_like(categories), weights))
    np.testing.assert_allclose(nothing, recorded["loss_all_ignored_top0.2"], atol=1e-7)


def test_head_losses_and_gradients(golden):
    recorded = golden("deeplab_head_losses")
    stride = float(recorded["common_stride"])
    heads = {
        "semantic_logits": tf.Variable(nhwc(recorded["sem_logits"])),
        "center_heatmap": tf.Variable(nhwc(recorded["center_pred"])),
        "offsets": tf.Variable(nhwc(recorded["offset_pred"])),
    }
    categories = recorded["sem_labels"].astype(np.int32)
    categories = np.where((categories < 0) | (categories >= 19), 0, categories + 1)
    labels = {
        "category_mask": tf.constant(categories, tf.int32),
        "semantic_weights": tf.constant(recorded["sem_weights"].astype(np.float32)),
        "center_heatmap": nhwc(recorded["center_target"]),
        "center_weights": nhwc(recorded["center_weights"].astype(np.float32)),
        "offsets": nhwc(recorded["offset_target"]),
        "offset_weights": nhwc(recorded["offset_weights"].astype(np.float32)),
    }
    loss = PanopticDeepLabLoss(
        center_weight=float(recorded["center_loss_weight"]),
        offset_weight=float(recorded["offset_loss_weight"]),
        rank_over="batch",
    )
    with tf.GradientTape(persistent=True) as tape:
        losses = loss(labels, {**heads, "offsets": heads["offsets"] * stride})
    for ours, theirs in (
        ("semantic", "loss_sem_seg_top02"),
        ("center", "loss_center"),
        ("offset", "loss_offset"),
    ):
        np.testing.assert_allclose(losses[f"loss/{ours}"], recorded[theirs], rtol=1e-5)
    for ours, head, theirs in (
        ("semantic", "semantic_logits", "grad_sem"),
        ("center", "center_heatmap", "grad_center"),
        ("offset", "offsets", "grad_offset"),
    ):
        gradient = tape.gradient(losses[f"loss/{ours}"], heads[head]).numpy()
        np.testing.assert_allclose(
            np.moveaxis(gradient, -1, 1), recorded[theirs], rtol=1e-5, atol=1e-6
        )
    labels["offset_weights"] = tf.zeros_like(labels["offset_weights"])
    zero = loss(labels, heads)["loss/offset"]
    np.testing.assert_allclose(zero, recorded["loss_offset_zero_weights"], atol=1e-7)


@pytest.mark.parametrize("case", ["s10", "s8", "s8_crowd"])
def test_targets(reference_data, case):
    recorded = np.load(reference_data / "golden" / f"deeplab_targets_{case}.npz")
    ids = recorded["panoptic_ids"]
    things = set(recorded["thing_ids"].tolist())
    category, instance = np.zeros(ids.shape, np.int32), np.zeros(ids.shape, np.int32)
    crowd = np.zeros(ids.shape, bool)
    rows = zip(recorded["seg_id"], recorded["seg_category_id"], recorded["seg_iscrowd"])
    for number, (segment, segment_category, is_crowd) in enumerate(rows, start=1):
        mask = ids == segment
        category[mask] = segment_category + 1
        instance[mask] = number if int(segment_category) in things else 0
        crowd[mask] = bool(is_crowd)
    generator = PanopticDeepLabTargetGenerator(
        sigma=int(recorded["sigma"]),
        small_instance_area=int(recorded["small_instance_area"]),
        small_instance_weight=float(recorded["small_instance_weight"]),
        ignore_stuff_in_offset=bool(recorded["ignore_stuff_in_offset"]),
        ignore_crowd_in_semantic=bool(recorded["ignore_crowd_in_semantic"]),
    )
    sample = PanopticSample(
        tf.zeros([*ids.shape, 3]), tf.zeros([4, 2]), category, instance, crowd, b"1"
    )
    _, labels = generator(
        PanopticSample(*(tf.constant(v) if v is not None else None for v in sample))
    )
    ignored = int(recorded["ignore_label"])
    semantic = np.where(recorded["out_sem_seg"] == ignored, 0, recorded["out_sem_seg"] + 1)
    np.testing.assert_array_equal(labels["category_mask"], semantic)
    np.testing.assert_array_equal(labels["semantic_weights"], recorded["out_sem_seg_weights"])
    np.testing.assert_allclose(labels["center_heatmap"][..., 0], recorded["out_center"], atol=1e-6)
    np.testing.assert_allclose(
        np.moveaxis(labels["offsets"].numpy(), -1, 0), recorded["out_offset"], atol=1e-5
    )
    for name in ("center", "offset"):
        np.testing.assert_array_equal(
            labels[f"{name}_weights"][..., 0], recorded[f"out_{name}_weights"][0]
        )
