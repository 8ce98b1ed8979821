"""Tables of names: each source's own names, translated, are our variables exactly."""

import json
import pathlib
import re

import numpy as np
import pytest
import source_files
import tensorflow as tf
from official.core import exp_factory, task_factory

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.backbones import factory
from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.matching import compare
from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredArray, StoredCheckpoint

SNAPSHOTS = pathlib.Path(__file__).parent.parent / "systems" / "snapshots"
# Names and shapes as detectron2 and the authors of Panoptic FCN save them; of Mask2Former and
# MaskFormer those of transformers, renamed by the table by which it converts the authors' files;
# of EoMT as transformers saves it.
RECORDED = pathlib.Path(__file__).parent / "names"


def stored(state, path="weights.pkl", **metadata):
    """A file of arrays, or of shapes alone."""

    def entry(value):
        if not isinstance(value, np.ndarray):
            value = np.broadcast_to(np.float32(0), value)
        return StoredArray(value.shape, value.dtype, lambda: value)

    return StoredCheckpoint(path, {name: entry(value) for name, value in state.items()}, metadata)


def recorded(name):
    lines = (RECORDED / f"{name}.txt").read_text().splitlines()
    pairs = (line.split() for line in lines)
    return {name: tuple(map(int, shape.split("x"))) for name, shape in pairs}


def snapshot(experiment):
    described = json.loads((SNAPSHOTS / f"{experiment}.json").read_text())
    return {name.partition(":")[0]: tuple(shape) for name, shape in described.items()}


@pytest.mark.parametrize(
    "file, experiment",
    [
        ("detectron2_panoptic_fpn_R_50_1x", "panoptic_fpn_resnet50_coco"),
        ("detectron2_panoptic_deeplab_R_52_coco", "panoptic_deeplab_resnet52_coco"),
        ("panoptic_fcn_R50", "panoptic_fcn_resnet50_coco"),
        ("mask2former_R50", "mask2former_resnet50_coco"),
        ("mask2former_swin_tiny", "mask2former_swin_tiny_coco"),
        ("maskformer_R50", "maskformer_resnet50_coco"),
        ("eomt_small", "eomt_small_coco"),
    ],
)
def test_published_names_are_the_variables_of_the_experiment(file, experiment):
    checkpoint = stored(recorded(file))
    source = names.find_source(checkpoint)
    match = compare(source.translate(checkpoint), snapshot(experiment), modules="all")
    assert match.is_whole, match.differences()
    assert not match.zero_offsets
    assert experiment in source.describe(checkpoint).experiments


def _small_resnet(**options):
    """Narrow, but with the published numbers of blocks."""
    backbone = factory.build_backbone(
        options.pop("name", "resnet50"), widths=(4, 8, 8, 8), stem_width=4, **options
    )
    backbone(tf.zeros([1, 32, 32, 3]))
    source_files.randomize(backbone.weights)
    return backbone


