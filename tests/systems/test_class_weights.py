"""Class weights: the rules, and what each system's loss makes of them."""

import json

import numpy as np
import pytest
import tensorflow as tf
from small_systems import ROWS, draw_sample, make_batch, row_task, write_records

from panoptic_tf.datasets import record
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.inputs.category_counts import CategoryCounts
from panoptic_tf.losses.cross_entropy import pixel_cross_entropy
from panoptic_tf.losses.focal import sigmoid_focal_loss
from panoptic_tf.systems import config
from panoptic_tf.systems.class_weights import ClassWeights
from panoptic_tf.systems.panoptic_deeplab.losses import PanopticDeepLabLoss
from panoptic_tf.systems.panoptic_fcn import network as fcn_network
from panoptic_tf.systems.panoptic_fcn.losses import PanopticFCNLoss
from panoptic_tf.systems.panoptic_fpn import network as fpn_network
from panoptic_tf.systems.panoptic_fpn.losses import PanopticFPNLoss

INFO = DatasetInfo.from_coco(
    [{"id": 10 * i, "name": f"c{i}", "isthing": int(i < 3)} for i in range(1, 5)], name="four"
)
PIXELS = np.array([0, 400, 100, 1600, 0])


def build(**values):
    return ClassWeights(config.ClassWeights(**values), INFO)


def learned(**values):
    weights = build(rule="frequency", **values)
    assert weights.of_channels(range(5)) is None
    with pytest.raises(ValueError, match="build_inputs"):
        weights.check_known()
    weights.learn(CategoryCounts(9, np.zeros(5), PIXELS))
    weights.check_known()
    return weights


def test_none_leaves_the_loss_as_published():
    weights = build()
    weights.learn(None)
    weights.check_known()
    assert weights.of_channels(range(5)) is None
    assert weights.of_channels([]) is None


def test_frequency():
    # Median of 400, 100, 1600: 400. The fourth has no pixel.
    assert learned().of_channels(range(5)) == [1, 4, 0.25, 1]
    assert learned(power=0.5).of_channels(range(5)) == [1, 2, 0.5, 1]
    assert learned(smallest=0.5, largest=3).of_channels(range(5)) == [1, 3, 0.5, 1]
    # Both things in one channel, of 500 pixels: the median of 500 and 1600 is 1050.
    np.testing.assert_allclose(learned().of_channels([0, 1, 1, 2, 3]), [1050 / 500, 1050 / 1600, 1])


def test_list():
    weights = build(rule="list", values=[1.0, 2.0, 3.0, 0.0])
    assert weights.of_channels(range(5)) == [1, 2, 3, 0]
    assert weights.of_channels([0, 1, 1, 2, 3]) == [1.5, 3, 0]
    assert weights.of_channels([0, 0, 0, 1, 2]) == [3, 0]


def report(**changes):
    rows = [
        {"id": c.dataset_id, "name": c.name, "pixels": int(PIXELS[c.id])} for c in INFO.categories
    ]
    rows[1].update(changes)
    return {"per_category": rows}


def test_statistics_of_a_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report()))
    weights = build(rule="frequency", statistics=str(path))
    assert not weights.wants_counts
    weights.check_statistics()
    weights.learn(None)
    assert weights.of_channels(range(5)) == [1, 4, 0.25, 1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "report.json"),
        ([], "'per_category' must be a list"),
        ({"per_category": [1]}, "'per_category' must be a list"),
        (report(name="other"), "category 2 of 4 is 20 'other', .* of 'four' is 20 'c2'. Set"),
        (
            {"per_category": report()["per_category"][:3]},
            "category 4 of 3 is missing, and category 4 of the 4 of 'four' is 40 'c4'",
        ),
        (
            {"per_category": [*report()["per_category"], {"id": 50, "name": "c5"}]},
            "category 5 of 5 is 50 'c5', and category 5 of the 4 of 'four' is missing",
        ),
        (report(pixels=-1), "'pixels' must be integers"),
        (report(pixels="1"), "'pixels' must be integers"),
    ],
)
def test_wrong_statistics(tmp_path, content, words):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        build(rule="frequency", statistics=str(path)).check_statistics()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rule": "median"}, "rule must be one of none, list, frequency"),
        ({"rule": "list", "values": [1.0]}, "must be 4 numbers .* got 1"),
        ({"rule": "list", "values": [1.0, 2.0, -1.0, 1.0]}, "at least 0"),
        ({"rule": "list", "values": ["1", "2", "3", "4"]}, "must be 4 numbers .* got 4: .'1'"),
        ({"rule": "list", "values": [1.0, 2.0, float("nan"), 1.0]}, "at least 0"),
        ({"values": [1.0] * 4}, "is for task.losses.class_weights.rule=list"),
        ({"smallest": 0.0}, "0 < smallest <= largest"),
        ({"smallest": 3.0, "largest": 2.0}, "0 < smallest <= largest"),
        ({"power": 0.0}, "power > 0"),
        ({"power": float("nan")}, "power > 0, got 0.1, 10.0 and nan"),
        ({"smallest": float("nan")}, "0 < smallest <= largest"),
    ],
)
def test_wrong_values(values, words):
    with pytest.raises(ValueError, match=words):
        build(**values)


def test_a_network_without_a_semantic_branch():
    with pytest.raises(ValueError, match="no semantic branch"):
        build(rule="list", values=[1.0] * 4).of_channels([])


WEIGHTS = [0.5, 2.0, 3.0]


def draw_semantic(seed=0):
    rng = np.random.default_rng(seed)
    logits = tf.constant(rng.normal(size=[2, 4, 6, 3]), tf.float32)
    mask = rng.integers(0, 4, [2, 4, 6]).astype(np.int32)
    losses = pixel_cross_entropy(logits, tf.constant(mask)).numpy()
    return logits, mask, losses, np.array([0, *WEIGHTS])[mask]


