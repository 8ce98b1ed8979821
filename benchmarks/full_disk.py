"""Commands on a disk that fills up: one line, nothing half-written, and the next start goes on.

python benchmarks/full_disk.py        as root, or in `unshare -rm`: it mounts small tmpfs

Each command first writes to a large folder, then to a tmpfs of a part of that size, then, the tmpfs
made larger, to the same folder again.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Callable, Dict, List, Tuple

from absl import app, flags
from commands import command, write_shapes

from panoptic_tf.datasets import converter

# The tests' tiny network.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir, "tests", "distribution"))
import jobs  # noqa: E402

_WHAT = flags.DEFINE_list("what", [], "Commands; default all.")
_SHARES = flags.DEFINE_list("shares", ["0.3", "0.8"], "Sizes of the disk, of what is written.")

_MOST_LINES = 5


def main(argv) -> None:
    """Fills disks."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    found: List[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        commands = _commands(folder)
        for what in _WHAT.value or commands:
            found += [f"{what}: {text}" for text in _fill(folder, what, commands[what])]
    print("\n".join(found) or "nothing half-written, every command went on")
    raise SystemExit(bool(found))


Command = Tuple[Callable[[pathlib.Path], List[str]], Tuple[str, ...]]


def _commands(folder: pathlib.Path) -> Dict[str, Command]:
    """Of each, its arguments for an output folder, and the names that say that it is whole."""
    paths = {}
    for split, count in (("train", 400), ("val", 20)):
        paths[split] = write_shapes(folder / "shapes" / split, count)
        converter.convert_dataset(
            "coco_panoptic",
            **paths[split],
            output_dir=str(folder / "records"),
            split=split,
            num_shards=1,
            num_processes=1,
        )
    overrides = jobs.override(folder / "records", train_steps=10, interval=5)
    overrides["task"]["init_checkpoint"] = ""
    experiment = ["--experiment=panoptic_deeplab_shapes"]
    trained = folder / "trained"

    def train(output: pathlib.Path) -> List[str]:
        mode = ["train", *experiment, "--mode=train", f"--model_dir={output}"]
        return [*mode, f"--params_override={json.dumps(overrides)}"]

    def convert(output: pathlib.Path) -> List[str]:
        source = [f"--{name}={path}" for name, path in paths["train"].items()]
        return ["convert", *source, f"--output_dir={output}", "--split=train", "--num_shards=4"]

    def evaluate(output: pathlib.Path) -> List[str]:
        source = [f"--checkpoint_path={trained}", *experiment]
        return ["evaluate", *source, f"--output_dir={output}", "--write_predictions"]

    def saved_model(output: pathlib.Path) -> List[str]:
        source = [f"--checkpoint_path={trained}", *experiment]
        return ["export-saved-model", *source, f"--export_dir={output / 'model'}"]

    def tflite(output: pathlib.Path) -> List[str]:
        source = [f"--checkpoint_path={trained}", *experiment]
        return ["export-tflite", *source, f"--tflite_path={output / 'model.tflite'}"]

    _run(train(trained)).check_returncode()
    return {
        "convert": (convert, ("train.manifest.json",)),
        "train": (train, ("ckpt-10.index",)),
        "evaluate": (evaluate, ("report.html",)),
        "export-saved-model": (saved_model, ("model/1/saved_model.pb",)),
        "export-tflite": (tflite, ("model.tflite",)),
    }


def _run(arguments: List[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def _fill(folder: pathlib.Path, what: str, filling: Command) -> List[str]:
    arguments, marks = filling
    large = folder / "large" / what
    large.mkdir(parents=True)
    done = _run(arguments(large))
    if done.returncode:
        return [f"fails on a large disk: {done.stderr[-1500:]}"]
    size = sum(path.stat().st_size for path in large.rglob("*") if path.is_file())
    found = []
    for share in map(float, _SHARES.value):
        disk = folder / f"disk_{what}_{share}"
        disk.mkdir()
        _mount(disk, int(size * share))
        try:
            found += _fill_once(disk, arguments(disk), marks, what, size)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return found


def _fill_once(
    disk: pathlib.Path, arguments: List[str], marks: Tuple[str, ...], what: str, size: int
) -> List[str]:
    found = []
    ended = _run(arguments)
    lines = [line for line in ended.stderr.splitlines() if "%|" not in line and "it/s" not in line]
    said = [line for line in lines if "No space left" in line or str(disk) in line]
    print(f"{what}: exit {ended.returncode}; {said[-1][:300] if said else lines[-3:]}", flush=True)
    if ended.returncode == 0:
        return ["passes on a disk that is too small"]
    if not said or "Traceback" in ended.stderr:
        found.append(f"says {ended.stderr[-1500:]}")
    found += [f"{disk / mark} is there" for mark in marks if (disk / mark).exists()]
    rest = sorted(str(p.relative_to(disk)) for p in disk.rglob("*") if p.is_file())
    print(f"{what}: leaves {rest}", flush=True)
    subprocess.run(["mount", "-o", f"remount,size={4 * size + 2**22}", str(disk)], check=True)
    again = _run(arguments)
    if again.returncode:
        found.append(f"does not go on: {again.stderr[-1500:]}")
    found += [f"{disk / mark} is not there" for mark in marks if not (disk / mark).exists()]
    rest = [p for p in disk.rglob("*") if p.name.endswith(".tmp") or "_temp" in p.name]
    return found + [f"{rest} stay"] if rest else found


def _mount(disk: pathlib.Path, size: int) -> None:
    # In pages, at least one.
    size = max(size // 4096, 1) * 4096
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)


if __name__ == "__main__":
    app.run(main)
