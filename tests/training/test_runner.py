"""What cannot go together is refused before anything is written."""

import logging
import types

import pytest
import tensorflow as tf
from official.core import exp_factory
from small_systems import write_records

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.inputs import data_service, shards
from panoptic_tf.ops.forms import Form
from panoptic_tf.systems.scoring import BackgroundScoring
from panoptic_tf.training import machine, run, run_checks, runner
from panoptic_tf.training.cluster import Cluster


def shapes_experiment():
    return exp_factory.get_exp_config("panoptic_deeplab_shapes")


def test_xla_with_several_workers_is_refused_before_they_meet(tmp_path):
    params = shapes_experiment()
    params.runtime.enable_xla = True
    params.runtime.distribution_strategy = "multi_worker_mirrored"
    workers = Cluster({"worker": ("localhost:1", "localhost:2")}, "worker", 0)
    with pytest.raises(ValueError, match="^runtime.enable_xla .*multi_worker_mirrored"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"), cluster=workers)
    assert not (tmp_path / "model").exists()


def test_xla_with_replicas_on_cpus_is_refused(tmp_path, monkeypatch, mirrored):
    params = shapes_experiment()
    params.task.train_data.input_path = write_records(tmp_path)
    params.runtime.enable_xla = True
    monkeypatch.setattr(runner, "build_strategy", lambda *_: mirrored)
    with pytest.raises(ValueError, match="^runtime.enable_xla .*CPUs.*there are 2"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_xla_is_the_task_s_alone(tmp_path, monkeypatch):
    """The Model Garden's trainer would compile the optimiser too, but on GPUs only."""
    seen = []

    class Run:
        def __init__(self, task, strategy, params, *_):
            seen.append((task.xla, params.runtime.enable_xla))

        def run(self):
            pass

    params = shapes_experiment()
    params.task.train_data.input_path = write_records(tmp_path)
    params.runtime.enable_xla = True
    params.runtime.distribution_strategy = "one_device"
    monkeypatch.setattr(runner, "Run", Run)
    runner.train(params, mode="train", model_dir=str(tmp_path / "model"))
    assert seen == [(True, False)]
    assert "enable_xla: true" in (tmp_path / "model" / "params.yaml").read_text()


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"best_checkpoint_eval_metric": "QP"},
            "best_checkpoint_eval_metric must be one of PQ, .*",
        ),
        (
            {"best_checkpoint_metric_comp": "max"},
            "best_checkpoint_metric_comp must be higher or lo",
        ),
        ({"early_stopping": {"patience": -1}}, "early_stopping.patience must be at least 0 "),
        (
            {"early_stopping": {"patience": 2, "metric": "loss"}},
            "early_stopping.metric must be one ",
        ),
        (
            {"early_stopping": {"patience": 2, "metric_comp": ""}},
            "early_stopping.metric_comp must ",
        ),
        (
            {"early_stopping": {"patience": 2, "min_delta": -1.0}},
            "early_stopping.min_delta must be",
        ),
        (
            {"early_stopping": {"patience": 2, "metric": "AP"}},
            "early_stopping.metric is AP, which ",
        ),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(tmp_path, values, message):
    params = shapes_experiment()
    params.override({"trainer": {"best_checkpoint_export_subdir": "best", **values}})
    params.task.evaluation.report_mask_ap = False
    with pytest.raises(ValueError, match=f"^trainer.{message}"):
        runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "values", [{"early_stopping": {"patience": 3}}, {"best_checkpoint_export_subdir": "best"}]
)
def test_what_compares_evaluations_wants_some(tmp_path, values):
    params = shapes_experiment()
    params.override({"trainer": values})
    with pytest.raises(ValueError, match="is set, but --mode=train does not eval.*train_and_eval"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))


def test_evaluation_on_a_tpu_is_refused(tmp_path):
    params = shapes_experiment()
    params.runtime.distribution_strategy = "tpu"
    with pytest.raises(ValueError, match="a TPU does not evaluate.*--mode=train"):
        runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


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


@pytest.mark.parametrize(
    "name, value",
    [
        ("train_data.prefetch_buffer_size", 4),
        ("train_data.deterministic", True),
        ("train_data.drop_remainder", False),
        ("train_data.cycle_length", 8),
        ("train_data.block_length", 2),
        ("train_data.sharding", False),
        ("train_data.autotune_algorithm", "hill_climb"),
        ("train_data.tfds_name", "coco"),
        ("train_data.apply_tf_data_service_before_batching", True),
        ("train_data.trainer_id", "a"),
        ("validation_data.prefetch_buffer_size", 4),
        ("validation_data.sharding", False),
    ],
)
def test_inherited_data_settings_that_nothing_reads_are_refused(tmp_path, name, value):
    params = shapes_experiment()
    params.override({"task": {name.split(".")[0]: {name.split(".")[1]: value}}})
    with pytest.raises(ValueError, match=f"^task.{name} is {value!r}, but it has no effect here"):
        runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("gpu_thread_mode", "gpu_private"),
        ("dataset_num_private_threads", 2),
        ("per_gpu_thread_count", 2),
        ("worker_hosts", "a:1,b:1"),
        ("task_index", 0),
        ("num_packs", 2),
        ("run_eagerly", True),
        ("batchnorm_spatial_persistent", True),
        ("num_cores_per_replica", 2),
        ("default_shard_dim", 0),
        ("use_tpu_mp_strategy", True),
    ],
)
def test_inherited_runtime_settings_that_nothing_reads_are_refused(tmp_path, name, value):
    params = shapes_experiment()
    params.override({"runtime": {name: value}})
    for mode in ("train", "eval"):
        with pytest.raises(ValueError, match=f"^runtime.{name} is {value!r}, but it has no effect"):
            runner.train(params, mode=mode, model_dir=str(tmp_path / "model"))


