"""kill -9 of conversions, trainings and evaluations at random moments.

python benchmarks/kills.py --kills=30 [--what=convert,labelme,cvat,yolo,train,evaluate]

The same command starts again after every kill. Wanted: the last checkpoint is whole and training
goes on from it, `metrics.json` is whole JSON, the undisturbed run at the end finishes, makes up for
the evaluation of its last step and leaves no temporary file; the converted shards are byte for byte
those of an undisturbed conversion.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List

import drawn_exports
import tensorflow as tf
from absl import app, flags
from commands import command, write_shapes
from tqdm import tqdm

from panoptic_tf.datasets import converter

# The tests' tiny network.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir, "tests", "distribution"))
import jobs  # noqa: E402

_KILLS = flags.DEFINE_integer("kills", 30, "Of each.")
_WHAT = flags.DEFINE_list(
    "what", ["convert", "labelme", "cvat", "yolo", "train", "evaluate"], "What is killed."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")

_INTERVAL = 5
_ENDLESS = 10**6
_NUM_EXPORTED = 400


def main(argv) -> None:
    """Kills what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    found: List[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for what in _WHAT.value:
            found += [
                f"{what}: {text}" for text in _PARTS[what](folder, random.Random(_SEED.value))
            ]
    print("\n".join(found) or "nothing lost, nothing half-written")
    raise SystemExit(bool(found))


def _kill_after(command: List[str], seconds: float, log: pathlib.Path) -> str:
    """Starts a command and kills it and its children; how it ended, if it ended before."""
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return ""
    return f"ended with {code}: {log.read_text(errors='replace')[-1500:]}"


def _finish(command: List[str], log: pathlib.Path) -> List[str]:
    with open(log, "wb") as file:
        code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
    text = log.read_text(errors="replace")
    return [f"the undisturbed run ended with {code}: {text[-1500:]}"] if code else []


# Conversion


def _kill_coco_panoptic(folder: pathlib.Path, rng: random.Random) -> List[str]:
    paths = write_shapes(folder / "shapes", 3000)
    return _kill_conversions(folder, rng, [f"--{name}={path}" for name, path in paths.items()])


def _kill_labelme(folder: pathlib.Path, rng: random.Random) -> List[str]:
    source = folder / "exported_labelme"
    drawn_exports.write_labelme(str(source), _NUM_EXPORTED)
    return _kill_conversions(folder, rng, ["--format=labelme", f"--source={source}"])


def _kill_cvat(folder: pathlib.Path, rng: random.Random) -> List[str]:
    source = folder / "exported_cvat"
    drawn_exports.write_cvat(str(source), _NUM_EXPORTED)
    paths = [f"--source={source / 'annotations.xml'}", f"--image_dir={source / 'images'}"]
    return _kill_conversions(folder, rng, ["--format=cvat", *paths])


def _kill_yolo(folder: pathlib.Path, rng: random.Random) -> List[str]:
    source = folder / "exported_yolo"
    drawn_exports.write_yolo(str(source), [("train", 0, _NUM_EXPORTED)])
    return _kill_conversions(folder, rng, ["--format=yolo", f"--source={source / 'data.yaml'}"])


def _kill_conversions(parent: pathlib.Path, rng: random.Random, flag_list: List[str]) -> List[str]:
    folder = pathlib.Path(tempfile.mkdtemp(dir=parent))

    def convert(output: str) -> List[str]:
        options = ["--split=train", "--num_shards=40", "--num_processes=2"]
        return command("convert", *flag_list, f"--output_dir={folder / output}", *options)

    start = time.monotonic()
    found = _finish(convert("undisturbed"), folder / "log")
    span = time.monotonic() - start
    for _ in tqdm(range(_KILLS.value), desc="convert", unit="kill"):
        ended = _kill_after(convert("killed"), rng.uniform(0.0, span), folder / "log")
        if ended and not ended.startswith("ended with 0"):
            found.append(ended)
        if rng.random() < 0.2:  # Else most of the kills would come after the last shard.
            for path in (folder / "killed").glob("train*"):
                if rng.random() < 0.7:
                    path.unlink()
    found += _finish(convert("killed"), folder / "log")
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


_PARTS = {
    "convert": _kill_coco_panoptic,
    "labelme": _kill_labelme,
    "cvat": _kill_cvat,
    "yolo": _kill_yolo,
    "train": _kill_trainings,
    "evaluate": _kill_evaluations,
}


if __name__ == "__main__":
    app.run(main)
