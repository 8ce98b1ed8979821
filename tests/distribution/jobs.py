"""Trainings in processes of their own: one, or several that train together on this machine."""

import json
import math
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from typing import Any, Dict, List, Sequence

import shallow_network
import tensorflow as tf

PATIENCE = 600  # seconds; on a busy machine a start alone takes minutes
BATCH_SIZE = 4


def override(records: pathlib.Path, *, train_steps: int, interval: int) -> Dict[str, Any]:
    """Overrides for a network of few layers, whose norm sees the whole batch whatever divides it.

    Args:
      records: folder of `train-*`, `val-*` and `initial`, the weights to start from.
      train_steps: of the run; it evaluates after the last one.
      interval: steps between checkpoints.
    """
    return {
        "task": {
            "init_checkpoint": str(records / "initial"),
            "model": {
                **shallow_network.OVERRIDES["model"],
                "backbone": {"norm": "sync_batch"},
                "postprocessor": {"top_k": 8, "stuff_area": 16},
            },
            "train_data": {
                "input_path": str(records / "train-*"),
                "global_batch_size": BATCH_SIZE,
                "seed": 3,
            },
            "validation_data": {
                "input_path": str(records / "val-*"),
                "global_batch_size": BATCH_SIZE,
            },
        },
        "runtime": {"mixed_precision_dtype": "float32"},
        "trainer": {
            "train_steps": train_steps,
            "steps_per_loop": 1,
            "summary_interval": 1,
            "checkpoint_interval": interval,
            "validation_interval": train_steps,
            "optimizer_config": {"warmup": {"linear": {"warmup_steps": 40}}},
        },
    }


class Job:
    """`train` in one process or in several; ends them all at the end of a `with` block."""

    def __init__(
        self,
        model_dir: pathlib.Path,
        overrides: Dict[str, Any],
        *flags: str,
        mode: str = "train_and_eval",
        num_workers: int = 1,
        with_tf_config: bool = False,
        hosts: Sequence[str] = (),
        started: Sequence[int] = (),
    ):
        self.model_dir = model_dir
        self.hosts = list(hosts) or [f"localhost:{port}" for port in free_ports(num_workers)]
        command = [
            sys.executable,
            shallow_network.__file__,
            "train",
            "--experiment=panoptic_deeplab_shapes",
            f"--mode={mode}",
            f"--model_dir={model_dir}",
            f"--params_override={json.dumps(overrides)}",
            *flags,
        ]
        self.logs: List[pathlib.Path] = []
        self.processes: List[subprocess.Popen] = []
        for index in started or range(num_workers):
            environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
            own = []
            if num_workers > 1:
                own, environment = self._membership(index, with_tf_config, environment)
            self.logs.append(model_dir.parent / f"{model_dir.name}_{index}_{time.time()}.txt")
            with open(self.logs[-1], "w") as log:
                process = subprocess.Popen(
                    command + own, stdout=log, stderr=subprocess.STDOUT, env=environment
                )
            self.processes.append(process)

    def _membership(self, index, with_tf_config, environment):
        flags = ["--distribution_strategy=multi_worker_mirrored"]
        if not with_tf_config:
            hosts = ",".join(self.hosts)
            return [*flags, f"--worker_hosts={hosts}", f"--task_index={index}"], environment
        config = {"cluster": {"worker": self.hosts}, "task": {"type": "worker", "index": index}}
        environment = {**environment, "TF_CONFIG": json.dumps(config)}
        return [*flags, "--cluster_resolver=tf_config"], environment

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def text(self, index: int = 0) -> str:
        """What a process printed so far."""
        return self.logs[index].read_text(errors="replace")

    def wait(self, *, expected: Sequence[int], patience: float = PATIENCE) -> None:
        """Waits for all to end and checks their exit codes."""
        end = time.monotonic() + patience
        codes = [process.wait(max(1.0, end - time.monotonic())) for process in self.processes]
        texts = "\n\n".join(self.text(i)[-4000:] for i in range(len(self.processes)))
        assert codes == list(expected), f"{codes}\n{texts}"

    def wait_for(self, condition) -> None:
        """Waits until the condition holds while all processes run."""
        end = time.monotonic() + PATIENCE
        while not condition():
            for i, process in enumerate(self.processes):
                assert process.poll() is None, self.text(i)[-4000:]
            assert time.monotonic() < end, self.text()[-4000:]
            time.sleep(0.05)

    def first_step(self) -> int:
        """The step of the first line of progress."""
        return int(re.findall(r"^step (\d+)/\d+: loss", self.text(), re.M)[0])


def free_ports(count: int) -> List[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def last_step(model_dir: pathlib.Path) -> int:
    """Number of the last checkpoint, 0 without one."""
    prefix = tf.train.latest_checkpoint(str(model_dir))
    return int(prefix.rsplit("-", 1)[1]) if prefix else 0


def loss_curve(model_dir: pathlib.Path) -> Dict[int, float]:
    """The training loss by step, of the summaries."""
    curve = {}
    for path in sorted((model_dir / "train").glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == "training_loss":
                    curve[event.step] = float(tf.make_ndarray(value.tensor))
    return curve


def check_close(found, expected):
    """Metrics of evaluations that sum the same images in another order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            check_close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            check_close(*pair)
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-9)
    else:
        assert found == expected