def test_settings_of_an_older_run_are_not_refused():
    params = shapes_experiment()
    params.override({"task": {"validation_data": {"drop_remainder": False}}})
    run_checks.check_evaluation(params)


def with_service(**values):
    params = shapes_experiment()
    values = {"tf_data_service_address": "grpc://localhost:5050", **values}
    params.override({"task": {"train_data": {"enable_tf_data_service": True, **values}}})
    return params


@pytest.mark.parametrize(
    "values, message",
    [
        ({"tf_data_service_address": None}, "tf_data_service_address .*, got None"),
        ({"tf_data_service_address": "host:5050"}, "grpc://host:port .*, got 'host:5050'"),
        ({"seed": 0}, "does not go together with task.train_data.seed"),
        ({"max_bad_records": 1}, "does not go together with task.train_data.max_bad_records"),
    ],
)
def test_what_does_not_go_with_a_data_service_is_refused(tmp_path, values, message):
    params = with_service(**values)
    with pytest.raises(ValueError, match=f"^task.train_data.enable_tf_data_service.*{message}"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_an_evaluation_from_a_data_service_is_refused():
    params = shapes_experiment()
    params.task.validation_data.enable_tf_data_service = True
    with pytest.raises(
        ValueError, match="^task.validation_data.enable_tf_data_service must be fal"
    ):
        run_checks.check_evaluation(params)


def test_the_data_service_gets_whole_batches(tmp_path, monkeypatch):
    seen = []

    def distribute(service, dataset):
        seen.append((service, dataset.element_spec[0]["image"].shape[0]))
        return dataset

    monkeypatch.setattr(data_service.DataService, "distribute", distribute)
    params = with_service(tf_data_service_job_name="job", global_batch_size=4)
    params.task.train_data.input_path = write_records(tmp_path)
    run_checks.check_run(params, "train", "", None)
    context = tf.distribute.InputContext(2, 1, 2)
    runner.build_task(params).build_inputs(params.task.train_data, context)
    assert seen == [(data_service.DataService("grpc://localhost:5050", "job"), 2)]


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


@pytest.mark.parametrize(
    "num_records, max_examples, steps, expected",
    [(10, 0, -1, 10), (10, 7, -1, 7), (10, 0, 2, 6), (None, 7, 2, None)],
)
def test_an_evaluation_is_not_read_to_be_counted(
    monkeypatch, num_records, max_examples, steps, expected
):
    params = shapes_experiment()
    params.task.validation_data.max_examples = max_examples
    params.task.validation_data.global_batch_size = 3
    params.trainer.validation_steps = steps
    found = shards.Shards(["gs://bucket/val"], num_records)
    monkeypatch.setattr(run, "find_shards", lambda *_, **__: found)
    of_run = types.SimpleNamespace(params=params)
    assert run.Run._num_evaluated.func(of_run) == expected


@pytest.mark.parametrize("name", ["off", "parameter_server", "mirored"])
def test_an_unknown_strategy_is_named(name):
    params = shapes_experiment()
    params.runtime.distribution_strategy = name
    with pytest.raises(ValueError, match=f"runtime.distribution_strategy .*one_device.*'{name}'"):
        runner.build_strategy(params.runtime)


def test_frozen_parts_without_weights_are_refused_before_the_network_is_built(
    tmp_path, monkeypatch
):
    params = exp_factory.get_exp_config("panoptic_fpn_resnet50_coco")
    write_shard(tmp_path / "train-00000-of-00001.tfrecord")
    params.task.train_data.input_path = str(tmp_path / "train-*")
    monkeypatch.setattr(runner, "Run", None)
    with pytest.raises(ValueError, match="task.init_checkpoint is empty.*frozen_stages=0"):
        runner.train(params, mode="train", model_dir=str(tmp_path / "model"))


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


@pytest.mark.parametrize(
    "flags, expected",
    [
        ({"avx", "avx2"}, Form.CPU_AVX2),
        ({"avx2", "avx512f"}, Form.CPU),
        ({"asimd"}, Form.CPU),
        (set(), Form.CPU),
    ],
)
def test_operations_are_those_for_the_cpu(monkeypatch, mirrored, flags, expected):
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    assert runner.form_of(mirrored) is expected


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
    task.reduce_aggregated_logs(BackgroundScoring(task.build_evaluator(), []), global_step=3)
    assert task.last_result["skipped_images"] == 4
    task.check_evaluated()


def test_records_of_other_categories_are_refused(tmp_path):
    DatasetInfo.load("cityscapes_panoptic").save(str(tmp_path / "dataset_info.json"))
    params = shapes_experiment()
    task = runner.build_task(params)
    params.task.train_data.input_path = str(tmp_path / "train-*")
    with pytest.raises(ValueError, match="set it to .*dataset_info.json"):
        task.build_inputs(params.task.train_data)
