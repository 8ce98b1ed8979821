"""Panoptic FCN: parameters, ablations, and what is peculiar to its network."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
import yaml
from official.core import exp_factory
from small_systems import (
    FROZEN_NORM,
    ROWS,
    SNAPSHOTS,
    count_parameters,
    draw_sample,
    get_params,
    get_task,
    make_batch,
    row_task,
    without_instances,
)

from panoptic_tf import experiments
from panoptic_tf.structures import Prediction

COCO = "panoptic_fcn_resnet50_coco"
RECIPES = pathlib.Path(experiments.__file__).parent / "recipes" / "panoptic_fcn"
ABLATIONS = sorted(path.stem for path in (RECIPES / "ablations").glob("*.yaml"))


@pytest.fixture(scope="module")
def row():
    return next(row for row in ROWS if row.system == "panoptic_fcn")


def test_parameters_of_resnet50_on_coco():
    counts = count_parameters(COCO, but=FROZEN_NORM)
    assert sum(counts.values()) == 36_999_511
    assert counts.pop("backbone") + counts.pop("fpn") == 27_979_456
    assert counts == {
        "semantic_fpn": 4_132_352,
        "position_head": 2_266_583,
        "kernel_head": 2_365_696,
        "feature_encoder": 222_528,
        "thing_embedding": 16_448,
        "stuff_embedding": 16_448,
    }


@pytest.mark.slow
def test_parameters_of_the_enhanced_network():
    params = get_params("panoptic_fcn_resnet50_enhanced_coco_3x", SNAPSHOTS[COCO])
    weights = get_task(params).build_model().weights
    total = sum(w.shape.num_elements() for w in weights if not re.search(FROZEN_NORM, w.name))
    assert round(total / 1e6, 3) == 38.838


def flatten(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, x in tree.items() for k, v in flatten(x, f"{prefix}.{key}").items()}


SWITCHES = {
    "convs": {
        ".model.position_head.num_convs",
        ".model.position_head.deformable",
        ".model.kernel_head.num_convs",
    },
    "coordinates": {".model.kernel_head.coordinates", ".model.encoder.coordinates"},
    "fusion": {".model.postprocessor.similarity_threshold", ".model.postprocessor.class_aware"},
    "duplicates": {".model.postprocessor.fuse_kernels", ".model.postprocessor.matrix_nms"},
    "channels": {".model.encoder.filters"},
    "feature": {".model.encoder.feature"},
    "dice": {".model.sampler.weighted", ".model.sampler.num_positives"},
}
ROWS_OF_TABLES = {
    "convs": 5,
    "coordinates": 4,
    "fusion": 6,
    "duplicates": 4,
    "channels": 4,
    "feature": 3,
    "dice": 6,
}


def test_every_row_of_every_table_is_there():
    counts = {table: sum(n.startswith(table + "_") for n in ABLATIONS) for table in SWITCHES}
    assert counts == ROWS_OF_TABLES and sum(counts.values()) == len(ABLATIONS)


def ablation(name):
    return yaml.safe_load((RECIPES / "ablations" / f"{name}.yaml").read_text())


def test_rows_of_a_table_differ_from_each_other():
    settings = [str(sorted(flatten(ablation(name)).items())) for name in ABLATIONS]
    assert len(set(settings)) == len(ABLATIONS)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_its_switch(name):
    override = ablation(name)
    before = flatten(exp_factory.get_exp_config(COCO).task.as_dict())
    params = exp_factory.get_exp_config(COCO)
    params.override(override, is_strict=True)
    after = flatten(params.task.as_dict())
    changed = {key for key in before if before[key] != after[key]}
    stated = set(flatten(override["task"]))
    assert set(override) == {"task"}
    assert changed <= stated <= SWITCHES[name.split("_")[0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("convs_3_deformable", "coordinates_none", "duplicates_kept"),
        ("feature_sum", "dice_unweighted"),
    ],
    ids="-".join,
)
def test_ablations_train(row, names):
    """The same switches on the small network; they are of different parts."""
    task = row_task(row, *(ablation(name)["task"] for name in names))
    model = task.build_model()
    optimizer = tf.keras.optimizers.SGD(0.01)
    batch = make_batch(task, [draw_sample(0)])
    before = [w.numpy() for w in model.trainable_variables]
    loss = task.train_step(batch, model, optimizer)[task.loss]
    assert np.isfinite(loss) and loss > 0
    assert any(np.any(a != w.numpy()) for a, w in zip(before, model.trainable_variables))
    assert all(np.isfinite(w.numpy()).all() for w in model.trainable_variables)
    features = {key: batch[0][key] for key in ("image", "image_info")}
    prediction = model(features, training=False)
    assert prediction[Prediction.CATEGORY_MASK].shape == (1, 64, 64)


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_recipe_holds_the_value_of_its_name(name):
    table, *rest = name.split("_")
    stated = flatten(ablation(name)["task"])
    if table == "fusion":
        assert stated[".model.postprocessor.similarity_threshold"] == float(f"{rest[0]}.{rest[1]}")
    for prefix, key in (
        ("convs", ".model.position_head.num_convs"),
        ("channels", ".model.encoder.filters"),
        ("dice", ".model.sampler.num_positives"),
    ):
        if table == prefix and rest[0].isdecimal():
            assert stated[key] == int(rest[0])
    if table == "feature":
        assert stated[".model.encoder.feature"] == "_".join(rest)
    if table == "coordinates":
        stated = [stated[f".model.{part}.coordinates"] for part in ("kernel_head", "encoder")]
        assert stated == [rest[0] in (part, "both") for part in ("kernel", "encoder")]


def test_the_fast_variant_is_an_override():
    params = exp_factory.get_exp_config(COCO)
    params.override(yaml.safe_load((RECIPES / "fast.yaml").read_text()), is_strict=True)
    selector = params.task.model.selector
    assert (selector.center_threshold, selector.stuff_threshold) == (0.2, 0.1)


@pytest.mark.parametrize(
    "side,positives", [("", 7), ("_3x", 7), ("_600_3x", 5), ("_512_3x", 3), ("_400_3x", 3)]
)
def test_positives_follow_the_size(side, positives):
    params = exp_factory.get_exp_config(COCO + side)
    assert params.task.model.sampler.num_positives == positives


def test_an_unknown_feature_is_refused(row):
    with pytest.raises(ValueError, match="encoder.feature.*'level_3'"):
        row_task(row, {"model": {"encoder": {"feature": "level_3"}}}).build_model()


def test_detections_of_a_network(row):
    """Instances before the merge, as bits, where they are asked for."""
    task = row_task(
        row, {"model": {"postprocessor": {"output_detections": True, "min_score": 0.0}}}
    )
    model = task.build_model()
    features, _ = make_batch(task, [draw_sample(0), draw_sample(1)])
    prediction = model({key: features[key] for key in ("image", "image_info")}, training=False)
    assert prediction[Prediction.DETECTION_BIT_MASKS].shape == (2, 64, 64, 1)
    assert prediction[Prediction.DETECTION_SCORES].shape == (2, 8)
    assert Prediction.DETECTION_MASKS not in prediction


def test_a_crowded_image_keeps_the_largest(row):
    """More instances than the targets and the prediction hold: losses stay finite."""
    sample = draw_sample(0)
    cells = tf.reshape(tf.range(1, 257), [16, 16])
    instances = tf.repeat(tf.repeat(cells, 4, axis=0), 4, axis=1)  # 256 squares of 4x4 pixels
    sample = sample._replace(
        instance_mask=instances,
        category_mask=1 + instances % 6,
        crowd_mask=tf.zeros_like(instances, tf.bool),
    )
    task = row_task(row, {"targets": {"max_instances": 100}})
    model = task.build_model()
    features, labels = make_batch(task, [sample, without_instances(draw_sample(1))])
    assert labels["num_pairs"].numpy().tolist() == [100.0, 0.0]
    losses = task.build_loss()(labels, model(features, training=True))
    assert all(np.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("pooling,expected", [("map", [6 / 16, 10 / 16]), ("region", [1.0, 1.0])])
def test_pooling_of_stuff_kernels(pooling, expected):
    """Every cell has the same kernel: its mean is that kernel, its sum over the map a share."""
    from panoptic_tf.systems.panoptic_fcn.kernel_selector import KernelSelector
    from panoptic_tf.systems.panoptic_fcn.sampling import KernelSampler

    region = np.zeros([1, 4, 4, 2], np.float32)
    region.reshape(16, 2)[:6, 0] = 1.0
    region.reshape(16, 2)[6:, 1] = 1.0
    kernels = {"3": tf.ones([1, 4, 4, 5])}
    image_info = tf.constant([[[32.0, 32.0], [32.0, 32.0], [1.0, 1.0], [0.0, 0.0]]])
    quarters = np.repeat(np.repeat(4 * region, 2, axis=1), 2, axis=2).astype(np.uint8)
    sampled = KernelSampler(stuff_pooling=pooling)(
        {"kernels": kernels}, {"gt_stuff": tf.constant(quarters)}, image_info
    )
    selected = KernelSelector(stuff_pooling=pooling, smoothing_sizes=(3,))(
        {"kernels": kernels, "stuff_logits": {"3": tf.constant(20.0 * region - 10.0)}}, image_info
    )
    for found in (sampled["stuff_kernels"], selected["stuff_kernels"]):
        expected_kernels = np.repeat(np.float32(expected)[:, np.newaxis], 5, axis=1)
        np.testing.assert_allclose(found[0], expected_kernels, rtol=1e-5)


@pytest.mark.parametrize(
    "override,message",
    [
        ({"model": {"stuff_pooling": "mean"}}, "stuff_pooling must be one of map, region.*'mean'"),
        ({"model": {"selector": {"top_k": 0}}}, "top_k must be positive, got 0"),
        ({"model": {"selector": {"smoothing_sizes": [4, 3, 3, 3, 3, 3]}}}, "must be odd.*4, 3"),
        ({"model": {"postprocessor": {"max_instances": 0}}}, "max_instances >= 1"),
        ({"model": {"min_level": 4}}, "min_level must be 2 or 3, got 4"),
        ({"model": {"min_level": 3}}, "smoothing_sizes must have 5 entries.*min_level"),
    ],
)
def test_wrong_configs_are_named(row, override, message):
    with pytest.raises(ValueError, match=message):
        row_task(row, override).build_model()


def test_scales_of_another_number_of_levels_are_named(row):
    task = row_task(row, {"targets": {"min_scales": [1, 2, 3]}})
    with pytest.raises(ValueError, match="min_scales and max_scales.*2, 3, 4, 5, 6, 7"):
        task.build_target_generator()


def test_any_resnet_takes_deformable_stages():
    params = exp_factory.get_exp_config("panoptic_fpn_shapes")
    override = {"model": {"backbone": {"deformable_stages": [4, 5], "deformable_version": 1}}}
    params.override({"task": override}, is_strict=True)
    names = [w.name for w in get_task(params).build_model().parts["backbone"].weights]
    found = {name.split("/")[1] for name in names if "/offset/kernel" in name}
    assert found == {"res4_0", "res4_1", "res5_0", "res5_1"}
