"""The functions of the package: their arguments, their errors, what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import types

import pytest
import tensorflow as tf
from official.core import exp_factory

import panoptic_tf
from panoptic_tf.api import evaluation, models, training
from panoptic_tf.training import run_folder


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Stands for `runner.train`: sets what a run sets; returns its calls."""
    calls = []

    result = {"PQ": 50.0, "per_category": [{"name": "a", "PQ": 50.0}]}

    def train(params, **options):
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        tf.summary.experimental.set_step(7)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        calls.append((params, options))
        return types.SimpleNamespace(
            last_result={} if "stopped" in options["model_dir"] else result
        )

    monkeypatch.setattr(training.runner, "train", train)
    return calls


def test_importing_the_commands_keeps_the_function(tmp_path):
    code = (
        "import panoptic_tf, panoptic_tf.export.common\n"
        "from panoptic_tf.experiments import cli\n"
        "cli.find_commands()\n"
        "assert callable(panoptic_tf.export)\n"
        "try: panoptic_tf.export('a', 'b', format='pth')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "format must be one of saved_model, tflite, onnx, got 'pth'."


def test_train_puts_back_what_it_sets(trained, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    policy = tf.keras.mixed_precision.global_policy().name
    step = tf.summary.experimental.get_step()
    result = panoptic_tf.train("panoptic_fpn_shapes", model_dir=tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is handler
    assert tf.keras.mixed_precision.global_policy().name == policy
    assert tf.summary.experimental.get_step() == step
    ((params, options),) = trained
    assert options["mode"] == "train_and_eval" and options["experiment"] == "panoptic_fpn_shapes"
    assert result.scores == {"PQ": 50.0} and result.per_category == [{"name": "a", "PQ": 50.0}]
    assert (result.step, result.checkpoint) == (0, None)


def test_train_takes_folder_and_mode_of_the_file(trained, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(f"experiment: panoptic_fpn_shapes\nmodel_dir: {tmp_path}/run\nmode: train\n")
    result = panoptic_tf.train(config_file=path, overrides={"trainer.train_steps": 9})
    ((params, options),) = trained
    assert options["mode"] == "train" and result.model_dir == f"{tmp_path}/run"
    assert params.trainer.train_steps == 9
    panoptic_tf.train(config_file=path, mode="train_and_eval", model_dir=tmp_path / "other")
    assert trained[1][1]["mode"] == "train_and_eval"
    assert trained[1][1]["model_dir"] == f"{tmp_path}/other"


def test_train_goes_on_in_its_mode(trained, tmp_path):
    params = exp_factory.get_exp_config("panoptic_fpn_shapes")
    run_folder.write_params(params, str(tmp_path), "panoptic_fpn_shapes", "train")
    panoptic_tf.train(model_dir=tmp_path)
    panoptic_tf.train(model_dir=tmp_path, mode="train_and_eval")
    assert [options["mode"] for _, options in trained] == ["train", "train_and_eval"]


@pytest.mark.parametrize("evaluated, metrics", [(7, {"PQ": 40.0, "step": 7}), (6, {})])
def test_a_run_that_had_stopped_has_its_last_metrics(trained, tmp_path, evaluated, metrics):
    folder = tmp_path / "stopped"
    checkpoint = tf.train.Checkpoint(x=tf.Variable(1))
    tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1).save(7)
    run_folder.write_json(str(folder / "metrics.json"), {"PQ": 40.0, "step": evaluated})
    result = panoptic_tf.train("panoptic_fpn_shapes", model_dir=folder)
    assert (result.step, result.metrics) == (7, metrics)


def test_a_checkpoint_of_any_name_is_taken(trained, tmp_path):
    tf.train.Checkpoint(x=tf.Variable(1)).write(str(tmp_path / "model-best"))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-best"\n')
    result = panoptic_tf.train("panoptic_fpn_shapes", model_dir=tmp_path)
    assert result.step == 0 and result.checkpoint == str(tmp_path / "model-best")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"mode": "trian"}, "mode must be one of train, .*'trian'"),
        ({"experiment": "panoptic_fpn_shapes"}, "no folder is named"),
        ({"experiment": "panoptic_fpn_shape", "model_dir": "x"}, "Did you mean panoptic_fpn"),
    ],
)
def test_train_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        panoptic_tf.train(**arguments)


