"""Which operators a graph may hold, and where it runs.

All operators of TensorFlow, or only those that TFLite has built in; on CPU, or on something faster.

Some layers have a fast form that TFLite cannot run and a portable form that computes the same. The
converter traces the network in `builtin_operators_only`; a layer asks when it is traced.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Iterator

import tensorflow as tf

_state = threading.local()


def only_builtin_operators() -> bool:
    """Whether the graph that is being traced is for TFLite; its batch and shapes are static."""
    return getattr(_state, "only_builtin", False)


@contextlib.contextmanager
def builtin_operators_only() -> Iterator[None]:
    """Layers called within this context build their portable form."""
    before = only_builtin_operators()
    _state.only_builtin = True
    try:
        yield
    finally:
        _state.only_builtin = before


def has_accelerator() -> bool:
    """Whether TensorFlow sees a device that is no CPU."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
