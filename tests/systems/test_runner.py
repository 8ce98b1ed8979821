"""What cannot go together is refused before anything is written."""

import logging

import pytest
import tensorflow as tf
from official.core import exp_factory
from small_systems import write_records

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.systems import run_checks, runner


def shapes_experiment():
    return exp_factory.get_exp_config("panoptic_deeplab_shapes")


def test_float16_with_averaged_weights_is_refused(tmp_path):
    params = shapes_experiment()
    params.runtime.mixed_precision_dtype = "float16"
    with pytest.raises(ValueError, match="float16.*ema"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_best_checkpoint_of_averaged_weights_is_refused(tmp_path):
    params = shapes_experiment()
    params.trainer.best_checkpoint_export_subdir = "best"
    with pytest.raises(ValueError, match="best_checkpoint_export_subdir"):
        runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))


def test_nothing_to_evaluate_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint.*nowhere"):
        runner.train(shapes_experiment(), mode="eval", model_dir=str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("train_steps", 0),
        ("train_steps", -1),
        ("steps_per_loop", 0),
        ("checkpoint_interval", 0),
        ("checkpoint_interval", None),
        ("summary_interval", -5),
        ("validation_interval", -1),
        ("validation_steps", 0),
        ("validation_steps", -2),
        ("max_to_keep", 0),
    ],
)
def test_steps_out_of_range_are_refused(tmp_path, name, value):
    params = shapes_experiment()
    setattr(params.trainer, name, value)
    with pytest.raises(ValueError, match=f"trainer.{name} must be at least .*got {value}"):
        runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("global_batch_size", 0),
        ("max_examples", -1),
        ("max_bad_records", -1),
        ("shuffle_buffer_size", 0),
    ],
)
def test_data_settings_out_of_range_are_refused(tmp_path, name, value):
    params = shapes_experiment()
    setattr(params.task.train_data, name, value)
    with pytest.raises(ValueError, match=f"task.train_data.{name} must be at least"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))


def test_loops_that_do_not_divide_the_summaries_are_refused(tmp_path):
    params = shapes_experiment()
    params.trainer.steps_per_loop, params.trainer.summary_interval = 7, 100
    with pytest.raises(ValueError, match="summary_interval must be a multiple .*7.*got 100"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))


@pytest.mark.parametrize("mode, split", [("train", "train"), ("train_and_eval", "validation")])
def test_missing_records_are_named_before_the_network_is_built(tmp_path, monkeypatch, mode, split):
    params = shapes_experiment()
    write_shard(tmp_path / "train-00000-of-00001.tfrecord")
    params.task.train_data.input_path = str(tmp_path / "train-*")
    params.task.validation_data.input_path = str(tmp_path / "train-*")
    getattr(params.task, f"{split}_data").input_path = str(tmp_path / "nothing-*")
    monkeypatch.setattr(runner, "Run", None)
    with pytest.raises(ValueError, match=f"no file matches task.{split}_data.input_path '.*noth"):
        runner.train(params, mode=mode, model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_part_is_read_where_it_is_meant(tmp_path, split):
    write_shard(tmp_path / "train-00001-of-00004.tfrecord")
    params = shapes_experiment()
    data = getattr(params.task, f"{split}_data")
    data.input_path = str(tmp_path / "train-*")
    task = runner.build_task(params)
    for look in (task.check_inputs, task.build_inputs):
        with pytest.raises(ValueError, match=f"is missing: 1 of 4.*{split}_data.allow_partial=tr"):
            look(data)
    data.allow_partial = True
    task.check_inputs(data)
    task.build_inputs(data)


def write_shard(path):
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"not looked into")


@pytest.mark.parametrize("strategy, count", [("one_device", 1), ("mirrored", 2)])
def test_more_gpus_than_there_are_are_refused(monkeypatch, strategy, count):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"] * (count - 1))
    runtime = shapes_experiment().runtime
    runtime.distribution_strategy, runtime.num_gpus = strategy, count
    with pytest.raises(ValueError, match=f"num_gpus.* is {count}, .*sees (no|1) GPU.*and-cuda"):
        runner.build_strategy(runtime)


@pytest.mark.parametrize("seen, level", [(0, logging.INFO), (2, logging.WARNING)])
def test_the_devices_are_logged(monkeypatch, caplog, seen, level):
    strategy = tf.distribute.OneDeviceStrategy("device:CPU:0")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU"] * seen)
    with caplog.at_level(logging.INFO, logger="absl"):
        run_checks.log_devices(strategy)
    (entry,) = caplog.records
    assert entry.levelno == level and "CPU:0" in entry.getMessage()
    assert ("--num_gpus=2" in entry.getMessage()) == (seen == 2)


def test_an_evaluation_of_nothing_but_large_images_is_an_error(tmp_path):
    params = shapes_experiment()
    params.task.validation_data.input_path = write_records(tmp_path)
    params.task.evaluation.max_pixels = 64 * 64 - 1
    task = runner.build_task(params)
    assert not list(task.build_inputs(params.task.validation_data))
    with pytest.raises(ValueError, match="no record of an image of at most 4,095 pixels.*max_pixe"):
        task.check_evaluated()
    task.reduce_aggregated_logs(task.build_evaluator(), global_step=3)
    assert task.last_result["skipped_images"] == 4
    task.check_evaluated()


def test_records_of_other_categories_are_refused(tmp_path):
    DatasetInfo.load("cityscapes_panoptic").save(str(tmp_path / "dataset_info.json"))
    params = shapes_experiment()
    task = runner.build_task(params)
    params.task.train_data.input_path = str(tmp_path / "train-*")
    with pytest.raises(ValueError, match="Set task.dataset_info to .*dataset_info.json"):
        task.build_inputs(params.task.train_data)