def test_kind_of_a_path(tmp_path):
    tf.train.Checkpoint(x=tf.Variable(1)).save(str(tmp_path / "run" / "ckpt"))
    (tmp_path / "versions" / "3").mkdir(parents=True)
    (tmp_path / "versions" / "3" / "saved_model.pb").touch()
    assert models.kind_of(str(tmp_path / "run")) == models.CHECKPOINT
    assert models.kind_of(str(tmp_path / "run" / "ckpt-1")) == models.CHECKPOINT
    assert models.kind_of(str(tmp_path / "versions")) == models.SAVED_MODEL
    assert models.kind_of(str(tmp_path / "versions" / "3")) == models.SAVED_MODEL
    assert models.kind_of("a.tflite") == models.TFLITE
    (tmp_path / "model.lite").touch()
    assert models.kind_of(str(tmp_path / "model.lite")) == models.TFLITE
    # An export below a run does not hide it.
    (tmp_path / "run" / "1").mkdir()
    (tmp_path / "run" / "1" / "saved_model.pb").touch()
    assert models.kind_of(str(tmp_path / "run")) == models.CHECKPOINT
    with pytest.raises(ValueError, match="no checkpoint, SavedModel or .tflite file there"):
        models.kind_of(str(tmp_path))


def test_a_checkpoint_below_a_run_has_its_params(tmp_path, monkeypatch):
    (tmp_path / "best").mkdir()
    assert models.folder_of(str(tmp_path / "best")) == str(tmp_path / "best")
    (tmp_path / "params.yaml").touch()
    assert models.folder_of(str(tmp_path / "best")) == str(tmp_path)
    assert models.folder_of(str(tmp_path / "best" / "ckpt-1")) == str(tmp_path)
    assert models.folder_of(str(tmp_path)) == str(tmp_path)
    monkeypatch.chdir(tmp_path / "best")
    assert os.path.samefile(models.folder_of("ckpt-1"), tmp_path)
    (tmp_path / "best" / "params.yaml").touch()
    assert models.folder_of("ckpt-1") == "."


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({}, "a.tflite needs --input_path"),
        ({"overrides": {"a": 1}}, "a.tflite is a .tflite file, and overrides .*give .* a run"),
        ({"with_ceiling": True, "input_path": "x"}, "with_ceiling is not for it"),
        ({"write_predictions": True}, "write_predictions needs output_dir"),
    ],
)
def test_evaluate_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        panoptic_tf.evaluate("a.tflite", **arguments)


@pytest.mark.parametrize(
    "output, arguments, words",
    [
        ("x", {"target": "phone"}, "target must be one of cpu, accelerator"),
        ("x", {"precision": "int8"}, "precision must be one of float32, bfloat16"),
        ("x", {"input_type": "jpeg"}, "input_type must be one of image_bytes"),
        ("x.tflite", {"quantization": "int4"}, "quantization must be one of none, .*'int4'"),
        ("x.tflite", {"quantization": "int8"}, "int8 needs --calibration_path"),
        ("x.tflite", {"calibration_path": "x"}, "calibration_path needs --quantization=int8"),
        ("x.tflite", {"float_layers": "("}, "--float_layers"),
        ("x.tflite", {}, "checkpoint_path=.*no checkpoint there"),
    ],
)
def test_export_refuses(tmp_path, output, arguments, words):
    with pytest.raises(ValueError, match=words):
        panoptic_tf.export(tmp_path, tmp_path / output, **arguments)


def test_what_is_measured_is_written_before_the_ceiling(tmp_path, monkeypatch):
    params = exp_factory.get_exp_config("panoptic_fpn_shapes")
    tf.train.Checkpoint(x=tf.Variable(1)).save(str(tmp_path / "run" / "ckpt"))
    run_folder.write_params(params, str(tmp_path / "run"), "panoptic_fpn_shapes")

    def fail(*_, **options):
        assert options == {"max_examples": 5, "allow_partial": False, "max_bad_records": 3}
        raise ValueError("no ceiling")

    monkeypatch.setattr(evaluation.records, "count_records", lambda *_: 1)
    monkeypatch.setattr(evaluation.runner, "evaluate", lambda *_, **__: {"PQ": 30.0})
    monkeypatch.setattr(evaluation.ceiling, "evaluate_ceiling", fail)
    with pytest.raises(ValueError, match="no ceiling"):
        panoptic_tf.evaluate(
            tmp_path / "run",
            output_dir=tmp_path / "out",
            max_examples=5,
            overrides={"task.validation_data.max_bad_records": 3},
            with_ceiling=True,
        )
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"PQ": 30.0}


def test_evaluation_result_warns():
    result = evaluation.EvaluationResult(metrics={}, report=None)
    assert result.warnings == [] and result.per_category == [] and result.scores == {}
