"""A run that goes on in its folder: evaluations are made up for, bad records end or are skipped."""

import json
import os
import signal

import numpy as np
import pytest
import shallow_network
import tensorflow as tf
from official.core import exp_factory
from small_systems import write_records

from panoptic_tf.datasets import record
from panoptic_tf.systems.task import PanopticTask
from panoptic_tf.training import runner

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shallow_deeplab")]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_records(folder, num_shards=2)
    return folder / "records"


def experiment(records, *, train_steps, interval):
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    data = {"input_path": str(records / "train-*"), "global_batch_size": 2}
    params.override(
        {
            "task": {
                **shallow_network.OVERRIDES,
                "train_data": data,
                "validation_data": data,
            },
            "runtime": {"mixed_precision_dtype": "float32"},
            "trainer": {
                "train_steps": train_steps,
                "steps_per_loop": 1,
                "summary_interval": 1,
                "checkpoint_interval": 1,
                "validation_interval": interval,
            },
        }
    )
    return params


@pytest.fixture
def evaluated(monkeypatch):
    """The steps of the evaluations that came to their end."""
    steps = []
    reduce = PanopticTask.reduce_aggregated_logs

    def spy(self, aggregated_logs, global_step=None):
        steps.append(int(tf.convert_to_tensor(global_step)))
        return reduce(self, aggregated_logs, global_step)

    monkeypatch.setattr(PanopticTask, "reduce_aggregated_logs", spy)
    return steps


def last_step(model_dir):
    return int(tf.train.latest_checkpoint(str(model_dir)).rsplit("-", 1)[1])


def weights(model_dir):
    """The variables of the model in the last checkpoint."""
    reader = tf.train.load_checkpoint(str(model_dir))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith("model/")]
    return {name: reader.get_tensor(name) for name in names if "OPTIMIZER_SLOT" not in name}


def test_evaluations_are_made_up_for(records, tmp_path, evaluated, monkeypatch):
    model_dir = tmp_path / "model"

    def train(train_steps, interval=2):
        evaluated.clear()
        params = experiment(records, train_steps=train_steps, interval=interval)
        runner.train(params, mode="train_and_eval", model_dir=str(model_dir))
        assert json.loads((model_dir / "metrics.json").read_text())["step"] == train_steps
        assert last_step(model_dir) == train_steps
        assert not (model_dir / ".lock").exists()
        return list(evaluated)

    # SIGTERM at the first image of the first evaluation.
    before, add = signal.getsignal(signal.SIGTERM), PanopticTask.aggregate_logs

    def interrupt(self, state=None, step_outputs=None):
        saved.update(weights(model_dir))
        os.kill(os.getpid(), signal.SIGTERM)
        return add(self, state, step_outputs)

    saved = {}
    try:
        with monkeypatch.context() as patch:
            patch.setattr(PanopticTask, "aggregate_logs", interrupt)
            with pytest.raises(SystemExit) as stopped:
                train(4)
        assert stopped.value.code == 143 and not evaluated
        assert last_step(model_dir) == 2 and not (model_dir / "metrics.json").exists()
        assert not (model_dir / ".lock").exists()
        # The weights, not the averages that an evaluation computes with.
        again = weights(model_dir)
        assert saved and all(np.array_equal(saved[name], again[name]) for name in saved)
        # The next start evaluates first, and leaves its place tidy.
        (model_dir / "ckpt-7_temp").mkdir()
        assert train(3) == [2, 3]
        assert not (model_dir / "ckpt-7_temp").exists()
        # From a step between two evaluations to the next of them.
        assert train(6) == [4, 6]
        # All as it should be: the same command evaluates once more, as ever.
        assert train(6) == [6]
    finally:
        signal.signal(signal.SIGTERM, before)


