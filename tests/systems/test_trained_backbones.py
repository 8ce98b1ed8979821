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
import library_backbones  # noqa: E402
import source_files  # noqa: E402

# What writes a file of the source that an experiment's backbone starts from.
WRITERS = {
    "resnet18": source_files.torchvision_resnet,
    "resnet50": source_files.caffe2_resnet,
    "resnet101": source_files.caffe2_resnet,
    "resnet52": source_files.deeplab_resnet,
    "resnext50": source_files.torchvision_resnet,
    "resnext101": source_files.caffe2_resnet,
    "resnext101_64x4d": source_files.caffe2_resnet,
    "resnext152": source_files.caffe2_resnet,
}
# Their sources have tests of their own.
ELSEWHERE = {
    "mobilenetv3_large": "test_backbone_sources.py",
    "xception71": "test_backbone_sources.py",
    **dict.fromkeys(["swin_tiny", "swin_small", "swin_base", "swin_large"], "test_swin_sources.py"),
}
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
        pytest.skip(f"{config.name}: see {ELSEWHERE[config.name]}")
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


def _small_task(experiment, options):
    """The task of an experiment on shapes, and its model."""
    small = {
        "dataset_info": "shapes",
        "model": {"train_size": [64, 64], "input_size": [64, 64], "output_size": []},
    }
    if "deeplab" in experiment:
        small["model"].update(aspp_pool_size=[4, 4], norm="batch")
    params = get_params(experiment, small)
    backbone = params.task.model.backbone
    backbone.norm = backbone.norm.replace("sync_batch", "batch")
    backbone.override({"options": options})
    if backbone.multi_grid:
        backbone.multi_grid = [1]
    task = get_task(params)
    return task, task.build_model()


def _check_step(task, model):
    """One step of training moves the backbone, but for what is frozen."""
    batch = make_batch(task, [draw_sample(seed) for seed in (0, 7)])
    variables = model.parts["backbone"].weights
    before = {v.ref(): v.numpy() for v in variables}
    optimizer = tf.keras.optimizers.legacy.SGD(1e-3)
    logs = task.train_step(batch, model, optimizer)
    assert np.isfinite(float(logs[task.loss]))
    frozen = {v.ref() for v in model.parts["backbone"].non_trainable_variables}
    moved = [v for v in variables if not np.array_equal(before[v.ref()], v.numpy())]
    if task.task_config.model.backbone.is_frozen:
        assert {v.ref() for v in moved} == {v.ref() for v in variables} - frozen
    else:
        assert len(moved) > 0.9 * len(variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [
        "panoptic_fpn_resnext101_cityscapes",
        "panoptic_fcn_dcn101_coco",
        "panoptic_deeplab_resnet52_cityscapes",
    ],
)
def test_a_training_starts_from_the_file_and_makes_a_step(experiment, tmp_path):
    task, model = _small_task(experiment, {**NARROW, "num_blocks": [1, 1, 1, 1]})
    variables = model.parts["backbone"].weights
    writer = WRITERS[task.task_config.model.backbone.name]
    task.task_config.init_checkpoint, expected = _write(variables, writer, tmp_path)
    for variable in variables:
        variable.assign(tf.zeros_like(variable))
    task.initialize(model)
    for name, value in source_files.values_of(variables).items():
        np.testing.assert_array_equal(value, expected.get(name, 0.0), err_msg=name)
    _check_step(task, model)


def _random_state(shapes):
    """Arrays under a library's names: norms as after a training, kernels as at its start."""
    rng = np.random.default_rng(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("running_var") or name.endswith("weight") and len(shape) == 1:
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = rng.normal(0.0, np.sqrt(1.0 / np.prod(shape[1:])), shape)
        else:
            values = rng.normal(0.0, 0.1, shape)
        state[name] = values.astype(np.float32)
    return state


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment, shapes, options",
    [
        (
            "panoptic_deeplab_mobilenetv3_coco",
            library_backbones.torchvision_blocks(
                library_backbones.mobilenet_v3_large(), by_stage=False
            ),
            {},
        ),
        (
            "panoptic_deeplab_xception71_cityscapes",
            library_backbones.timm_xception(1),
            {
                "entry_widths": [128, 256, 728],
                "entry_strides": [2, 2, 2],
                "num_middle_blocks": 1,
            },
        ),
    ],
    ids=["mobilenetv3_large", "xception71"],
)
def test_other_families_start_from_a_file_and_make_a_step(experiment, shapes, options, tmp_path):
    task, model = _small_task(experiment, options)
    state = _random_state(shapes)
    path = source_files.write_pickle(state, tmp_path / "backbone.pkl")
    task.task_config.init_checkpoint = path
    task.initialize(model)
    variables = source_files.values_of(model.parts["backbone"].weights)
    means = [value for name, value in variables.items() if name.endswith("moving_mean")]
    stored = {value.tobytes() for name, value in state.items() if name.endswith("running_mean")}
    assert means and all(value.tobytes() in stored for value in means)
    _check_step(task, model)
