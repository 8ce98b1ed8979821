"""What happens between training loops."""

import os
import signal

import pytest
import tensorflow as tf

from panoptic_tf.training import actions


def test_finite_loss_names_the_part_that_is_not():
    check = actions.FiniteLoss(tf.Variable(7, dtype=tf.int64))
    check({"training_loss": 1.0, "loss/center": 0.5})
    with pytest.raises(FloatingPointError, match=r"loss/center.*step 7"):
        check({"training_loss": float("nan"), "loss/center": float("nan"), "loss/offset": 1.0})


def test_signal_saves_a_checkpoint_and_exits(tmp_path):
    step = tf.Variable(3, dtype=tf.int64)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(step=step), str(tmp_path), 1)
    before = signal.getsignal(signal.SIGTERM)
    try:
        action = actions.SaveOnSignal(manager, step)
        action({})
        assert manager.latest_checkpoint is None
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as stopped:
            action({})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 143
    assert manager.latest_checkpoint.endswith("ckpt-3")


def test_signal_stops_an_evaluation(tmp_path):
    step = tf.Variable(3, dtype=tf.int64)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(step=step), str(tmp_path), 1)
    before = signal.getsignal(signal.SIGTERM)
    try:
        action = actions.SaveOnSignal(manager, step)
        action.stop_evaluation({}, {}, None)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(actions.EvaluationStopped):
            action.stop_evaluation({}, {}, None)
    finally:
        signal.signal(signal.SIGTERM, before)
