"""kill -9 of conversions, trainings and evaluations at random moments.

python benchmarks/kills.py --kills=30 [--what=coco_panoptic,cityscapes,train,evaluate]

The same command starts again after every kill. Wanted: the last checkpoint is whole and training
goes on from it, `metrics.json` is whole JSON, the undisturbed run at the end finishes, makes up for
the evaluation of its last step and leaves no temporary file; the converted shards are byte for byte
those of an undisturbed conversion.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Union

import drawn_exports
import tensorflow as tf
from absl import app, flags
from commands import command, write_shapes
from tqdm import tqdm

from panoptic_tf.datasets import converter
from panoptic_tf.experiments import cli

# The tests' tiny network.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir, "tests", "distribution"))
import jobs  # noqa: E402

_KILLS = flags.DEFINE_integer("kills", 30, "Of each.")
_WHAT = flags.DEFINE_list(
    "what", [], "What is killed: conversions by their format, train, evaluate; default all."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_FORK = flags.DEFINE_bool(
    "fork",
    False,
    "Conversions are forks of this process, which has imported TensorFlow: kills come in the work, "
    "not in the start. They have no processes of their own.",
)

_INTERVAL = 5
_ENDLESS = 10**6
_NUM_EXPORTED, _NUM_SHARDS = 400, 40


def main(argv) -> None:
    """Kills what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    found: List[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for what in _WHAT.value or _PARTS:
            part, rng = _PARTS[what], random.Random(_SEED.value)
            found += [f"{what}: {text}" for text in part(folder, rng)]
    print("\n".join(found) or "nothing lost, nothing half-written")
    raise SystemExit(bool(found))


class _Fork(multiprocessing.get_context("fork").Process):  # type: ignore[name-defined,misc]
    """A command in a fork of this process, with the methods of `subprocess.Popen` used here."""

    def __init__(self, arguments: List[str], log: BinaryIO):
        super().__init__()
        self._arguments, self._log = arguments, log
        self.start()

    def run(self) -> None:
        """See the base."""
        for descriptor in (1, 2):
            os.dup2(self._log.fileno(), descriptor)
        cli.main(self._arguments)

    def wait(self, seconds: Optional[float] = None) -> int:
        """The exit code."""
        self.join(seconds)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(self._arguments, seconds or 0)
        return self.exitcode


def _start(command: List[str], log: BinaryIO, fork: bool) -> Union[subprocess.Popen, _Fork]:
    if fork:
        return _Fork(command[command.index("convert") :], log)
    return subprocess.Popen(command, stdout=log, stderr=log)


def _kill_after(
    command: List[str], seconds: float, log: pathlib.Path, *, fork: bool = False
) -> str:
    """Starts a command and kills it; how it ended, if it ended before."""
    with open(log, "wb") as file:
        process = _start(command, file, fork)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return ""
    return f"ended with {code}: {log.read_text(errors='replace')[-1500:]}"


def _finish(command: List[str], log: pathlib.Path, *, fork: bool = False) -> List[str]:
    with open(log, "wb") as file:
        code = _start(command, file, fork).wait()
    text = log.read_text(errors="replace")
    return [f"the undisturbed run ended with {code}: {text[-1500:]}"] if code else []


# Conversion


_EXPORTS = {
    "coco_panoptic": drawn_exports.Export(
        lambda folder, _: write_shapes(pathlib.Path(folder), 3000),
        {
            "panoptic_json": "{0}/panoptic.json",
            "panoptic_dir": "{0}/panoptic",
            "image_dir": "{0}/images",
        },
    ),
    **drawn_exports.EXPORTS,
}


def _kill_conversions(name: str, parent: pathlib.Path, rng: random.Random) -> List[str]:
    folder = parent / name
    exported = folder / "exported"
    write, options = _EXPORTS[name]
    write(str(exported), _NUM_EXPORTED)
    flag_list = [f"--{key}={text.format(exported)}" for key, text in options.items()]

    def convert(output: str) -> List[str]:
        processes = 1 if _FORK.value else 2
        settings = [f"--num_shards={_NUM_SHARDS}", f"--num_processes={processes}"]
        output_dir = f"--output_dir={folder / output}"
        return command(
            "convert", f"--format={name}", "--split=train", *settings, *flag_list, output_dir
        )

    start = time.monotonic()
    found = _finish(convert("undisturbed"), folder / "log", fork=_FORK.value)
    span = time.monotonic() - start
    shards = []
    for _ in tqdm(range(_KILLS.value), desc=name, unit="kill"):
        moment = rng.uniform(0.0, span)
        ended = _kill_after(convert("killed"), moment, folder / "log", fork=_FORK.value)
        if ended and not ended.startswith("ended with 0"):
            found.append(ended)
        shards.append(len(list((folder / "killed").glob("*.tfrecord"))))
        # Else most of the kills would come after the last shard.
        if shards[-1] == _NUM_SHARDS or rng.random() < 0.2:
            for path in (folder / "killed").glob("train*"):
                if rng.random() < 0.7:
                    path.unlink()
    found += _finish(convert("killed"), folder / "log", fork=_FORK.value)
    print(f"{name}: killed at these numbers of shards of {_NUM_SHARDS}: {shards}")
    expected, killed = (
        {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        for name in ("undisturbed", "killed")
    )
    found += [
        f"{name} differs"
        for name in sorted({*expected, *killed})
        if expected.get(name) != killed.get(name)
    ]
    return found


# Training and evaluation


def _records(folder: pathlib.Path) -> pathlib.Path:
    records = folder / "records"
    for split, count in (("train", 10), ("val", 40)):
        converter.convert_dataset(
            "coco_panoptic",
            **write_shapes(folder / "shapes" / split, count),
            output_dir=str(records),
            split=split,
            num_shards=2,
            num_processes=1,
        )
    return records


def _kill_trainings(folder: pathlib.Path, rng: random.Random) -> List[str]:
    return _kill_runs(folder, rng, "train", validation_interval=_ENDLESS)


def _kill_evaluations(folder: pathlib.Path, rng: random.Random) -> List[str]:
    return _kill_runs(folder, rng, "evaluate", validation_interval=_INTERVAL)


def _kill_runs(
    folder: pathlib.Path, rng: random.Random, name: str, *, validation_interval: int
) -> List[str]:
    records, model_dir = _records(folder / name), folder / name / "model"

    def train(train_steps: int, interval: int) -> List[str]:
        overrides: Dict[str, Any] = jobs.override(
            records, train_steps=train_steps, interval=_INTERVAL
        )
        overrides["task"]["init_checkpoint"] = ""
        overrides["trainer"]["validation_interval"] = interval
        return command(
            "train",
            "--experiment=panoptic_deeplab_shapes",
            "--mode=train_and_eval",
            f"--model_dir={model_dir}",
            f"--params_override={json.dumps(overrides)}",
        )

    log = folder / name / "log"
    start = time.monotonic()
    found = _finish(train(4 * _INTERVAL, validation_interval), log)
    span = time.monotonic() - start
    steps = [_last_step(model_dir)]
    for _ in tqdm(range(_KILLS.value), desc=name, unit="kill"):
        moment = rng.uniform(0.3, 1.5) * span
        ended = _kill_after(train(_ENDLESS, validation_interval), moment, log)
        found += [ended] if ended else []
        steps.append(_last_step(model_dir))
        found += _check_folder(model_dir)
        if steps[-1] < steps[-2]:
            found.append(f"step {steps[-2]} was lost: the last checkpoint is of step {steps[-1]}")
    last = steps[-1] + _INTERVAL
    found += _finish(train(last, validation_interval), log)
    print(f"{name}: {steps[-1]} steps in {_KILLS.value} lives of up to {1.5 * span:.0f} s")
    metrics = json.loads((model_dir / "metrics.json").read_text())
    if metrics["step"] != last:
        found.append(f"metrics.json is of step {metrics['step']}, the training ended at {last}")
    if validation_interval == _INTERVAL:
        missed = set(range(_INTERVAL, last + 1, _INTERVAL)) - _evaluated_steps(model_dir)
        print(f"evaluations that no summary holds: {sorted(missed) or 'none'}")
        found += [f"no evaluation of {len(missed)} steps: {sorted(missed)}"] if missed else []
    rest = [p.name for p in model_dir.iterdir() if "temp" in p.name or p.name.endswith(".tmp")]
    return found + [f"{rest} are left"] if rest else found


def _last_step(model_dir: pathlib.Path) -> int:
    prefix = tf.train.latest_checkpoint(str(model_dir))
    return int(prefix.rsplit("-", 1)[1]) if prefix else 0


def _check_folder(model_dir: pathlib.Path) -> List[str]:
    """Reads the last checkpoint as a whole, and the metrics."""
    found = []
    try:
        reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(model_dir)))
        for variable in reader.get_variable_to_shape_map():
            reader.get_tensor(variable)
    except (tf.errors.OpError, ValueError) as error:
        found.append(f"the last checkpoint cannot be read: {error}")
    path = model_dir / "metrics.json"
    try:
        json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        found.append(f"{path} is not whole: {error}")
    return found


def _evaluated_steps(model_dir: pathlib.Path) -> set:
    steps = set()
    for path in (model_dir / "validation").glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            steps |= {event.step for value in event.summary.value if value.tag == "PQ"}
    return steps


_PARTS: Dict[str, Callable[[pathlib.Path, random.Random], List[str]]] = {
    **{name: functools.partial(_kill_conversions, name) for name in _EXPORTS},
    "train": _kill_trainings,
    "evaluate": _kill_evaluations,
}


if __name__ == "__main__":
    app.run(main)
