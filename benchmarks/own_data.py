"""From exported annotations to a scored model: the three commands of a user, timed.

python benchmarks/own_data.py --output_dir=runs/own_data

Draws 60 images of 128x128 shapes as LabelMe, CVAT and Ultralytics YOLO export them (48 and 12 of
YOLO, which has splits of its own), and for each runs `init`, `train` and `report` with the defaults
but for what the annotations cannot say: which labels are stuff, that later lines of YOLO lie on
top, that images have no up and down. Prints PQ on the validation part, seconds, and CPU seconds of
all processes, which on a machine of two free cores are up to twice the seconds.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from typing import Dict, List, Tuple

import drawn_exports
from absl import app, flags

from panoptic_tf.datasets import shapes

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/own_data", "Folder of everything.")
_EXPORTS = flags.DEFINE_multi_enum(
    "exports", ["labelme", "cvat", "yolo"], ["labelme", "cvat", "yolo"], "What is drawn."
)
_SYSTEM = flags.DEFINE_string("system", "panoptic_deeplab", "What is trained.")

_NUM_IMAGES = 60
_STUFF = "--stuff=" + ",".join(shapes.STUFF_NAMES)
_FLAGS: Dict[str, List[str]] = {
    "labelme": [_STUFF],
    "cvat": [_STUFF],
    "yolo": ["--on_top=later"],
}


def main(argv) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    print("export   PQ     things stuff  seconds (init, train, report)  CPU-s")
    for export in _EXPORTS.value:
        folder = os.path.join(_OUTPUT_DIR.value, export)
        shutil.rmtree(folder, ignore_errors=True)
        exported, own = os.path.join(folder, "exported"), os.path.join(folder, "own")
        _draw(export, exported)
        costs = [
            _run(
                "init",
                f"--source={exported}",
                f"--output_dir={own}",
                f"--system={_SYSTEM.value}",
                "--flip_vertically",
                *_FLAGS[export],
            ),
            _run("train", f"--config_file={own}/train.yaml"),
            _run("report", f"--model_dir={own}/run"),
        ]
        with open(os.path.join(own, "run", "report", "metrics.json"), encoding="utf-8") as file:
            metrics = json.load(file)
        scores = " ".join(f"{metrics[name]:6.2f}" for name in ("PQ", "PQ_things", "PQ_stuff"))
        seconds, cpu = (sum(values) for values in zip(*costs))
        parts = ", ".join(f"{cost[0]:.0f}" for cost in costs)
        print(f"{export:8} {scores}  {seconds:.0f} ({parts})  {cpu:.0f}", flush=True)


def _draw(export: str, folder: str) -> None:
    if export == "labelme":
        drawn_exports.write_labelme(folder, _NUM_IMAGES)
    elif export == "cvat":
        drawn_exports.write_cvat(folder, _NUM_IMAGES)
    else:
        num_train = _NUM_IMAGES * 4 // 5
        drawn_exports.write_yolo(
            folder, [("train", 0, num_train), ("val", 1, _NUM_IMAGES - num_train)]
        )


def _run(command: str, *arguments: str) -> Tuple[float, float]:
    """Runs a command; returns seconds, and CPU seconds of it and its processes."""
    start, used = time.monotonic(), _children_cpu()
    call = [sys.executable, "-m", "panoptic_tf.experiments.cli", command, *arguments]
    done = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)} failed:\n{done.stdout[-3000:]}")
    return time.monotonic() - start, _children_cpu() - used


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    app.run(main)
