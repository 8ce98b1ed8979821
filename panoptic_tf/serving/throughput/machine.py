"""The machine that something is measured on, and what a process of it needs of memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import sys
from typing import Any, Dict, Optional, Set

import tensorflow as tf

_RELEVANT_FLAGS = (
    # x86
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_fp16",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    # ARM
    "asimd",
    "asimddp",
    "sve",
    "i8mm",
    "bf16",
)
_RUNTIMES = ("ai-edge-litert", "onnxruntime")


def describe() -> Dict[str, Any]:
    """The properties of the machine that a speed depends on, as in the JSON report.

    Returns:
      `cpu` (its name, on x86 with family and model), `cpus` (those that this process may use),
      `cpu_flags` (those of fast products), `gpus`, `python`, `versions` of TensorFlow and of the
      other runtimes that are installed, `load_average` (processes that ran in the last minute,
      before anything is measured; null where the system does not count them).
    """
    flags = cpu_flags()
    return {
        "cpu": _cpu(),
        "cpus": _usable_cpus(),
        "cpu_flags": [flag for flag in _RELEVANT_FLAGS if flag in flags],
        "gpus": [_gpu_name(gpu) for gpu in tf.config.list_physical_devices("GPU")],
        "python": platform.python_version(),
        "versions": {
            "tensorflow": tf.__version__,
            **{name: v for name in _RUNTIMES for v in [_version(name)] if v},
        },
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def cpu_flags() -> Set[str]:
    """What the CPU says that it can do; nothing where there is no /proc/cpuinfo."""
    return set((_cpu_info("flags|Features") or "").split())


def peak_memory() -> int:
    """Bytes of memory that this process has had at most."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            found = re.search(r"^VmHWM:\s*(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        found = None
    if found:  # The other counter starts with what the parent had.
        return int(found[1]) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _cpu() -> str:
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    family, model = _cpu_info("cpu family"), _cpu_info("model")
    # Models of one name may differ.
    return f"{name}, family {family}, model {model}" if family and model else name


def _cpu_info(field: str) -> Optional[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(rf"^(?:{field})\s*: *(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu_name(gpu: tf.config.PhysicalDevice) -> str:
    return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)


def _version(package: str) -> Optional[str]:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
