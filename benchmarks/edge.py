"""Latency, size, memory and the time of operators of exported files on one and two threads.

python benchmarks/edge.py --output_dir=runs/edge

exports an experiment at two sizes (or takes what an earlier call left): the whole model, the
network alone and its semantic half, float32 and int8, with drawn weights, which cost what trained
ones do, int8 calibrated on images of shapes. Beside them, with the same weights, the whole model
and the network as .onnx files; beside the semantic half, the Model Garden's DeepLabV3+ of the same
size. Then it measures with LiteRT (ai_edge_litert), ONNX Runtime and OpenVINO (float32), each
comparison in a process of its own, its files in turns, `--rounds` times: the median CPU time on one
thread, the shortest wall time on two. Memory is the growth of the resident set at its peak from
before the runtime is imported. Operators run one at a time, each in an interpreter of its own, on
one thread. It needs ai-edge-litert and the extras `onnx` and `openvino`.

Writes edge.json, edge.md and operators.md.
"""

from __future__ import annotations

import collections
import json
import os
import platform
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Sequence

import numpy as np
from absl import app, flags
from references import measuring

import panoptic_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)
from panoptic_tf.datasets import files

KINDS = ("float32", "int8")
_OTHERS = ("ONNX Runtime", "OpenVINO")
_GARDEN = tuple(f"Model Garden, {kind}" for kind in KINDS)
PARTS = {"whole": KINDS + _OTHERS, "network": KINDS + _OTHERS, "semantic": KINDS + _GARDEN}
THREADS = (1, 2)
_GARDEN_SCRIPT = "references/model_garden_edge.py"
_Run = Callable[[], Any]

_EXPERIMENT = flags.DEFINE_string(
    "experiment", "panoptic_deeplab_mobilenetv3_coco", "What is exported."
)
_SIZES = flags.DEFINE_list("sizes", ["513", "641"], "Height and width of the inputs.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of files and tables.", required=True)
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Turns of the timing.", lower_bound=1)
_OPERATORS = flags.DEFINE_bool("operators", True, "Time the operators of the first size, too.")
_MEASURE = flags.DEFINE_enum("measure", None, ["time", "memory"], "Of the processes it starts.")
_NUM_THREADS = flags.DEFINE_integer("num_threads", 1, "Threads of those.")


def main(argv) -> None:
    """Runs the benchmark, or one measurement of it."""
    if _MEASURE.value:
        measure = {"time": _times, "memory": _memory}[_MEASURE.value]
        print(json.dumps(measure(argv[1:])))
        return
    rows = []
    for size in map(int, _SIZES.value):
        _export(size)
        rows += _measure_size(size)
        files.write_json(os.path.join(_OUTPUT_DIR.value, "edge.json"), rows)
    text = f"{_processor()}\n\n" + "\n".join(table(rows)) + "\n"
    files.write_bytes(os.path.join(_OUTPUT_DIR.value, "edge.md"), text.encode())
    print(text)
    if _OPERATORS.value:
        kinds = {kind: _path(int(_SIZES.value[0]), "network", kind) for kind in KINDS}
        text = "\n".join(_operator_table(kinds)) + "\n"
        files.write_bytes(os.path.join(_OUTPUT_DIR.value, "operators.md"), text.encode())
        print(text)


def _path(size: int, part: str, kind: str) -> str:
    if kind in _GARDEN:
        return f"{_garden_prefix(size)}_{KINDS[_GARDEN.index(kind)]}.tflite"
    name = f"{_EXPERIMENT.value}_{size}_{part}"
    name += ".onnx" if kind in _OTHERS else f"_{kind}.tflite"
    return os.path.join(_OUTPUT_DIR.value, name)


def _garden_prefix(size: int) -> str:
    return os.path.join(_OUTPUT_DIR.value, f"model_garden_{size}")


def _export(size: int) -> None:
    """Writes the files that are missing."""
    paths = [_path(size, part, kind) for part, kinds in PARTS.items() for kind in kinds]
    if all(map(os.path.exists, paths)):
        return
    _export_experiment(size)
    if not all(os.path.exists(_path(size, "semantic", kind)) for kind in _GARDEN):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), _GARDEN_SCRIPT)
        arguments = [f"--size={size}", f"--output_prefix={_garden_prefix(size)}"]
        subprocess.run([sys.executable, script, *arguments], check=True)


