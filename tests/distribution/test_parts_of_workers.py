"""What each worker reads, and how the parts of an evaluation become one."""

import numpy as np
import orbit
import pytest
import tensorflow as tf
from jobs import BATCH_SIZE, check_close, override
from official.core import exp_factory, task_factory

from panoptic_tf import systems  # noqa: F401  (registers tasks and experiments)
from panoptic_tf.metrics.evaluator import PanopticEvaluator
from panoptic_tf.structures import GroundTruth, Prediction
from panoptic_tf.systems.scoring import BackgroundScoring
from panoptic_tf.training import runner, workers
from panoptic_tf.training.cluster import resolve_cluster

NUM_WORKERS = 2


@pytest.fixture
def params(shapes_records):
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    params.override(override(shapes_records, train_steps=1, interval=1))
    return params


def context(worker):
    return tf.distribute.InputContext(
        num_input_pipelines=NUM_WORKERS, input_pipeline_id=worker, num_replicas_in_sync=NUM_WORKERS
    )


@pytest.mark.parametrize("cache", [False, True])
def test_with_a_seed_workers_have_the_rows_of_the_batches_of_one(params, cache):
    task = task_factory.get_task(params.task)
    data = params.task.train_data.replace(cache=cache)
    whole = task.build_inputs(data)
    parts = [task.build_inputs(data, context(worker)) for worker in range(NUM_WORKERS)]
    for expected, *found in tf.data.Dataset.zip((whole, *parts)).take(6):  # two times all images
        together = tf.nest.map_structure(lambda *rows: tf.concat(rows, axis=0), *found)
        tf.nest.map_structure(np.testing.assert_array_equal, together, expected)
        assert len(expected[0]["image"]) == BATCH_SIZE


def test_replicas_share_a_batch(params, mirrored):
    """The trainer looks for `input_context` among the arguments of `build_inputs`."""
    task = task_factory.get_task(params.task)
    dataset = orbit.utils.make_distributed_dataset(
        mirrored, task.build_inputs, params.task.train_data
    )
    features, _ = next(iter(dataset))
    images = mirrored.experimental_local_results(features["image"])
    assert [len(image) for image in images] == [BATCH_SIZE // 2] * 2


def test_without_a_seed_workers_share_the_records(params):
    task = task_factory.get_task(params.task)
    data = params.task.train_data.replace(seed=None, augmentation={"scale_min": 1, "scale_max": 1})
    first = [task.build_inputs(data, context(w)).take(10) for w in range(NUM_WORKERS)]
    images = [{i.tobytes() for f, _ in part for i in f["image"].numpy()} for part in first]
    assert all(images) and not images[0] & images[1]


def test_evaluation_deals_records_out_one_by_one(params):
    task = task_factory.get_task(params.task)
    data = params.task.validation_data

    def image_ids(*input_context):
        labels = [labels for _, labels in task.build_inputs(data, *input_context)]
        return [i for label in labels for i in label[GroundTruth.IMAGE_ID].numpy()]

    everything = image_ids()
    assert len(set(everything)) == 7
    for worker in range(NUM_WORKERS):
        assert image_ids(context(worker)) == everything[worker::NUM_WORKERS]


def make_image(seed):
    """Masks of 3 categories, of which 1 and 2 are things, and a prediction that is partly right."""
    rng = np.random.default_rng(seed)
    instances = np.kron(rng.permutation(9).reshape(3, 3), np.ones((7, 7), np.int32)).astype(
        np.int32
    )
    categories = np.array([3, 1, 2, 1, 2, 1, 2, 1, 2], np.int32)[instances]
    wrong = rng.random(instances.shape) < 0.3
    count = 8
    truth = {
        GroundTruth.CATEGORY_MASK: categories,
        GroundTruth.INSTANCE_MASK: instances,
        GroundTruth.IMAGE_ID: str(seed),
    }
    prediction = {
        Prediction.CATEGORY_MASK: np.where(wrong, 3, categories),
        Prediction.INSTANCE_MASK: np.where(wrong, 0, instances),
        Prediction.SEGMENT_CATEGORY: np.array([1, 2, 1, 2, 1, 2, 1, 2], np.int32),
        Prediction.SEGMENT_INSTANCE: np.arange(1, count + 1, dtype=np.int32),
        Prediction.SEGMENT_SCORE: rng.random(count).astype(np.float32),
        Prediction.NUM_SEGMENTS: np.int32(count),
    }
    return truth, prediction


def build_evaluator():
    return PanopticEvaluator(
        num_categories=3, thing_ids=[1, 2], category_names=["void", "a", "b", "c"]
    )


@pytest.mark.parametrize("num_images", [0, 2, 11])
def test_an_evaluation_of_several_processes_is_that_of_one(monkeypatch, num_images):
    images = [make_image(seed) for seed in range(num_images)]
    one, parts = build_evaluator(), [build_evaluator() for _ in range(3)]
    for i, image in enumerate(images):
        one.update(*image)
        parts[i % 3].update(*image)
    task = runner.build_task(exp_factory.get_exp_config("panoptic_deeplab_shapes"))
    monkeypatch.setattr(task, "build_evaluator", build_evaluator)
    task.gather = lambda own: [own, *((part, 2) for part in parts[1:])]
    task.reduce_aggregated_logs(BackgroundScoring(parts[0], []), global_step=7)
    expected = {**one.result(), "skipped_images": 4, "step": 7}
    if num_images:
        assert 0 < expected["PQ"] < 100 and 0 < expected["AP"] < 100
    check_close(task.last_result, expected)


def test_one_process_gathers_its_own():
    assert workers.gather({"a": 1}) == [{"a": 1}]
    workers.check_same_step(3, "runs/model")


def test_workers_with_other_checkpoints_are_refused(monkeypatch):
    monkeypatch.setattr(workers, "gather", lambda step: [step, 0])
    with pytest.raises(ValueError, match=r"\[20, 0\].*'runs/model'.*one folder"):
        workers.check_same_step(20, "runs/model")


@pytest.mark.parametrize(
    ("hosts", "message", "named"),
    [
        (3, "Task /job:worker/task:0 heartbeat timeout", "worker 0 (a:0)"),
        (
            3,
            "CollectiveReduceV2 on /job:worker/replica:0/task:1/device:CPU:0: Connection reset by"
            " peer from remote target /job:worker/replica:0/task:2",
            "worker 2 (a:2)",
        ),
        (3, "failed on /job:worker/replica:0/task:1/device:CPU:0", "another worker"),
        (3, "Connection reset by peer of /job:localhost/task:0", "another worker"),
        (2, "failed on /job:worker/replica:0/task:1/device:CPU:0", "worker 0 (a:0)"),
    ],
)
def test_the_lost_worker_is_never_the_one_that_says_so(
    monkeypatch, capsys, tmp_path, hosts, message, named
):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(workers.os, "_exit", leave)
    cluster = resolve_cluster(
        worker_hosts=[f"a:{i}" for i in range(hosts)], task_index=1, environment={}
    )
    with pytest.raises(SystemExit) as left:
        with workers.ending_together(cluster, str(tmp_path), str(tmp_path / "own")):
            raise tf.errors.UnavailableError(None, None, message)
    assert left.value.code == workers.LOST_WORKER
    said = capsys.readouterr().err
    assert f"train: {named} of the {hosts} workers is gone" in said
    assert "this one (worker 1 (a:1))" in said
