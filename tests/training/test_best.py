"""The checkpoint of the best evaluation, and training that stops where it gets no better."""

import json

import pytest
import tensorflow as tf

from panoptic_tf.systems.config import EarlyStopping
from panoptic_tf.training import best, run_folder
from panoptic_tf.training.run import CheckpointManager


def keep(folder, variable, **options):
    manager = CheckpointManager(
        tf.train.Checkpoint(variable=variable),
        directory=str(folder),
        restore_from=str(folder),
        max_to_keep=1,
    )
    options = {"metric": "PQ", "metric_comp": "higher", "best": {}, **options}
    return best.BestCheckpoint(manager, **options)


def kept(folder):
    """(value of the variable, step, step of the metrics) of the one checkpoint that is there."""
    (index,) = folder.glob("ckpt-*.index")
    assert tf.train.latest_checkpoint(str(folder)) == str(index)[: -len(".index")]
    reader = tf.train.load_checkpoint(str(folder))
    value = reader.get_tensor("variable/.ATTRIBUTES/VARIABLE_VALUE")
    step = json.loads((folder / "metrics.json").read_text())["step"]
    return float(value), int(index.stem.partition("-")[2]), step


def test_only_the_best_checkpoint_is_kept(tmp_path):
    variable = tf.Variable(0.0)
    keeper = keep(tmp_path, variable)
    values = {10: 20.0, 20: 30.0, 30: None, 40: float("nan"), 50: 30.0, 60: 25.0}
    saved = [
        keeper.update({"PQ": value, "step": step})
        for step, value in values.items()
        if variable.assign(step) is not None
    ]
    assert saved == [True, True, False, False, False, False]
    assert kept(tmp_path) == (20.0, 20, 20)
    # A later run knows what is there.
    keeper = keep(tmp_path, variable, best=json.loads((tmp_path / "metrics.json").read_text()))
    variable.assign(70.0)
    assert not keeper.update({"PQ": 29.0, "step": 70})
    assert keeper.update({"PQ": 31.0, "step": 70})
    assert kept(tmp_path) == (70.0, 70, 70)
    # The same step once more, as a run does that was killed before its evaluation was written.
    variable.assign(71.0)
    assert keeper.update({"PQ": 32.0, "step": 70})
    assert kept(tmp_path) == (71.0, 70, 70)


def test_lower_can_be_better(tmp_path):
    keeper = keep(tmp_path, tf.Variable(0.0), metric="loss", metric_comp="lower")
    found = [keeper.update({"loss": v, "step": s}) for s, v in enumerate([3.0, 4.0, 2.0])]
    assert found == [True, False, True]


def test_a_worker_beside_the_first_writes_no_metrics(tmp_path):
    keeper = keep(tmp_path, tf.Variable(0.0), writes=False)
    assert keeper.update({"PQ": 1.0, "step": 1})
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("remote", [False, True])
def test_params_are_those_of_the_checkpoint(tmp_path, remote):
    folder, params_file = tmp_path / "best", tmp_path / "params.yaml"
    where = f"file://{folder}" if remote else folder  # As gs://... is written and read.
    keeper = keep(where, tf.Variable(0.0), params_file=str(params_file))
    for step, value in enumerate([3.0, 2.0, 4.0]):
        params_file.write_text(f"of step {step}")
        keeper.update({"PQ": value, "step": step})
        assert (folder / "params.yaml").read_text() == f"of step {2 if step == 2 else 0}"
    assert json.loads((folder / "metrics.json").read_text()) == {"PQ": 4.0, "step": 2}
    assert run_folder.read_or_empty(str(where), "metrics.json")["PQ"] == 4.0


def test_nothing_is_kept_of_a_metric_that_is_never_measured(tmp_path, caplog):
    assert not keep(tmp_path, tf.Variable(0.0)).update({"PQ": None, "step": 1})
    assert "the evaluation at step 1 has no PQ" in caplog.text
    assert not list(tmp_path.glob("ckpt*"))


def stopped_at(values, **config):
    """The step (from 1) after which training stops, and the state by then."""
    patience = best.Patience(EarlyStopping(**config), {}, step=0)
    for step, value in enumerate(values, 1):
        patience.add({"PQ": value, "step": step})
        if patience.verdict():
            return step, patience.state()
    return None, patience.state()


@pytest.mark.parametrize(
    "values, config, expected",
    [
        ([1, 2, 3, 2, 1], {"patience": 2}, 5),
        ([1, 2, 3, 2, 4, 3], {"patience": 2}, None),
        ([1, 1, 1], {"patience": 2}, 3),
        ([1, 1.4, 1.8, 2.2], {"patience": 2, "min_delta": 0.5}, None),
        ([1, 1.4, 1.5, 2.2], {"patience": 2, "min_delta": 0.5}, 3),
        ([3, 2, 1, 1, 2], {"patience": 2, "metric_comp": "lower"}, 5),
        ([None, None, 1], {"patience": 2}, 2),
        ([1, None, float("nan")], {"patience": 2}, 3),
    ],
)
def test_patience(values, config, expected):
    assert stopped_at(values, **config)[0] == expected


def test_patience_goes_on_where_a_run_does():
    config = EarlyStopping(patience=2)
    step, state = stopped_at([1.0, 3.0, 2.0, 1.0], patience=2)
    assert step == 4
    state = json.loads(json.dumps(state))
    again = best.Patience(config, state, step=4)
    assert "step 4" in again.verdict() and "best at step 2: 3.00" in again.verdict()
    # More patience goes on; a run that lost its last steps evaluates them anew.
    assert best.Patience(EarlyStopping(patience=3), state, step=4).verdict() is None
    again = best.Patience(config, state, step=3)
    assert again.verdict() is None
    again.add({"PQ": 5.0, "step": 4})
    assert again.verdict() is None
    # Other metrics do not compare.
    assert best.Patience(EarlyStopping(patience=2, metric="AP"), state, step=4).verdict() is None