WRITERS = {
    "torchvision": (source_files.torchvision_resnet, {}, r"torchvision or timm"),
    "resnext": (
        source_files.torchvision_resnet,
        {"name": "resnext50", "groups": 2, "width_per_group": 32},
        "torchvision or timm",
    ),
    "resnet18": (source_files.torchvision_resnet, {"name": "resnet18"}, "torchvision or timm"),
    "caffe2": (source_files.caffe2_resnet, {}, "Caffe2"),
    "deeplab": (source_files.deeplab_resnet, {"name": "resnet52"}, "detectron2's names"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_backbones_come_in_as_they_were(name, tmp_path):
    write, options, title = WRITERS[name]
    backbone = _small_resnet(**options)
    expected = source_files.values_of(backbone.weights)
    path = source_files.write_pickle(write(expected), tmp_path / "weights.pkl")
    for variable in backbone.weights:
        variable.assign(tf.zeros_like(variable))
    loaded = checkpoints.load_weights(path, backbone.weights, modules="all")
    assert re.search(title, loaded.title)
    for variable in backbone.weights:
        np.testing.assert_array_equal(variable, expected[variable.name.partition(":")[0]])


def test_statistics_that_scale_and_shift_have_taken_up_are_the_identity(tmp_path):
    backbone = _small_resnet(norm="frozen_batch")
    state = source_files.caffe2_resnet(source_files.values_of(backbone.weights), folded=True)
    path = source_files.write_pickle(state, tmp_path / "R-50.pkl")
    checkpoints.load_weights(path, backbone.weights, modules="all")
    for variable in backbone.weights:
        if "moving_mean" in variable.name:
            np.testing.assert_array_equal(variable, 0.0)
        if "moving_variance" in variable.name:
            np.testing.assert_allclose(variable, 1.0 - 1e-5)


def test_group_norm_has_no_statistics(tmp_path):
    backbone = factory.build_backbone("resnet", norm="group", num_blocks=(1, 1, 1, 1))
    backbone(tf.zeros([1, 32, 32, 3]))
    state = {
        re.sub("_bn_", "_gn_", name).replace("res_conv1", "conv1"): value
        for name, value in source_files.caffe2_resnet(
            source_files.values_of(backbone.weights)
        ).items()
    }
    checkpoint = stored(state)
    source = names.find_source(checkpoint)
    shapes = {v.name.partition(":")[0]: tuple(v.shape) for v in backbone.weights}
    assert compare(source.translate(checkpoint), shapes, modules="all").is_whole
    assert source.describe(checkpoint).settings["model.backbone.norm"] == "group"


def test_a_deformable_backbone_starts_from_an_ordinary_one(tmp_path):
    ordinary = _small_resnet()
    path = source_files.write_pickle(
        source_files.caffe2_resnet(source_files.values_of(ordinary.weights)), tmp_path / "r.pkl"
    )
    deformable = factory.build_backbone(
        "resnet50", widths=(4, 8, 8, 8), stem_width=4, deformable_stages=(4, 5)
    )
    deformable(tf.zeros([1, 32, 32, 3]))
    loaded = checkpoints.load_weights(path, deformable.weights, modules="all")
    assert len(loaded.match.zero_offsets) == 2 * (6 + 3)  # kernel and bias of each block
    expected = source_files.values_of(ordinary.weights)
    for name, value in source_files.values_of(deformable.weights).items():
        np.testing.assert_array_equal(value, 0.0 if "/offset/" in name else expected[name])


def test_what_does_not_fit_is_listed_from_both_sides_and_nothing_is_assigned(tmp_path):
    backbone = _small_resnet()
    state = source_files.torchvision_resnet(source_files.values_of(backbone.weights))
    state["layer1.0.conv1.weight"] = np.zeros([5, 4, 1, 1], np.float32)
    state["layer1.7.conv1.weight"] = state.pop("layer1.1.conv1.weight")
    path = source_files.write_pickle(state, tmp_path / "weights.pkl")
    before = source_files.values_of(backbone.weights)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load_weights(path, backbone.weights, modules="all")
    message = str(caught.value)
    assert path in message and "init_checkpoint_modules=matching" in message
    assert "backbone/res2_0/conv1/conv/kernel is [1, 1, 4, 4]" in message
    assert "layer1.0.conv1.weight is [1, 1, 4, 5]" in message
    assert "backbone/res2_1/conv1/conv/kernel [1, 1, 16, 4]" in message  # wanted
    assert "layer1.7.conv1.weight [1, 1, 16, 4]" in message  # there
    after = source_files.values_of(backbone.weights)
    assert all(np.array_equal(before[name], after[name]) for name in before)

    loaded = checkpoints.load_weights(path, backbone.weights, modules="matching")
    assert len(loaded.match.values) == len(before) - 2


def test_values_that_are_not_finite_are_named(tmp_path):
    backbone = _small_resnet()
    state = source_files.torchvision_resnet(source_files.values_of(backbone.weights))
    state["layer2.0.bn1.weight"] = np.full_like(state["layer2.0.bn1.weight"], np.nan)
    path = source_files.write_pickle(state, tmp_path / "weights.pkl")
    with pytest.raises(CheckpointError, match=r"layer2\.0\.bn1\.weight holds .* not finite"):
        checkpoints.load_weights(path, backbone.weights, modules="all")


def test_an_unknown_source_is_said_with_what_is_known(tmp_path):
    path = source_files.write_pickle({"w": np.zeros(3, np.float32)}, tmp_path / "weights.pkl")
    with pytest.raises(CheckpointError, match="no known source.*Panoptic FPN"):
        checkpoints.describe(path)


def test_unknown_modules_are_refused(tmp_path):
    with pytest.raises(ValueError, match="init_checkpoint_modules must be one of.*'decoder'"):
        checkpoints.load_weights(str(tmp_path / "any"), [], modules="decoder")


@pytest.mark.parametrize(
    "file, order, mean, in_1x1",
    [
        ("detectron2_panoptic_fpn_R_50_1x", "BGR", 103.53, True),
        ("panoptic_fcn_R50", "BGR", 123.675, True),
        ("detectron2_panoptic_deeplab_R_52_coco", "RGB", 123.675, False),
    ],
)
def test_settings_come_with_the_weights(file, order, mean, in_1x1):
    checkpoint = stored(recorded(file))
    settings = names.find_source(checkpoint).describe(checkpoint).settings
    assert settings["normalization.channel_order"] == order
    assert settings["normalization.mean"][0] == mean
    assert settings["model.backbone.stride_in_1x1"] == in_1x1


WHOLE = {
    "panoptic_fpn": (source_files.panoptic_fpn, "panoptic_fpn_resnet50_coco"),
    "panoptic_deeplab": (source_files.panoptic_deeplab, "panoptic_deeplab_resnet52_coco"),
    "panoptic_fcn": (source_files.panoptic_fcn, "panoptic_fcn_resnet50_coco"),
}
_NARROW = {
    "panoptic_fpn": {"fpn": {"filters": 32}, "roi": {"box_fc_dims": [16], "mask_filters": [8]}},
    "panoptic_deeplab": {"aspp_pool_size": [4, 4], "use_separable_conv": False},
    "panoptic_fcn": {
        "fpn": {"filters": 32},
        "encoder": {"filters": 8, "semantic_filters": 32, "deformable": True},
        "position_head": {"filters": 32},
        "kernel_head": {"filters": 32},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("system", WHOLE)
def test_whole_models_come_in_as_they_were(system, tmp_path):
    write, experiment = WHOLE[system]
    config = exp_factory.get_exp_config(experiment).task
    backbone = {"options": {"widths": [4, 8, 8, 8], "stem_width": 4}}
    if system == "panoptic_fcn":
        backbone["deformable_stages"] = [5]
    config.override(
        {
            "model": {
                "train_size": [64, 64],
                "input_size": [64, 64],
                "backbone": backbone,
                **_NARROW[system],
            }
        },
    )
    model = task_factory.get_task(config).build_model()
    source_files.randomize(model.weights)
    expected = source_files.values_of(model.weights)
    path = source_files.write_pickle(write(expected), tmp_path / "model_final.pkl")
    source_files.randomize(model.weights, seed=1)
    checkpoints.load_weights(path, model.weights, modules="all")
    for name, value in source_files.values_of(model.weights).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_two_names_of_one_variable_are_refused(tmp_path):
    state = source_files.torchvision_resnet(source_files.values_of(_small_resnet().weights))
    state["backbone.conv1.weight"] = state["conv1.weight"]
    path = source_files.write_pickle(state, tmp_path / "weights.pkl")
    with pytest.raises(
        CheckpointError, match=r"conv1\.weight and backbone\.conv1\.weight both are"
    ):
        checkpoints.load_weights(path, [], modules="all")


@pytest.mark.parametrize(
    "values, message",
    [(np.ones(4, np.int8), "int8"), (np.full(4, 1e300), "not finite")],
)
def test_numbers_that_are_no_weights_are_refused(values, message, tmp_path):
    backbone = _small_resnet()
    state = source_files.torchvision_resnet(source_files.values_of(backbone.weights))
    state["bn1.weight"] = values
    path = source_files.write_pickle(state, tmp_path / "weights.pkl")
    with pytest.raises(CheckpointError, match=rf"bn1\.weight holds .*{message}"):
        checkpoints.load_weights(path, backbone.weights, modules="all")


def test_a_backbone_comes_out_of_a_file_with_other_heads(tmp_path):
    backbone = _small_resnet()
    state = source_files.torchvision_resnet(source_files.values_of(backbone.weights))
    state["decode_head.conv_seg.weight"] = np.zeros([3, 8, 1, 1], np.float32)
    path = source_files.write_pickle(state, tmp_path / "weights.pkl")
    checkpoints.load_weights(path, backbone.weights, modules="backbone")
    with pytest.raises(CheckpointError, match=r"decode_head\.conv_seg\.weight"):
        checkpoints.load_weights(path, backbone.weights, modules="all")


def test_offsets_may_be_absent_from_all_of_a_file_only(tmp_path):
    backbone = factory.build_backbone(
        "resnet50", widths=(4, 8, 8, 8), stem_width=4, deformable_stages=(5,)
    )
    backbone(tf.zeros([1, 32, 32, 3]))
    name = "backbone/res5_1/conv2/conv/offset/bias"
    checkpoint = stored({"model/a": (3,)}, variable_names={"model/a": "backbone/a"}, averages={})
    values = source_files.values_of(backbone.weights)
    checkpoint.arrays = {f"model/{k}": v for k, v in stored(values).arrays.items() if k != name}
    checkpoint.metadata["variable_names"] = {k: k[len("model/") :] for k in checkpoint.arrays}
    source = names.find_source(checkpoint)
    shapes = {k: v.shape for k, v in values.items()}
    match = compare(source.translate(checkpoint), shapes, modules="all")
    assert list(match.missing) == [name] and not match.zero_offsets


def test_averages_are_taken_where_a_training_kept_them(tmp_path):
    from official.modeling.optimization import ema_optimizer

    model = tf.keras.Sequential([tf.keras.layers.Dense(2, name="backbone")])
    model.build([None, 3])
    optimizer = ema_optimizer.ExponentialMovingAverage(tf.keras.optimizers.legacy.SGD(0.1))
    optimizer.shadow_copy(model)
    kernel = model.layers[0].kernel
    optimizer.get_slot(kernel, "average").assign(tf.fill([3, 2], 7.0))
    saved = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / "ckpt"))
    kernel.assign(tf.zeros([3, 2]))
    checkpoints.load_weights(saved, [kernel], modules="matching")
    np.testing.assert_array_equal(kernel, 7.0)


def test_a_relative_path_is_the_same_file(tmp_path, monkeypatch):
    folder = tmp_path / "tf_mobilenetv3_large_100"
    folder.mkdir()
    state = source_files.torchvision_resnet(source_files.values_of(_small_resnet().weights))
    source_files.write_pickle(state, folder / "weights.pkl")
    monkeypatch.chdir(folder)
    assert checkpoints.readers.read_checkpoint("weights.pkl").path == str(folder / "weights.pkl")
