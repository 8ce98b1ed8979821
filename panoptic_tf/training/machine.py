"""What this machine has to train with."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from typing import List, Optional

import tensorflow as tf
from official.core import config_definitions as cfg

from panoptic_tf.ops import forms
from panoptic_tf.serving.throughput.machine import cpu_flags

_DEFAULT_GPU_MEMORY = 8 << 30
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine, as a recipe sees it.

    Attributes:
      num_gpus: GPUs that TensorFlow sees.
      memory_bytes: memory of its smallest GPU; without GPUs that of the machine, or of the
        container that this process runs in.
      has_bfloat16: whether it multiplies bfloat16 faster than float32.
      host_memory_bytes: memory of the machine or container, which holds what is cached.
    """

    num_gpus: int
    memory_bytes: int
    has_bfloat16: bool
    host_memory_bytes: int

    @property
    def precision(self) -> str:
        """What networks are trained in fastest: `bfloat16` or `float32`."""
        return "bfloat16" if self.has_bfloat16 else "float32"

    @property
    def description(self) -> str:
        """A few words."""
        gigabytes = f"{self.memory_bytes / 2**30:.0f} GiB"
        if not self.num_gpus:
            return f"the CPU, {gigabytes}"
        return f"{self.num_gpus} GPU{'s' if self.num_gpus > 1 else ''} of {gigabytes}"


def cpu_form() -> forms.Form:
    """The form of operations with which CPUs like this machine's train fastest."""
    flags = cpu_flags()
    return forms.Form.CPU_AVX2 if "avx2" in flags and "avx512f" not in flags else forms.Form.CPU


def find_machine() -> Machine:
    """Looks at the machine that this process runs on."""
    gpus, memory = tf.config.list_physical_devices("GPU"), _machine_memory()
    if not gpus:
        return Machine(0, memory, bool(_BFLOAT16_FLAGS & cpu_flags()), memory)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capabilities = [d.get("compute_capability", (0, 0)) for d in details]
    return Machine(
        len(gpus), _gpu_memory() or _DEFAULT_GPU_MEMORY, min(capabilities) >= (8, 0), memory
    )


def precision_misfits(runtime: cfg.RuntimeConfig) -> List[str]:
    """What is slow about a precision on this machine, one line or none.

    Args:
      runtime: of an experiment; TPUs are not this machine.
    """
    is_slow = runtime.mixed_precision_dtype == "bfloat16" and not find_machine().has_bfloat16
    if not is_slow or runtime.distribution_strategy == "tpu":
        return []
    return [
        "runtime.mixed_precision_dtype is bfloat16, which this machine does not multiply: "
        "--mixed_precision=float32 takes less time."
    ]


def _machine_memory() -> int:
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            with open(path, encoding="ascii") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):  # No such limit; "max".
            continue
    return min(limits)


def _gpu_memory() -> Optional[int]:
    """Of the smallest; TensorFlow itself tells only by taking it."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    megabytes = [int(number) for number in re.findall(r"\d+", text)]
    return min(megabytes) << 20 if megabytes else None