def _export_experiment(size: int) -> None:
    import tensorflow as tf
    from official.core import exp_factory, task_factory

    from panoptic_tf import lite, systems  # noqa: F401  (registers the experiments)
    from panoptic_tf.datasets import shapes
    from panoptic_tf.serving import onnx_export, quantization, tflite
    from panoptic_tf.training import runner

    params = exp_factory.get_exp_config(_EXPERIMENT.value)
    sizes = {"input_size": [size, size], "train_size": [size, size]}
    params.override({"task": {"model": sizes}})
    tf.keras.utils.set_random_seed(0)
    task = task_factory.get_task(params.task)
    network = task.build_model().inference_network

    def read_inputs():
        for index in range(4):
            pixels = shapes.generate_image(0, index, 256).image
            image, image_info = lite.fit_and_pad(pixels, (size, size))
            yield {"image": image[np.newaxis], "image_info": image_info[np.newaxis]}

    options = quantization.Options(read_inputs, quantization.pattern_of(task.float_layers()))
    arguments = runner.export_arguments(params, task)
    for part in PARTS:
        float_path, int8_path = (_path(size, part, kind) for kind in KINDS)
        if not os.path.exists(float_path):
            tflite.export_tflite(network, tflite_path=float_path, part=part, **arguments)
        if not os.path.exists(int8_path):
            tflite.quantize_tflite(float_path, network, tflite_path=int8_path, int8_options=options)
    for part, kinds in PARTS.items():
        if _OTHERS[0] in kinds:
            path = _path(size, part, _OTHERS[0])
            onnx_export.export_onnx(network, onnx_path=path, part=part, **arguments)


def _measure_size(size: int) -> List[Dict[str, Any]]:
    """A row for each part, kind and number of threads."""
    rows = []
    for part, kinds in PARTS.items():
        paths = [_path(size, part, kind) for kind in kinds]
        files_of = [f"{kind}={path}" for kind, path in zip(kinds, paths)]
        memory = [_start("memory", 1, file) for file in files_of]
        for threads in THREADS:
            for kind, path, milliseconds, megabytes in zip(
                kinds, paths, _start("time", threads, *files_of), memory
            ):
                rows.append(
                    {
                        "size": size,
                        "part": part,
                        "kind": kind,
                        "threads": threads,
                        "ms": milliseconds,
                        "size_mb": os.path.getsize(path) / 1e6,
                        "memory_mb": megabytes,
                    }
                )
                print(rows[-1], flush=True)
    return rows


def _start(measure: str, threads: int, *names: str) -> Any:
    """Runs one measurement in a process of its own; names are kind=path."""
    command = [sys.executable, os.path.abspath(__file__), f"--measure={measure}", *names]
    command += [f"--num_threads={threads}", f"--rounds={_ROUNDS.value}", "--output_dir=."]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _times(names: Sequence[str]) -> List[float]:
    """Milliseconds of each file."""
    return _time_in_turns([_load(name) for name in names], _NUM_THREADS.value)


def _time_in_turns(runs: Sequence[_Run], num_threads: int) -> List[float]:
    """CPU milliseconds, the median, on one thread; of the clock on the wall, the least, on more."""
    clock, middle = (
        (time.process_time, np.median) if num_threads == 1 else (time.perf_counter, np.min)
    )
    seconds = np.zeros([_ROUNDS.value, len(runs)])
    for turn in range(_ROUNDS.value):
        for i, run in enumerate(runs):
            start = clock()
            run()
            seconds[turn, i] = clock() - start
    return (1e3 * middle(seconds, axis=0)).tolist()


def _memory(names: Sequence[str]) -> float:
    """Megabytes that importing the runtime, loading and running a file add to the peak."""

    def load_and_run() -> None:
        _load(names[0])()

    return measuring.megabytes_of(load_and_run)["more at the peak of a call"]


def _load(name: str) -> _Run:
    kind, _, path = name.partition("=")
    threads = _NUM_THREADS.value
    if kind == "ONNX Runtime":
        return _loaded_onnx(path, threads)
    if kind == "OpenVINO":
        return _loaded_openvino(path, threads)
    with open(path, "rb") as file:
        return _loaded(file.read(), threads)


def _loaded_onnx(path: str, num_threads: int) -> _Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shapes = {node.name: _static(node.shape) for node in session.get_inputs()}
    inputs = {name: value.astype(np.float32) for name, value in _draw_inputs(shapes).items()}
    session.run(None, inputs)
    return lambda: session.run(None, inputs)


