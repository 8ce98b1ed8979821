"""What the speed benchmarks share: two commands in turns, medians of seconds, their table.

Both sides get the same workload, a file of arrays, and run in turn in processes of their own. The
reference is the benchmark's script in `references/`, run by `--reference_python`, or any other
command. It prints JSON that ends its output:
`{"seconds": {<part>: ..., ...}, "counts": {<what was done>: ..., ...}, "memory": {<part>: ...}}`,
the last where it measures memory: megabytes by name, see `measuring.megabytes_of`.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf
from absl import app, flags
from references import measuring

from panoptic_tf.ops import forms
from panoptic_tf.serving.throughput import machine
from panoptic_tf.training.machine import cpu_form

Workload = Dict[str, np.ndarray]
Turns = Dict[str, List[Dict[str, Any]]]

_PRODUCT_SIZE = 1024
_PRODUCTS = 20

_THREADS = flags.DEFINE_integer("threads", 1, "Of an operation. Of several, wall-clock time.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 7, "Of each measurement; the median counts.")
_ROUNDS = flags.DEFINE_integer("rounds", 1, "How often both sides take their turn.")
_REFERENCE_PYTHON = flags.DEFINE_string(
    "reference_python", None, "Python of an environment where the reference is installed."
)
_REFERENCE = flags.DEFINE_string(
    "reference_command",
    None,
    "Measures another implementation; {workload}, {threads}, {repetitions}, {precision} are filled "
    "in.",
)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "What networks compute in, on both sides."
)
# What both sides are told.
_SETTINGS = {"threads": _THREADS, "repetitions": _REPETITIONS, "precision": _PRECISION}
_FORM = flags.DEFINE_enum(
    "form",
    None,
    ["cpu", "cpu_avx2", "accelerator"],
    "Of our operations: see docs/design.md; by default what training takes on this CPU.",
)
_WORKLOAD = flags.DEFINE_string(
    "workload", None, "File of a workload: measure ours on it and print JSON. For the turns."
)


def run(
    argv: Sequence[str],
    *,
    title: str,
    build: Callable[[], Workload],
    measure: Callable[[Workload], Dict[str, Any]],
    rows: Mapping[str, Sequence[str]],
    reference: str = "",
    compare: Optional[Callable[[Turns], None]] = None,
) -> None:
    """The `main` of a benchmark.

    Args:
      argv: of `main`; the script starts itself again for its own turns.
      title: of the table.
      build: makes the workload.
      measure: measures ours on it, in this process; `seconds` and `counts`, by name of some of
        `seconds` `multiply_adds`.
      rows: parts whose seconds a row of the table sums, by the row's name; a row of a part that
        ours did not measure is left out.
      reference: file in `references/` for `--reference_python`; none if it takes more arguments.
      compare: prints more about what both sides printed.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _WORKLOAD.value:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        policy = "" if _PRECISION.value == "float32" else "mixed_"
        tf.keras.mixed_precision.set_global_policy(policy + _PRECISION.value)
        with forms.use(form()):
            measured = measure(dict(np.load(_WORKLOAD.value)))
        print(json.dumps({**measured, "rates": product_rates()}))
        return
    commands = {"ours": [sys.executable, os.path.abspath(argv[0]), *sys.argv[1:]]}
    if _REFERENCE.value or _REFERENCE_PYTHON.value:
        commands["reference"] = _reference_command(reference)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "workload.npz")
        np.savez(path, **build())
        commands["ours"].append(f"--workload={path}")
        settings = {"workload": path, **{name: flag.value for name, flag in _SETTINGS.items()}}
        turns: Turns = {side: [] for side in commands}
        for _ in range(_ROUNDS.value):
            for side, command in commands.items():
                turns[side].append(_run([part.format(**settings) for part in command]))
        unit = "CPU-seconds" if _THREADS.value == 1 else "wall-clock seconds"
        print(f"{title}, {_PRECISION.value}, {_THREADS.value} thread(s); {unit}")
        _print_table(turns, rows)
        _print_machine(turns["ours"])
        if compare:
            compare(turns)


def form() -> forms.Form:
    """What `--form` says."""
    return forms.Form(_FORM.value) if _FORM.value else cpu_form()


