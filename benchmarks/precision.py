"""What bfloat16 and XLA do to a training: CPU-seconds of a step, PQ after equal steps.

python benchmarks/precision.py --system=panoptic_deeplab
python benchmarks/precision.py --system=panoptic_deeplab --steps=1000 --output_dir=runs/precision

The first measures one step of the shapes experiment (network, losses, gradients, update; one batch,
no input pipeline), every setting in a process of its own, in turns. The second trains and scores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any, Dict, List

import common
import tables
import tensorflow as tf
from absl import app, flags
from official.modeling.optimization import ema_optimizer

from panoptic_tf.datasets import shapes_records
from panoptic_tf.systems import optimization
from panoptic_tf.training import machine, runner

_SETTINGS: Dict[str, Dict[str, Any]] = {
    "float32": {"mixed_precision_dtype": "float32"},
    "bfloat16": {"mixed_precision_dtype": "bfloat16"},
    "float32_xla": {"mixed_precision_dtype": "float32", "enable_xla": True},
    "bfloat16_xla": {"mixed_precision_dtype": "bfloat16", "enable_xla": True},
}
_COLUMNS = ("PQ", "PQ_things", "PQ_stuff", "mIoU", "AP", "train_seconds", "train_cpu_seconds")

_SYSTEM = flags.DEFINE_string("system", "panoptic_deeplab", "Folder name of the system.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/precision", "Folder of everything.")
_STEPS = flags.DEFINE_integer("steps", None, "Train so many steps and score, instead.")
_NAMES = flags.DEFINE_list("settings", [], f"Of {'; '.join(_SETTINGS)}: a part, by number from 0.")
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of an operation.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Of each measurement; the median counts.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each setting takes its turn.")
_MEASURED = flags.DEFINE_string("measured", None, "Measures this setting and prints JSON.")


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _MEASURED.value:
        print(json.dumps(_measure(_SETTINGS[_MEASURED.value])))
        return
    names = [list(_SETTINGS)[int(i)] for i in _NAMES.value] or list(_SETTINGS)
    if not _STEPS.value:
        _compare_steps(names)
        return
    rows = {name: tables.Row(_experiment(), {}, runtime=_SETTINGS[name]) for name in names}
    tables.run(
        rows,
        names=names,
        columns=_COLUMNS,
        output_dir=os.path.join(_OUTPUT_DIR.value, _SYSTEM.value),
        steps=_STEPS.value,
    )


def _experiment() -> str:
    return common.experiment_name(_SYSTEM.value, "shapes")


def _compare_steps(names: List[str]) -> None:
    shapes_records.write_records(_data_dir(), num_train=100, num_val=1)
    command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
    found: Dict[str, List[Dict[str, float]]] = {name: [] for name in names}
    for _ in range(_ROUNDS.value):
        for name in names:
            output = subprocess.run(
                [*command, f"--measured={name}"], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            found[name].append(json.loads(output.splitlines()[-1]))
    print(f"{_experiment()}, one training step, {_THREADS.value} thread(s); seconds")
    print("| setting | CPU-s of a step | ratio | first step (tracing, compiling) | loss |")
    print("|---|---|---|---|---|")
    first = None
    for name, turns in found.items():
        step, start, loss = (
            statistics.median(turn[key] for turn in turns) for key in ("step", "first", "loss")
        )
        first = first or step
        print(f"| {name} | {step:.3f} | {step / first:.2f} | {start:.0f} s | {loss:.4f} |")


def _data_dir() -> str:
    return os.path.join(_OUTPUT_DIR.value, "data_of_a_step")


def _measure(runtime: Dict[str, Any]) -> Dict[str, float]:
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    overrides = {"runtime": runtime, "task": {"train_data": {"cache": False, "seed": 1}}}
    path = os.path.join(_data_dir(), "records", "train-*")
    params = common.build_params(_experiment(), train_path=path, val_path=path, overrides=overrides)
    tf.keras.utils.set_random_seed(1)
    runner.set_precision(params.runtime)
    task = runner.build_task(params)
    task.form = machine.cpu_form()
    task.xla = params.runtime.enable_xla
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
    if isinstance(optimizer, ema_optimizer.ExponentialMovingAverage):
        optimizer.shadow_copy(model)
    optimization.create_variables(optimizer, model.trainable_variables)
    batch = next(iter(task.build_inputs(params.task.train_data)))
    step = tf.function(lambda: task.train_step(batch, model, optimizer), autograph=False)
    start = time.monotonic()
    loss = float(step()[task.loss])
    found = {"first": time.monotonic() - start, "loss": loss}
    seconds = []
    for _ in range(_REPETITIONS.value + 1):
        start = time.process_time()
        step()[task.loss].numpy()
        seconds.append(time.process_time() - start)
    return {**found, "step": statistics.median(seconds[1:])}


if __name__ == "__main__":
    app.run(main)
