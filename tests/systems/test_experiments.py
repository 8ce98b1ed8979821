"""Configs of the registered experiments, parameter counts, and what wrong configs say."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from official.core import exp_factory
from small_systems import (
    ROWS,
    SNAPSHOT_DIR,
    SNAPSHOTS,
    count_parameters,
    get_params,
    get_task,
    row_task,
)

from panoptic_tf.datasets.dataset_info import DatasetInfo

SEMANTIC_ONLY = ("deeplabv3plus", "semantic_fpn")
EXPERIMENTS = (
    [
        f"{system}_{backbone}_{dataset}"
        for system in ("panoptic_deeplab", "deeplabv3plus")
        for backbone in ("resnet50", "resnet52", "resnet101", "xception71", "mobilenetv3")
        for dataset in ("coco", "cityscapes")
    ]
    + [
        f"{system}_{backbone}_{dataset}"
        for system in ("panoptic_fpn", "mask_rcnn", "semantic_fpn")
        for backbone in (
            "resnet50",
            "resnet101",
            "resnext50",
            "resnext101",
            "resnext101_64x4d",
            "resnext152",
        )
        for dataset in ("coco", "coco_3x", "cityscapes")
    ]
    + [
        f"panoptic_fcn_{backbone}_{dataset}"
        for backbone in ("resnet50", "resnet101", "dcn101")
        for dataset in (
            *("coco", "coco_3x", "coco_400_3x", "coco_512_3x", "coco_600_3x", "cityscapes"),
            *("coco_400", "coco_512", "coco_600"),
            *("enhanced_coco_3x", "enhanced_cityscapes"),
        )
    ]
    + [
        f"{name}_{backbone}_{dataset}"
        for name, datasets in (
            ("mask2former", ("coco", "cityscapes", "ade20k")),
            ("maskformer", ("coco",)),
        )
        for backbone in (
            *("resnet50", "resnet101"),
            *("swin_tiny", "swin_small", "swin_base", "swin_large"),
        )
        for dataset in datasets
    ]
    + [f"eomt_{size}_coco" for size in ("small", "base", "large")]
    + [
        f"{name}_{kind}"
        for kind in ("shapes", "small")
        for name in (
            "panoptic_deeplab",
            "panoptic_fpn",
            "panoptic_fcn",
            "mask2former",
            "mask_rcnn",
            "semantic_fpn",
        )
    ]
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_gives_its_config(name):
    params = exp_factory.get_exp_config(name)
    params.validate()
    task = params.task
    info = DatasetInfo.load(task.dataset_info)
    assert info.num_categories in (10, 19, 133, 150)
    assert task.train_data.is_training and not task.validation_data.is_training
    assert params.trainer.train_steps > 0
    if hasattr(task.model, "has_instance_branch"):
        assert task.model.has_instance_branch == (not name.startswith(SEMANTIC_ONLY))
    assert exp_factory.get_exp_config(name).as_dict() == params.as_dict()
    # The text that `params.yaml` holds gives the same config.
    again = exp_factory.get_exp_config(name)
    again.override(params.as_dict(), is_strict=True)
    assert again.as_dict() == params.as_dict()


def test_parameters_of_resnet52_on_coco():
    counts = count_parameters("panoptic_deeplab_resnet52_coco", but="/moving_")
    assert counts == {"backbone": 23_631_808, "semantic": 3_340_901, "instance": 3_327_939}


@pytest.mark.slow
def test_parameters_of_resnet52_on_cityscapes():
    small = {
        "train_size": [64, 128],
        "input_size": [64, 128],
        "aspp_pool_size": [4, 8],
        "use_separable_conv": False,
    }
    params = get_params("panoptic_deeplab_resnet52_cityscapes", {"model": small})
    weights = get_task(params).build_model().training_network.weights
    total = sum(w.shape.num_elements() for w in weights if "/moving_" not in w.name)
    assert round(total / 1e6, 3) == 59.770


def parse(*arguments):
    from panoptic_tf.api import settings
    from panoptic_tf.experiments import common

    if "experiment" not in flags.FLAGS:
        common.define_experiment_flags()
        common.define_device_flags()
    # Other binaries that were imported here require flags of their own, so nothing is parsed whole.
    with flagsaver.flagsaver():
        flags.FLAGS.mark_as_parsed()
        for argument in arguments:
            name, text = argument.lstrip("-").split("=", 1)
            flags.FLAGS[name].using_default_value = False
            flags.FLAGS[name].parse(text)
        return settings.configure(**common.experiment_options()).params


def test_overrides_from_flags(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("task: {model: {input_size: [64, 96]}, losses: {center_weight: 100}}")
    params = parse(
        "--experiment=panoptic_deeplab_shapes",
        f"--config_file={file}",
        "--params_override=task.losses.offset_weight=0.5,task.model.backbone.norm=group",
        "--mixed_precision=float32",
    )
    assert params.task.losses.center_weight == 100 and params.task.losses.offset_weight == 0.5
    assert params.task.model.backbone.norm == "group"
    assert list(params.task.model.input_size) == [64, 96]
    assert params.runtime.mixed_precision_dtype == "float32"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--distribution_strategy=mirrored"], 2),
        (["--distribution_strategy=one_device"], 1),
        (["--distribution_strategy=tpu"], 0),
        (["--num_gpus=0"], 0),
        (["--num_gpus=1", "--distribution_strategy=mirrored"], 1),
        (["--params_override=runtime.num_gpus=1", "--distribution_strategy=mirrored"], 1),
    ],
)
def test_the_gpus_that_are_there_are_taken(monkeypatch, arguments, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU"] * 2)
    assert parse("--experiment=panoptic_fpn_shapes", *arguments).runtime.num_gpus == expected


@pytest.mark.parametrize(
    "override,key",
    [
        ("task.model.inputsize=[64,64]", "inputsize"),
        ("task.losses.centre_weight=1", "centre_weight"),
        ("tusk.model.norm=batch", "tusk"),
    ],
)
def test_a_wrong_key_is_named(override, key):
    with pytest.raises(ValueError, match=f"--params_override: there is no key .*{key}"):
        parse("--experiment=panoptic_deeplab_shapes", f"--params_override={override}")


def test_a_wrong_key_in_a_file_is_named(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("task: {model: {backbone: {nme: resnet50}}}")
    with pytest.raises(ValueError, match="nme"):
        parse("--experiment=panoptic_deeplab_shapes", f"--config_file={file}")


def test_an_unknown_experiment_is_named():
    with pytest.raises((ValueError, LookupError), match="panoptic_deeplab_nothing"):
        parse("--experiment=panoptic_deeplab_nothing")


@pytest.fixture(scope="module")
def small_row():
    return next(row for row in ROWS if row.system == "panoptic_deeplab")


@pytest.mark.parametrize("frozen", [{"norm": "frozen_batch"}, {"frozen_stages": 2}])
def test_frozen_parts_need_a_checkpoint(small_row, frozen):
    task = row_task(small_row, {"model": {"backbone": frozen}})
    with pytest.raises(ValueError, match="init_checkpoint is empty.*freezes"):
        task.initialize(None)


def test_nothing_frozen_needs_no_checkpoint(small_row):
    row_task(small_row).initialize(None)


@pytest.mark.parametrize("missing", ["nothing/ckpt-5", "."])
def test_a_missing_checkpoint_is_named(small_row, tmp_path, built, missing):
    path = str(tmp_path / missing)
    task = row_task(small_row, {"init_checkpoint": path})
    with pytest.raises(ValueError, match=f"{path} (does not exist|is a folder without)"):
        task.initialize(built[1])


def test_unknown_modules_are_named(small_row, built, tmp_path):
    override = {"init_checkpoint": str(tmp_path), "init_checkpoint_modules": "decoder"}
    with pytest.raises(ValueError, match="init_checkpoint_modules must be one of.*'decoder'"):
        row_task(small_row, override).initialize(built[1])


def test_a_checkpoint_of_something_else_lists_names(tmp_path, small_row, built):
    saved = tf.train.Checkpoint(something=tf.Variable(1.0)).save(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="no known source") as caught:
        row_task(small_row, {"init_checkpoint": saved}).initialize(built[1])
    assert saved in str(caught.value) and "something" in str(caught.value)  # what it holds


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path, small_row):
    model = row_task(small_row).build_model()
    wide = {"model": {"semantic": {"head_channels": 12}}}
    other = row_task(small_row, wide).build_model()
    saved = tf.train.Checkpoint(model=other).save(str(tmp_path / "wide"))
    before = model.get_weights()
    with pytest.raises(ValueError, match="does not fit") as caught:
        row_task(small_row, {"init_checkpoint": saved}).initialize(model)
    predictor = "semantic/semantic_head/predictor/kernel"
    assert f"{predictor} is [1, 1, 8, 10]" in str(caught.value)  # the network's
    assert "is [1, 1, 12, 10]" in str(caught.value)  # the file's
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_what_fits_of_a_checkpoint_is_taken_where_asked(tmp_path, small_row):
    wide = {"model": {"semantic": {"head_channels": 12}}}
    other = row_task(small_row, wide).build_model()
    saved = tf.train.Checkpoint(model=other).save(str(tmp_path / "wide"))
    override = {"init_checkpoint": saved, "init_checkpoint_modules": "matching"}
    model = row_task(small_row).build_model()
    row_task(small_row, override).initialize(model)
    ours, theirs = ({v.name: v.numpy() for v in m.weights} for m in (model, other))
    for name, value in ours.items():
        assert np.array_equal(value, theirs[name]) or value.shape != theirs[name].shape, name


def test_another_normalisation_of_the_weights_is_said(tmp_path, small_row, caplog):
    model = row_task(small_row).build_model()
    saved = tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
    (tmp_path / "params.yaml").write_text("task: {normalization: {channel_order: BGR}}")
    with caplog.at_level("WARNING"):
        row_task(small_row, {"init_checkpoint": saved}).initialize(model)
    assert "--params_override='task.normalization.channel_order=BGR'" in caplog.text


def test_what_is_frozen_must_be_in_the_checkpoint(tmp_path, small_row):
    other = row_task(small_row).build_model()
    saved = tf.train.Checkpoint(backbone=other.parts["backbone"].stem).save(str(tmp_path / "stem"))
    override = {
        "init_checkpoint": saved,
        "init_checkpoint_modules": "matching",
        "model": {"backbone": {"norm": "frozen_batch"}},
    }
    task = row_task(small_row, override)
    with pytest.raises(ValueError, match="has nothing that fits backbone/res2_0/.* freezes"):
        task.initialize(task.build_model())


@pytest.mark.parametrize("experiment", [name for name in SNAPSHOTS if name.endswith("_shapes")])
def test_muon_leaves_out_kernels_that_there_are(experiment):
    options = exp_factory.get_exp_config(experiment).trainer.optimizer_config.optimizer.muon
    names = json.loads((SNAPSHOT_DIR / f"{experiment}.json").read_text())
    kernels = [name for name in names if name.endswith("/kernel:0")]
    for pattern in options.exclude_from_muon:
        assert any(re.search(pattern, name) for name in kernels), pattern