def test_panoptic_deeplab():
    logits, mask, losses, weights = draw_semantic()
    small = np.where(mask == 2, 3.0, 1.0).astype(np.float32)
    labels = {"category_mask": tf.constant(mask), "semantic_weights": tf.constant(small)}
    loss = PanopticDeepLabLoss(top_k_fraction=0.25, class_weights=WEIGHTS)
    # The 6 largest of 24 weighted losses of each image.
    hardest = np.sort((losses * weights * small).reshape(2, -1))[:, -6:]
    found = loss(labels, {"semantic_logits": logits})["loss/semantic"]
    np.testing.assert_allclose(found, hardest.mean(), rtol=1e-5)


def test_panoptic_fpn():
    logits, mask, losses, weights = draw_semantic()
    loss = PanopticFPNLoss(semantic_weight=0.5, class_weights=WEIGHTS)
    found = loss({"semantic_mask": tf.constant(mask)}, {"semantic_logits": logits})
    expected = 0.5 * (losses * weights).sum() / weights.sum()
    np.testing.assert_allclose(found["loss/semantic"], expected, rtol=1e-5)
    equal = PanopticFPNLoss(class_weights=[7.0] * 3)
    np.testing.assert_allclose(
        *(
            one({"semantic_mask": tf.constant(mask)}, {"semantic_logits": logits})["loss"]
            for one in (equal, PanopticFPNLoss())
        ),
        rtol=1e-5,
    )


def test_panoptic_fcn_weighs_the_channels_of_stuff():
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(size=[2, 4, 6, 3]), tf.float32)
    scores = tf.constant(rng.uniform(size=[2, 4, 6, 3]), tf.float32)
    labels = {
        "stuff_scores_3": scores,
        "valid_3": tf.ones([2, 4, 6]),
        "is_annotated": tf.ones([2]),
    }
    no_mask = {  # Of one pair, which does not count.
        "stuff_map": tf.zeros([2, 4, 6, 1]),
        "stuff_kernels": tf.zeros([2, 1, 1]),
        "sampled_stuff_masks": tf.zeros([2, 1, 4, 6]),
        "sampled_stuff_rows": tf.zeros([2, 1], tf.int32),
        "sampled_stuff_valid": tf.zeros([2, 1]),
    }
    cells = sigmoid_focal_loss(logits, scores).numpy() * np.array(WEIGHTS, np.float32)
    loss = PanopticFCNLoss(class_weights=WEIGHTS)
    found = loss(labels, {"stuff_logits_3": logits, **no_mask})["loss/position_stuff"]
    np.testing.assert_allclose(found, cells.sum(axis=-1).mean(), rtol=1e-5)


def balance_by_hand(pattern, channels):
    """Median frequency balancing of the channels, by category: those of a channel share pixels."""
    pixels = np.zeros(max(channels) + 1)
    for serialized in tf.data.TFRecordDataset(tf.io.gfile.glob(pattern)):
        example = record.decode_example(serialized)
        categories = np.array([0, *example["segment_categories"].numpy()])[example["id_map"]]
        pixels += np.bincount(np.take(channels, categories).flat, minlength=len(pixels))
    median = np.median([count for count in pixels[1:] if count])
    weights = [min(max(median / count, 0.1), 10.0) if count else 1.0 for count in pixels]
    return [weights[channel] if channel else 1.0 for channel in channels[1:]]


def parts_of_a_step(task, model, batch):
    """The parts of the loss, of a step that moves no weight."""
    metrics = task.build_metrics()
    task.train_step(batch, model, tf.keras.optimizers.legacy.SGD(0.0), metrics)
    return {metric.name: float(metric.result()) for metric in metrics}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row.system for row in ROWS])
def test_a_step_by_the_frequency_of_the_records(row, tmp_path):
    data = {
        "input_path": write_records(tmp_path),
        "global_batch_size": 2,
        "seed": 0,
        "repeat_factor_threshold": 0.5,
        "augmentation": {"copy_paste": {"probability": 0.5}},
    }

    def build_task(**class_weights):
        losses = {"class_weights": class_weights}
        return row_task(row, row.without_norm, {"train_data": data, "losses": losses})

    task = build_task(rule="frequency")
    model = task.build_model()
    batch = make_batch(task, [draw_sample(0), draw_sample(1)])
    with pytest.raises(ValueError, match="build_inputs of task.train_data"):
        parts_of_a_step(task, model, batch)
    features, _ = next(iter(task.build_inputs(task.task_config.train_data)))
    assert features["image"].shape == [2, 64, 64, 3]
    found = parts_of_a_step(task, model, batch)
    info = task.dataset_info
    channels = {
        "mask_transformer": lambda: list(range(info.num_categories + 1)),
        "panoptic_deeplab": lambda: list(range(info.num_categories + 1)),
        "panoptic_fpn": lambda: fpn_network.channel_of_category(task.task_config.model, info),
        "panoptic_fcn": lambda: fcn_network.channel_of_category(task.task_config.model, info),
    }[row.system]()
    values = balance_by_hand(data["input_path"], channels)
    assert min(values) < 1 < max(values)
    expected = parts_of_a_step(build_task(rule="list", values=values), model, batch)
    assert found == pytest.approx(expected, rel=1e-5)
    plain = parts_of_a_step(build_task(), model, batch)
    names = {"mask_transformer": "loss/class", "panoptic_fcn": "loss/position_stuff"}
    name = names.get(row.system, "loss/semantic")
    assert [key for key in found if found[key] != pytest.approx(plain[key], rel=1e-3)] == [name]
