"""Every COCO and Cityscapes experiment starts from a file of its backbone's source."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory
from small_systems import draw_sample, get_params, get_task, make_batch
from test_experiments import EXPERIMENTS

from panoptic_tf import checkpoints
from panoptic_tf.systems import config as base_config

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoints"))
import source_files  # noqa: E402

# What writes a file of the source that an experiment's backbone starts from.
WRITERS = {
    "resnet50": source_files.caffe2_resnet,
    "resnet101": source_files.caffe2_resnet,
    "resnet52": source_files.deeplab_resnet,
    "resnext50": source_files.torchvision_resnet,
    "resnext101": source_files.caffe2_resnet,
    "resnext101_64x4d": source_files.caffe2_resnet,
    "resnext152": source_files.caffe2_resnet,
}
# Their sources have tests of their own, see test_backbone_sources.py.
ELSEWHERE = {"mobilenetv3_large", "xception71"}
NARROW = {"widths": [32, 32, 32, 32], "stem_width": 8}


def _backbone(experiment):
    return exp_factory.get_exp_config(experiment).task.model.backbone


BACKBONES = {
    (_backbone(name).name, tuple(_backbone(name).deformable_stages)): name
    for name in EXPERIMENTS
    if not name.endswith("shapes")
}


def test_every_backbone_has_a_source():
    assert {name for name, _ in BACKBONES} == {*WRITERS, *ELSEWHERE}


def _write(variables, writer, tmp_path):
    """A file with random weights of an ordinary backbone, and what is in it."""
    source_files.randomize(variables)
    values = source_files.values_of(variables)
    ordinary = {name: value for name, value in values.items() if "/offset/" not in name}
    return source_files.write_pickle(writer(ordinary), tmp_path / "backbone.pkl"), ordinary


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(set(BACKBONES.values())))
def test_the_whole_backbone_comes_from_the_file(experiment, tmp_path):
    config = _backbone(experiment)
    if config.name in ELSEWHERE:
        pytest.skip(f"{config.name}: see test_backbone_sources.py")
    config.override({"options": NARROW})
    backbone = base_config.build_backbone(config, [64, 64])
    backbone(tf.zeros([1, 64, 64, 3]))
    path, expected = _write(backbone.weights, WRITERS[config.name], tmp_path)
    for variable in backbone.weights:
        variable.assign(tf.zeros_like(variable))
    loaded = checkpoints.load_weights(path, backbone.weights, modules="all")
    assert bool(loaded.match.zero_offsets) == bool(config.deformable_stages)
    for name, value in source_files.values_of(backbone.weights).items():
        np.testing.assert_array_equal(value, expected.get(name, 0.0), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [
        "panoptic_fpn_resnet50_coco",
        "panoptic_fpn_resnext101_cityscapes",
        "panoptic_fcn_dcn101_coco",
        "panoptic_deeplab_resnet52_cityscapes",
    ],
)
def test_a_training_starts_from_the_file_and_makes_a_step(experiment, tmp_path):
    small = {
        "dataset_info": "shapes",
        "model": {"train_size": [64, 64], "input_size": [64, 64], "output_size": []},
    }
    if "deeplab" in experiment:
        small["model"].update(aspp_pool_size=[4, 4], norm="batch")
    params = get_params(experiment, small)
    backbone = params.task.model.backbone
    backbone.norm = backbone.norm.replace("sync_batch", "batch")
    options = {**NARROW, "num_blocks": [1, 1, 1, 1]}
    backbone.override({"options": options})
    if backbone.multi_grid:
        backbone.multi_grid = [1]
    task = get_task(params)
    model = task.build_model()
    variables = model.parts["backbone"].weights
    path, expected = _write(variables, WRITERS[backbone.name], tmp_path)
    for variable in variables:
        variable.assign(tf.zeros_like(variable))
    params.task.init_checkpoint = path
    task.initialize(model)
    for name, value in source_files.values_of(variables).items():
        np.testing.assert_array_equal(value, expected.get(name, 0.0), err_msg=name)

    batch = make_batch(task, [draw_sample(seed) for seed in (0, 7)])
    before = {v.ref(): v.numpy() for v in variables}
    optimizer = tf.keras.optimizers.legacy.SGD(1e-3)
    logs = tf.function(lambda: task.train_step(batch, model, optimizer))()
    assert np.isfinite(float(logs[task.loss]))
    frozen = set(map(lambda v: v.ref(), model.parts["backbone"].non_trainable_variables))
    for variable in variables:
        changed = not np.array_equal(before[variable.ref()], variable.numpy())
        if backbone.is_frozen:
            assert changed != (variable.ref() in frozen), variable.name