def _loaded_openvino(path: str, num_threads: int) -> _Run:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": num_threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
    }
    core = openvino.Core()
    model = core.read_model(path)
    shapes = {node.any_name: _static(list(node.partial_shape)) for node in model.inputs}
    compiled = core.compile_model(model, "CPU", options)
    inputs = {name: value.astype(np.float32) for name, value in _draw_inputs(shapes).items()}
    compiled(inputs)
    return lambda: compiled(inputs)


def _static(shape: Sequence[Any]) -> Sequence[int]:
    """The shape for a batch of one."""
    return [1, *(size if isinstance(size, int) else size.get_length() for size in shape[1:])]


def _loaded(model: bytes, num_threads: int) -> _Run:
    """An interpreter with inputs of the right kind, run once; returns what runs it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=num_threads)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    drawn = _draw_inputs({detail["index"]: detail["shape"] for detail in details})
    for detail in details:
        values, dtype = drawn[detail["index"]], detail["dtype"]
        if np.issubdtype(dtype, np.integer):
            values = np.random.default_rng(0).integers(0, 100, values.shape)
        interpreter.set_tensor(detail["index"], values.astype(dtype))
    interpreter.invoke()
    return interpreter.invoke


def _draw_inputs(shapes: Mapping[Any, Sequence[int]]) -> Dict[Any, np.ndarray]:
    """A value of each shape: an image, what describes it, or what an operator reads."""
    rng = np.random.default_rng(0)
    frames = [shape[1:3] for shape in shapes.values() if len(shape) == 4]
    drawn = {}
    for name, shape in shapes.items():
        if tuple(shape) == (1, 4, 2) and frames:  # image_info: an image as large as the frame
            drawn[name] = np.array([[frames[0], frames[0], [1, 1], [0, 0]]])
        else:
            drawn[name] = rng.uniform(0, 255 if shape[-1] == 3 else 1, shape)
    return drawn


def _operator_table(paths: Dict[str, str]) -> List[str]:
    """Milliseconds by kind of operator, on one thread: lines of Markdown."""
    from panoptic_tf.serving import tflite_graph

    totals: Dict[str, Dict[str, List[float]]] = collections.defaultdict(dict)
    slowest = []
    for kind, path in paths.items():
        with open(path, "rb") as file:
            model = file.read()
        for operator, single in tflite_graph.single_operators(model):
            (milliseconds,) = _time_in_turns([_loaded(single, 1)], 1)
            totals[operator.kind].setdefault(kind, []).append(milliseconds)
            shape = "x".join(map(str, operator.shape))
            slowest.append((milliseconds, kind, operator.kind, shape, operator.name))
    lines = ["| operator | " + " | ".join(f"{k}, number | ms" for k in paths) + " |"]
    lines.append("|---" * (1 + 2 * len(paths)) + "|")
    for name in sorted(totals, key=lambda name: -sum(map(sum, totals[name].values()))):
        cells = [totals[name].get(kind, []) for kind in paths]
        lines.append(f"| {name} | " + " | ".join(f"{len(c)} | {sum(c):.2f}" for c in cells) + " |")
    sums = [sum(sum(found.get(kind, [])) for found in totals.values()) for kind in paths]
    lines.append("| all | " + " | ".join(f" | {total:.2f}" for total in sums) + " |\n")
    for milliseconds, *rest in sorted(slowest, reverse=True)[:40]:
        lines.append(f"    {milliseconds:8.3f} {' '.join(rest)[:110]}")
    return lines


def table(rows: Sequence[Dict[str, Any]]) -> List[str]:
    """Lines of a Markdown table."""
    lines = [
        "| size | part | kind | MB | memory, MB | 1 thread, ms | to float32 | 2 threads, ms "
        "| to float32 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = {(r["size"], r["part"], r["kind"], r["threads"]): r for r in rows}
    for size, part, kind, threads in found:
        if threads != THREADS[0]:
            continue
        row = found[size, part, kind, threads]
        cells = [f"{size}x{size}", part, kind, f"{row['size_mb']:.1f}", f"{row['memory_mb']:.0f}"]
        for each in THREADS:
            milliseconds = found[size, part, kind, each]["ms"]
            ratio = milliseconds / found[size, part, KINDS[0], each]["ms"]
            cells += [f"{milliseconds:.1f}", f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _processor() -> str:
    """The family of the CPU, and the version of the runtime."""
    import importlib.metadata

    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
        name = names[0] if names else name
    return f"{name}, ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"


if __name__ == "__main__":
    app.run(main)
