"""From another library's file to a checkpoint with its params.yaml."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from official.modeling import hyperparams
from small_systems import ROWS, draw_sample, get_params, make_batch

from panoptic_tf import checkpoints
from panoptic_tf.systems import weight_settings
from panoptic_tf.training import importing, runner

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoints"))
import source_files  # noqa: E402

ROW = next(row for row in ROWS if row.system == "panoptic_fpn")
CAFFE = {"normalization.channel_order": "BGR", "normalization.std": [1.0, 1.0, 1.0]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network, and its file under detectron2's names."""
    params = get_params(ROW.experiment, ROW.overrides)
    task = runner.build_task(params)
    model = task.build_model()
    source_files.randomize(model.weights)
    state = source_files.panoptic_fpn(source_files.values_of(model.weights))
    path = tmp_path_factory.mktemp("source") / "model_final.pkl"
    return params, task, model, source_files.write_pickle(state, path)


def test_an_imported_checkpoint_predicts_as_its_source(weights, tmp_path):
    params, task, model, path = weights
    output_dir = str(tmp_path / "imported")
    importing.import_checkpoint(params, source=path, output_dir=output_dir)
    assert sorted(os.listdir(tmp_path)) == ["imported"]
    again = runner.load_model(params, task, checkpoint_path=output_dir)
    features, _ = make_batch(task, [draw_sample(3)])
    inputs = {key: features[key] for key in ("image", "image_info")}
    expected, found = model(inputs, training=False), again(inputs, training=False)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    saved = yaml.safe_load((tmp_path / "imported" / "params.yaml").read_text())
    assert saved["task"]["init_checkpoint"] == output_dir  # a training goes on from it


def test_nothing_is_written_where_the_weights_do_not_fit(weights, tmp_path):
    params, _, _, path = weights
    wide = params.replace(task={"model": {"fpn": {"filters": 64}}})
    with pytest.raises(ValueError, match="does not fit"):
        importing.import_checkpoint(wide, source=path, output_dir=str(tmp_path / "imported"))
    assert not os.listdir(tmp_path)


def test_a_folder_with_something_in_it_is_refused(weights, tmp_path):
    params, _, _, path = weights
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="exists already"):
        importing.import_checkpoint(params, source=path, output_dir=str(tmp_path))
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_the_settings_of_the_weights_are_taken_but_the_users_stay():
    name = "panoptic_deeplab_resnet50_coco"
    params = importing.configure(get_params(name), name, CAFFE)
    assert params.task.normalization.channel_order == "BGR"
    assert params.task.normalization.std == [1.0, 1.0, 1.0]
    mine = get_params(name, {"normalization": {"std": [2.0, 2.0, 2.0]}})
    params = importing.configure(mine, name, CAFFE)
    assert params.task.normalization.channel_order == "BGR"
    assert params.task.normalization.std == [2.0, 2.0, 2.0]


def test_settings_that_differ_are_written_as_the_flag_takes_them():
    settings = {
        **CAFFE,
        "model.backbone.stride_in_1x1": True,
        "model.backbone.options.padding": "symmetric",
        "model.no_such_field": 3,
    }
    name = "panoptic_deeplab_mobilenetv3_coco"
    params = get_params(name)
    others = weight_settings.differing(params.task, settings)
    assert set(others) == set(settings) - {"model.no_such_field"}
    flag = checkpoints.as_overrides(others)
    params = hyperparams.override_params_dict(params, flag, is_strict=True)
    assert not weight_settings.differing(params.task, settings)


def test_the_command_says_in_a_line_what_is_wrong(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch here'\ntR.")
    command = [
        *(sys.executable, "-m", "panoptic_tf.experiments.cli", "import-checkpoint"),
        *(f"--source={path}", f"--output_dir={tmp_path / 'imported'}"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert str(path) in last and "os.system" in last, last
    assert os.listdir(tmp_path) == ["weights.pkl"]
