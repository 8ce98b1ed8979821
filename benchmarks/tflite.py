"""PQ, size, latency and memory of .tflite files, as a table and a plot.

Of a folder of files named <system>_<kind>.tflite, kind float32, float16, dynamic or int8:

python benchmarks/tflite.py --model_dir=runs/tflite --input_path='data/val-*' \
    --output_dir=runs/tflite_table

writes tflite.json, tflite.md and tflite.png. Every file is measured in processes of its own, on one
thread, with the interpreter that `Predictor` takes: ai_edge_litert where it is installed. Times are
CPU time, the kinds of a system in turns, the median over `--rounds`. `network` is the network's
layers alone (see `tflite_graph.network_part`). Memory is the growth of the peak resident set from
before the file is loaded to after `--memory_images` images.

`--skip_pq` measures the rest only; `--systems` some systems only.
"""

from __future__ import annotations

import glob
import io
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from absl import app, flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import panoptic_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)
from panoptic_tf.datasets import files
from panoptic_tf.serving import tflite, tflite_graph

KINDS = ("float32", "float16", "dynamic", "int8")

# The layers with weights of every system.
_LAYERS = (
    *("backbone", "semantic", "instance", "fpn", "fpn_instance", "fpn_semantic", "rpn", "box"),
    *("mask", "position_head", "kernel_head", "semantic_fpn", "feature_encoder"),
    *("thing_embedding", "stuff_embedding"),
)
_COLUMNS = ("PQ", "size_mb", "latency_ms", "network_ms", "network_ratio", "memory_mb")

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of <system>_<kind>.tflite.")
_INPUT_PATH = flags.DEFINE_string("input_path", None, "Pattern of the records to score on.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder for the table and the plot.")
_SYSTEMS = flags.DEFINE_list("systems", None, "Only these; default all that are there.")
_ROUNDS = flags.DEFINE_integer("rounds", 30, "Turns of the timing.", lower_bound=1)
_MAX_EXAMPLES = flags.DEFINE_integer("max_examples", 0, "Images to score on; 0 is all.")
_MEMORY_IMAGES = flags.DEFINE_integer("memory_images", 3, "Images of the memory measurement.")
_SKIP_PQ = flags.DEFINE_bool("skip_pq", False, "Keep the PQ of an earlier run, if there is one.")
_MEASURE = flags.DEFINE_enum("measure", None, ["time", "memory"], "Of the processes it starts.")


def main(argv) -> None:
    """Runs the benchmark, or one measurement of it."""
    if _MEASURE.value == "time":
        print(json.dumps(_times(argv[1:], _ROUNDS.value)))
        return
    if _MEASURE.value == "memory":
        print(json.dumps(_memory(argv[1], _MEMORY_IMAGES.value)))
        return
    for flag in (_MODEL_DIR, _INPUT_PATH, _OUTPUT_DIR):
        if not flag.value:
            raise app.UsageError(f"--{flag.name} is required.")
    path = os.path.join(_OUTPUT_DIR.value, "tflite.json")
    rows = files.read_json(path, expected="an earlier table") if os.path.exists(path) else {}
    for system, models in _find(_MODEL_DIR.value, _SYSTEMS.value).items():
        rows.setdefault(system, {})
        for kind, row in _measure(models).items():
            rows[system][kind] = {**rows[system].get(kind, {}), **row}
        files.write_json(path, rows)
        text = "\n".join(table(rows)) + "\n"
        files.write_bytes(os.path.join(_OUTPUT_DIR.value, "tflite.md"), text.encode())
        files.write_bytes(os.path.join(_OUTPUT_DIR.value, "tflite.png"), plot(rows))
    print(text)


def _find(folder: str, systems: Optional[Sequence[str]]) -> Dict[str, Dict[str, str]]:
    """Paths by system and kind.

    Raises:
      UsageError: there is none.
    """
    found: Dict[str, Dict[str, str]] = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.tflite"))):
        system, _, kind = os.path.basename(path)[: -len(".tflite")].rpartition("_")
        if kind in KINDS and (not systems or system in systems):
            found.setdefault(system, {})[kind] = path
    if not found:
        raise app.UsageError(f"{folder} holds no <system>_<kind>.tflite, kind {', '.join(KINDS)}.")
    return {s: {k: kinds[k] for k in KINDS if k in kinds} for s, kinds in found.items()}


def _measure(models: Dict[str, str]) -> Dict[str, Dict[str, Any]]:
    """Rows of one system's kinds."""
    times = _start("time", *models.values(), f"--rounds={_ROUNDS.value}")
    rows = {}
    for (kind, path), (whole, network) in zip(models.items(), times):
        rows[kind] = {
            "size_mb": os.path.getsize(path) / 1e6,
            "latency_ms": whole,
            "network_ms": network,
            "network_ratio": network / times[0][1],
            "memory_mb": _start("memory", path),
        }
        if not _SKIP_PQ.value:
            rows[kind]["PQ"] = _score(path)["PQ"]
        print(path, rows[kind], flush=True)
    return rows