def _reference_command(script: str) -> List[str]:
    if _REFERENCE.value:
        return shlex.split(_REFERENCE.value)
    if not script:
        raise app.UsageError("--reference_python does not do here; give --reference_command.")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "references", script)
    settings = [f"--{name}={{{name}}}" for name in ("workload", *_SETTINGS)]
    return [_REFERENCE_PYTHON.value, path, *settings]


def seconds_of(function: Callable[[], Any]) -> float:
    """See `measuring.seconds_of`; the first call that warms up traces, too."""

    def run() -> None:
        tf.nest.map_structure(lambda x: x.numpy(), function())

    return measuring.seconds_of(run, _REPETITIONS.value, _THREADS.value)


def product_rates() -> Dict[str, float]:
    """How many 1e9 operations a second, of all threads, a large matrix product makes, by type.

    The best of many short ones: what else the machine does must not count.
    """
    rates = {}
    for dtype in (tf.float32, tf.bfloat16):
        matrix = tf.ones([_PRODUCT_SIZE, _PRODUCT_SIZE], dtype)
        product = functools.partial(tf.matmul, matrix, matrix)
        seconds = min(measuring.seconds_of(product, 1, _THREADS.value) for _ in range(_PRODUCTS))
        rates[dtype.name] = 2e-9 * _PRODUCT_SIZE**3 / seconds
    return rates


def write_beside_workload(name: str, **arrays: np.ndarray) -> str:
    """Writes arrays into the folder of the workload, which lives as long as the turns."""
    return measuring.write_beside_workload(_WORKLOAD.value, name, **arrays)


def select_tensors(workload: Workload, prefix: str) -> Dict[str, tf.Tensor]:
    """Arrays of a workload whose names start with a prefix, without it."""
    found = {key: value for key, value in workload.items() if key.startswith(prefix)}
    return {key[len(prefix) :]: tf.constant(value) for key, value in found.items()}


def print_memory(turns: Turns) -> None:
    """Prints what the parts take on each side."""
    for side, (first, *_) in turns.items():
        for part, megabytes in first.get("memory", {}).items():
            cells = ", ".join(f"{value:.0f} MB {what}" for what, value in megabytes.items())
            print(f"{side}, {part}: {cells}")


def _print_machine(ours: List[Dict[str, Any]]) -> None:
    """The processor, the rate of its matrix products, and what part of it a network reaches."""
    described = machine.describe()
    rates = {name: max(one["rates"][name] for one in ours) for name in ours[0]["rates"]}
    print(f"{described['cpu']}, {', '.join(described['cpu_flags'])}")
    print("matrix product:", *(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items()))
    for name, count in ours[0].get("multiply_adds", {}).items():
        rate = 2e-9 * count / statistics.median(one["seconds"][name] for one in ours)
        share = rate / rates[_PRECISION.value]
        print(
            f"{name}: {count / 1e9:.1f}e9 multiply-adds, {rate:.0f} GFLOP/s, {share:.2f} of "
            f"{_PRECISION.value}"
        )


def _run(command: List[str]) -> Dict[str, Any]:
    """Runs a command that prints JSON last, in one line or in many."""
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    start = output.rfind('{"seconds"')
    if start < 0:
        raise ValueError(f"{command[:3]} printed no seconds: {output[-300:]!r}")
    return json.loads(output[start:])


def _print_table(turns: Turns, rows: Mapping[str, Sequence[str]]) -> None:
    print("".join(f"{title:>24}" for title in ["", *turns, "ratio"]))
    for name, parts in rows.items():
        if not set(parts) <= set(turns["ours"][0]["seconds"]):
            continue
        medians = []
        for found in turns.values():
            # A reference that computes the targets inside the step has none of its own.
            values = [sum(one["seconds"].get(part, 0.0) for part in parts) for one in found]
            medians.append(statistics.median(values))
        ratio = f"{medians[0] / medians[1]:.2f}" if len(medians) > 1 and medians[1] else "-"
        cells = [name, *(f"{value:.3f}" for value in medians), ratio]
        print("".join(f"{cell:>24}" for cell in cells))
    counts = {side: found[0]["counts"] for side, found in turns.items()}
    for side, found in counts.items():
        print(f"{side}: {found}")
    # A reference that measures all of its parts counts more.
    ours = counts["ours"]
    if any(
        found.get(name, number) != number
        for found in counts.values()
        for name, number in ours.items()
    ):
        print("The sides did not do the same work.")
