"""What the reference scripts share: arguments, seconds, memory, weights, the JSON they print.

A reference script measures another implementation on the workload of a benchmark. It runs in an
environment of its own, which needs NumPy and the reference but not this package. The benchmarks
measure memory with this module, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

Workload = Mapping[str, np.ndarray]
Megabytes = Dict[str, float]
_WARM_UPS = 2
_NO_PATHS: Mapping[str, str] = {}

Names = Sequence[Tuple[str, str]]
"""Regular expressions of parts of a variable's name and what replaces them, in order."""

_PARTS_OF_LAYERS: Names = (
    (r"/conv/(kernel|depthwise_kernel|bias)$", r"/\1"),
    (r"/(depthwise_kernel|kernel|gamma)$", "/weight"),
    (r"/beta$", "/bias"),
    (r"/moving_mean$", "/running_mean"),
    (r"/moving_variance$", "/running_var"),
)


def parse_arguments(description: Optional[str], *, paths: Mapping[str, str] = _NO_PATHS) -> Any:
    """Arguments that the benchmarks give, and those of the script.

    Args:
      description: of the script.
      paths: help by name of what the script needs to be told where it lies.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--workload", required=True, help="File of the benchmark's workload.")
    add_settings(parser)
    for name, text in paths.items():
        parser.add_argument(f"--{name}", required=True, help=text)
    return parser.parse_args()


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say how something is measured."""
    parser.add_argument("--threads", type=int, default=1, help="Threads of an operation.")
    parser.add_argument("--repetitions", type=int, default=7, help="The median counts.")
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="What the network computes in.",
    )


def seconds_of(function: Callable[[], Any], repetitions: int, threads: int) -> float:
    """Median of CPU-seconds, of several threads wall-clock; two calls warm up first."""
    clock = time.process_time if threads == 1 else time.perf_counter
    found: List[float] = []
    for _ in range(repetitions + _WARM_UPS):
        start = clock()
        function()
        found.append(clock() - start)
    return statistics.median(found[_WARM_UPS:])


def megabytes_of(function: Callable[[], Any]) -> Megabytes:
    """Memory of the first call of a function that is traced already; Linux only.

    Returns:
      By how much it raises the resident memory at most, and that memory; empty elsewhere.
    """
    try:
        forget_peak()
        before = _status_megabytes("VmRSS")
        function()
        peak = peak_megabytes()
    except OSError:
        return {}
    return {"more at the peak of a call": peak - before, "of the process then": peak}


def forget_peak() -> None:
    """Makes `peak_megabytes` start again; Linux only, OSError elsewhere."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def peak_megabytes() -> float:
    """The most resident memory since the peak was forgotten; Linux only, OSError elsewhere."""
    return _status_megabytes("VmHWM")


def load(path: str) -> Dict[str, np.ndarray]:
    """The arrays of a workload."""
    with np.load(path) as file:
        return dict(file)


def parameter_name(name: str, layers: Names) -> str:
    """PyTorch's name of a variable.

    Args:
      name: ours, as `backbone/stem/conv1/conv/kernel:0`.
      layers: how the layers are called there, with "/" for ".".
    """
    name = name.partition(":")[0]
    for pattern, replacement in (*layers, *_PARTS_OF_LAYERS):
        name = re.sub(pattern, replacement, name)
    return name.replace("/", ".")


def select(workload: Workload, prefix: str) -> Dict[str, np.ndarray]:
    """Arrays of a workload whose names start with a prefix, without it."""
    return {key[len(prefix) :]: workload[key] for key in workload if key.startswith(prefix)}


def channels_first(x: np.ndarray) -> np.ndarray:
    """[B, H, W, C] -> [B, C, H, W]."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def convolution_kernel(name: str, kernel: np.ndarray) -> np.ndarray:
    """Keras' kernel of a variable of this name as PyTorch has it; other shapes as they are."""
    if kernel.ndim != 4:
        return kernel
    axes = (2, 3, 0, 1) if "depthwise_kernel" in name else (3, 2, 0, 1)
    return np.ascontiguousarray(kernel.transpose(axes))


def write_beside_workload(workload_path: str, name: str, **arrays: np.ndarray) -> str:
    """Writes arrays into the folder of the workload, which lives as long as the turns."""
    path = os.path.join(os.path.dirname(workload_path), name)
    np.savez(path, **arrays)
    return path


def print_result(seconds: Mapping[str, float], counts: Mapping[str, Any], **more: Any) -> None:
    """Prints what a benchmark reads of a reference.

    Args:
      seconds: CPU-seconds by part.
      counts: what was done, by name.
      **more: `memory` and `segments`, where there are.
    """
    print(json.dumps({"seconds": dict(seconds), "counts": dict(counts), **more}))


def _status_megabytes(field: str) -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024.0