def _start(measure: str, *arguments: str) -> Any:
    """Runs one measurement in a process of its own."""
    command = [sys.executable, os.path.abspath(__file__), f"--measure={measure}", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _score(path: str) -> Dict[str, Any]:
    output_dir = os.path.join(_OUTPUT_DIR.value, os.path.basename(path)[: -len(".tflite")])
    command = [sys.executable, "-m", "panoptic_tf.experiments.cli", "evaluate-tflite"]
    command += [f"--tflite_path={path}", f"--input_path={_INPUT_PATH.value}"]
    command += [f"--output_dir={output_dir}", f"--max_examples={_MAX_EXAMPLES.value}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return files.read_json(os.path.join(output_dir, "metrics.json"), expected="metrics")


def _times(paths: Sequence[str], rounds: int) -> List[List[float]]:
    """CPU milliseconds of the whole model and of the network alone, the first file's first."""
    runs = []
    for path in paths:
        with open(path, "rb") as file:
            model = file.read()
        runs += [_load(model), _load(tflite_graph.network_part(model, _LAYERS))]
    seconds = np.zeros([rounds, len(runs)])
    for turn in range(rounds):
        for i, run in enumerate(runs):
            start = time.process_time()
            run()
            run()
            seconds[turn, i] = (time.process_time() - start) / 2
    return (1e3 * np.median(seconds, axis=0)).reshape([-1, 2]).tolist()


def _load(model: bytes):
    """An interpreter with inputs of the right kind; returns what runs it once."""
    interpreter = tflite.interpreter_class()(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        shape = tuple(detail["shape"])
        if detail["name"].startswith("serving_default_image:"):
            values = rng.uniform(0, 255, shape)
        elif shape == (1, 4, 2):  # image_info: an image as large as the frame
            size = next(
                d["shape"][1:3] for d in interpreter.get_input_details() if len(d["shape"]) == 4
            )
            values = np.array([[size, size, [1, 1], [0, 0]]])
        else:
            values = rng.uniform(0, 1, shape)
        interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
    interpreter.invoke()
    return interpreter.invoke


def _memory(path: str, images: int) -> float:
    """Megabytes that loading and running a file adds to the peak."""
    info = tflite.read_model_info(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = tflite.TFLiteRunner(path, num_threads=1)
    height, width = info.input_size
    image = np.random.default_rng(0).uniform(0, 255, [height, width, 3]).astype(np.float32)
    image_info = np.array([[height, width], [height, width], [1, 1], [0, 0]], np.float32)
    for _ in range(images):
        run(image, image_info)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def table(rows: Dict[str, Dict[str, Dict[str, Any]]]) -> List[str]:
    """Lines of a Markdown table."""
    lines = [
        "| system | kind | PQ | size, MB | whole, ms | network, ms | to float32 | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    formats = ("{:.2f}", "{:.2f}", "{:.1f}", "{:.2f}", "{:.2f}", "{:.0f}")
    for system, kinds in rows.items():
        for kind in (k for k in KINDS if k in kinds):
            row = kinds[kind]
            cells = [
                form.format(row[column]) if row.get(column) is not None else "-"
                for form, column in zip(formats, _COLUMNS)
            ]
            lines.append(" | ".join([f"| {system}", kind, *cells]) + " |")
    return lines


def plot(rows: Dict[str, Dict[str, Dict[str, Any]]]) -> bytes:
    """PQ, network time and size; a colour for each kind, a group for each system: PNG."""
    figure = Figure(figsize=(9.0, 3.0), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("PQ", "PQ"), ("network_ms", "network, ms"), ("size_mb", "size, MB"))
    for axes, (column, title) in zip(figure.subplots(1, 3), panels):
        for number, kind in enumerate(KINDS):
            values = [kinds.get(kind, {}).get(column) or 0.0 for kinds in rows.values()]
            places = np.arange(len(rows)) + 0.2 * (number - 1.5)
            bars = axes.bar(places, values, 0.18, label=kind)
            axes.bar_label(bars, fmt="%.3g", fontsize=5, padding=1)
        axes.set_title(title, fontsize=9)
        labels = [system.replace("_shapes", "").replace("panoptic_", "") for system in rows]
        axes.set_xticks(np.arange(len(rows)), labels, fontsize=8)
        axes.tick_params(axis="y", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


if __name__ == "__main__":
    app.run(main)
