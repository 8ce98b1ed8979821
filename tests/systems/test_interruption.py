"""Training that is killed or asked to stop goes on from its last checkpoint."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import shallow_network
import tensorflow as tf
from small_systems import write_records

pytestmark = pytest.mark.slow

INTERVAL = 5
ENDLESS = 10**6
PATIENCE = 900  # seconds; on a busy machine a start alone takes minutes


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("shapes"))


class Run:
    """`train` as a process of its own."""

    def __init__(self, records, model_dir, *, interval):
        task = {
            **shallow_network.OVERRIDES,
            "train_data": {"input_path": records, "global_batch_size": 2},
        }
        override = {
            "task": task,
            "runtime": {"mixed_precision_dtype": "float32"},
            "trainer": {
                "train_steps": ENDLESS,
                "steps_per_loop": INTERVAL,
                "summary_interval": INTERVAL,
                "checkpoint_interval": interval,
            },
        }
        self.model_dir = model_dir
        self.log = model_dir.parent / "log.txt"
        command = [
            sys.executable,
            shallow_network.__file__,
            "train",
            "--experiment=panoptic_deeplab_shapes",
            "--mode=train",
            f"--model_dir={model_dir}",
            f"--params_override={json.dumps(override)}",
        ]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def wait_for(self, condition):
        """Waits until the condition holds while the process runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def last_step(self):
        return last_step(self.model_dir)

    def steps_shown(self):
        """The steps of the lines of progress so far."""
        return [int(n) for n in re.findall(r"^step (\d+)/\d+: loss", self.log.read_text(), re.M)]


def last_step(model_dir: pathlib.Path) -> int:
    """Number of the last checkpoint, 0 without one; its variables can be read."""
    prefix = tf.train.latest_checkpoint(str(model_dir))
    if prefix is None:
        return 0
    assert os.path.exists(prefix + ".index")
    return int(prefix.rsplit("-", 1)[1])


def global_step(model_dir: pathlib.Path) -> int:
    reader = tf.train.load_checkpoint(str(model_dir))
    (name,) = [n for n in reader.get_variable_to_shape_map() if n.startswith("global_step")]
    return int(reader.get_tensor(name))


def test_killed_then_asked_to_stop(records, tmp_path):
    """Of any network: the trainer knows none of them. `test_goes_on.py` has what comes after."""
    model_dir = tmp_path / "model"

    # kill -9 somewhere after the second checkpoint.
    run = Run(records, model_dir, interval=INTERVAL)
    try:
        run.wait_for(lambda: run.last_step() >= 2 * INTERVAL)
    finally:
        run.process.kill()
        run.process.wait()
    killed_at = last_step(model_dir)
    assert killed_at >= 2 * INTERVAL and global_step(model_dir) == killed_at

    # Started again it goes on from there. No checkpoint is due for long, so that the one that
    # SIGTERM leaves behind is its own.
    run = Run(records, model_dir, interval=ENDLESS)
    try:
        run.wait_for(lambda: run.steps_shown())
        first_shown = run.steps_shown()[0]
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(PATIENCE) == 143, run.log.read_text()[-3000:]
    finally:
        run.process.kill()
        run.process.wait()
    assert first_shown == killed_at + INTERVAL
    stopped_at = last_step(model_dir)
    assert stopped_at > killed_at and stopped_at % INTERVAL == 0
    assert global_step(model_dir) == stopped_at
