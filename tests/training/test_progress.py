"""What a run shows."""

import io
import logging as python_logging
import sys

import pytest
import tensorflow as tf
from absl import logging
from orbit import controller as orbit_controller

from panoptic_tf.training import progress

LOGS = {"loss/center": 0.05, "loss/offset": 0.2, "training_loss": 0.25, "learning_rate": 0.1}


class Tty(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_for_terminals(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Tty())
    monkeypatch.setattr(sys, "stderr", Tty())
    assert progress.resolve_style("auto") == "bar"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert [progress.resolve_style(s) for s in progress.STYLES] == ["plain", "bar", "plain"]
    with pytest.raises(ValueError, match="--log.*auto, bar, plain.*'loud'"):
        progress.resolve_style("loud")


def run(terminal):
    """Two training loops of a run that goes on from step 10, with an evaluation in between."""
    step = tf.Variable(10, dtype=tf.int64)
    shown = progress.Progress(terminal=terminal, global_step=step, train_steps=20, batch_size=4)
    shown.start()
    step.assign(15)
    shown(LOGS)
    shown.start_evaluation(2)
    shown.count_image({}, {}, None)
    shown.count_image({}, {}, None)
    shown.end_evaluation({"PQ": 12.345, "mIoU": 50.0, "AP": None, "step": 15})
    step.assign(20)
    shown({**LOGS, progress.DATA_SHARE: 0.124})
    shown.close()


def test_lines(capsys):
    run(progress.Terminal())
    start, first, evaluation, second = capsys.readouterr().out.splitlines()
    assert start == "continuing from step 10 of 20"
    assert first.startswith("step 15/20: loss 0.2500 (center 0.05, offset 0.2), ")
    assert " images/s, " in first and first.endswith(" left") and "data" not in first
    assert evaluation == "evaluation at step 15: PQ 12.35, mIoU 50.00, 0 s"
    assert second.endswith("images/s, data 12%, 0:00:00 left")


def test_bars_are_alone_on_their_lines():
    stream = Tty()
    run(progress.Terminal(stream))
    text = stream.getvalue()
    assert "15/20" in text and "20/20" in text and "evaluate: " in text
    assert "loss 0.2500 (center 0.05, offset 0.2)" in text
    # Every finished line is a message or the last state of the bar.
    lines = [line.rpartition("\r")[2] for line in text.split("\n")]
    assert lines[0] == "continuing from step 10 of 20"
    assert "evaluation at step 15: PQ 12.35, mIoU 50.00, 0 s" in lines


def test_the_time_of_an_evaluation_is_not_that_of_training(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    step = tf.Variable(0, dtype=tf.int64)
    shown = progress.Progress(
        terminal=progress.Terminal(), global_step=step, train_steps=40, batch_size=4
    )
    shown.start()
    shown.start_evaluation()
    now[0] = 100.0
    shown.end_evaluation({"step": 0})
    now[0] = 102.0
    step.assign(10)
    shown({"training_loss": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "evaluation at step 0: nothing to measure, 100 s"
    # The time left is that of the whole run.
    assert lines[1] == "step 10/40: loss 1.0000, 20.0 images/s, 0:05:06 left"


def test_a_long_evaluation_without_a_bar_says_how_far_it_is(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    step = tf.Variable(0, dtype=tf.int64)
    shown = progress.Progress(terminal=progress.Terminal(), global_step=step, num_workers=2)
    shown.start_evaluation(60)
    for _ in range(30):
        now[0] += 5.0
        shown.count_image()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"evaluating: {n}/30 images" for n in range(15, 31, 3)]


def test_nothing_runs_into_the_bar(monkeypatch, capsys):
    stderr = Tty()
    monkeypatch.setattr(sys, "stderr", stderr)
    handler = logging.get_absl_handler().python_handler
    monkeypatch.setattr(handler, "stream", stderr)
    with progress.clean_terminal("bar") as terminal:
        bar = terminal.bar(total=2)
        bar.update()
        print("a warning", file=sys.stderr)
        handler.emit(python_logging.makeLogRecord({"msg": "a log", "levelno": 30}))
        orbit_controller._log("a report")
        bar.close()
    assert sys.stderr is stderr and handler.stream is stderr
    lines = [line.rpartition("\r")[2] for line in stderr.getvalue().split("\n")]
    assert "a warning" in lines and any(line.endswith("a log") for line in lines)
    assert "a report" not in capsys.readouterr().out + stderr.getvalue()