def damage(folder, source):
    """Records of which the second of the first shard holds no image; its path."""
    paths = sorted(source.glob("train-*.tfrecord"))
    for path in paths:
        contents = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
        if path == paths[0]:
            example = tf.train.Example.FromString(contents[1])
            example.features.feature[record.Field.IMAGE].bytes_list.value[:] = [b"\x89PNG"]
            contents[1] = example.SerializeToString()
        with tf.io.TFRecordWriter(str(folder / path.name)) as writer:
            for content in contents:
                writer.write(content)
    return folder / paths[0].name


def test_a_bad_record_ends_a_training_or_is_skipped(records, tmp_path, evaluated):
    path = damage(tmp_path, records)
    params = experiment(tmp_path, train_steps=3, interval=3)
    params.trainer.optimizer_config.ema = None
    with pytest.raises(ValueError, match=f"{path}: record 1, image_id .*train_data.max_bad_reco"):
        runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))
    params.task.train_data.max_bad_records = 1
    with pytest.raises(ValueError, match=f"{path}: record 1, image_id .*validation_data.max_bad_"):
        runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))
    params.task.validation_data.max_bad_records = 1
    runner.train(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))
    assert evaluated == [3]


@pytest.fixture
def scripted(monkeypatch):
    """What the next evaluations measure; and the steps of those that came."""
    values, seen = [], []
    reduce = PanopticTask.reduce_aggregated_logs

    def script(self, aggregated_logs, global_step=None):
        logs = reduce(self, aggregated_logs, global_step)
        self.last_result["PQ"] = logs["PQ"] = values.pop(0)
        seen.append(self.last_result["step"])
        return logs

    monkeypatch.setattr(PanopticTask, "reduce_aggregated_logs", script)
    return values, seen


def test_the_best_averages_are_kept_and_training_stops(records, tmp_path, scripted, monkeypatch):
    (values, seen), model_dir = scripted, tmp_path / "model"
    averages, models = {}, []
    build, add = PanopticTask.build_model, PanopticTask.aggregate_logs

    def keep(self):
        models.append(build(self))
        return models[-1]

    def note(self, state=None, step_outputs=None):
        averages[len(seen) + 1] = [v.numpy() for v in models[-1].trainable_variables]
        return add(self, state, step_outputs)

    monkeypatch.setattr(PanopticTask, "build_model", keep)
    monkeypatch.setattr(PanopticTask, "aggregate_logs", note)

    def train(script, patience, train_steps=9):
        values[:], seen[:] = script, []
        params = experiment(records, train_steps=train_steps, interval=1)
        params.override(
            {
                "trainer": {
                    "best_checkpoint_export_subdir": "best",
                    "early_stopping": {"patience": patience},
                    "optimizer_config": {"ema": {"average_decay": 0.5}},
                }
            }
        )
        runner.train(params, mode="train_and_eval", model_dir=str(model_dir), log="plain")
        return list(seen)

    assert train([10.0, 30.0, 20.0, 30.0], patience=2) == [1, 2, 3, 4]
    assert last_step(model_dir) == 4 and last_step(model_dir / "best") == 2
    assert json.loads((model_dir / "best" / "metrics.json").read_text())["PQ"] == 30.0
    assert not (model_dir / ".lock").exists()
    # The best checkpoint evaluates to what was measured: its averages.
    params = experiment(records, train_steps=9, interval=1)
    params.override({"trainer": {"optimizer_config": {"ema": {"average_decay": 0.5}}}})
    model = runner.load_model(
        params, runner.build_task(params), checkpoint_path=str(model_dir / "best")
    )
    for value, variable in zip(averages[2], model.trainable_variables):
        np.testing.assert_array_equal(value, variable.numpy())
    assert not np.array_equal(averages[2][0], averages[4][0])
    assert (model_dir / "best" / "params.yaml").exists()
    # It has stopped; more patience goes on, and the best is still known.
    assert train([], patience=2) == []
    assert last_step(model_dir) == 4
    assert train([29.0, 31.0], patience=4, train_steps=6) == [5, 6]
    assert last_step(model_dir / "best") == 6
