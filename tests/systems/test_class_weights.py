"""Class weights: the rules, and what each system's loss makes of them."""

import json

import numpy as np
import pytest
import tensorflow as tf
from small_systems import ROWS, draw_sample, make_batch, row_task, write_records

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.inputs.category_counts import CategoryCounts
from panoptic_tf.losses.cross_entropy import pixel_cross_entropy
from panoptic_tf.losses.focal import sigmoid_focal_loss
from panoptic_tf.systems import config
from panoptic_tf.systems.class_weights import ClassWeights
from panoptic_tf.systems.panoptic_deeplab.losses import PanopticDeepLabLoss
from panoptic_tf.systems.panoptic_fcn.losses import PanopticFCNLoss
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
        (report(name="other"), "the first that differs is .*other"),
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
        ({"values": [1.0] * 4}, "is for task.losses.class_weights.rule=list"),
        ({"smallest": 0.0}, "0 < smallest <= largest"),
        ({"smallest": 3.0, "largest": 2.0}, "0 < smallest <= largest"),
        ({"power": 0.0}, "power > 0"),
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
    cells = sigmoid_focal_loss(logits, scores).numpy() * np.array(WEIGHTS, np.float32)
    found = PanopticFCNLoss(class_weights=WEIGHTS)._regions(labels, {"3": logits})
    np.testing.assert_allclose(found, cells.sum(axis=-1).mean(), rtol=1e-5)


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
    weights = {"class_weights": {"rule": "frequency"}}
    task = row_task(row, {"train_data": data, "losses": weights})
    batch = make_batch(task, [draw_sample(0), draw_sample(1)])
    plain = row_task(row)
    outputs = {}
    model = plain.build_model()
    outputs = model(batch[0], training=True)
    before = plain.build_loss()(batch[1], outputs)
    features, labels = next(iter(task.build_inputs(task.task_config.train_data)))
    assert features["image"].shape == [2, 64, 64, 3]
    after = task.build_loss()(batch[1], outputs)
    name = "loss/position_stuff" if row.system == "panoptic_fcn" else "loss/semantic"
    assert after[name] != before[name]
    for other in set(before) - {name, "loss"}:
        np.testing.assert_allclose(after[other], before[other], rtol=1e-5)
    assert all(np.isfinite(value) for value in after.values())
