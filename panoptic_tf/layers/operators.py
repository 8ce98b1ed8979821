"""Which operators a graph may hold, and where it runs.

All operators of TensorFlow, only those that TFLite has built in, or only those that XLA
compiles; on CPU, or on something faster.

Some layers have a fast form that neither TFLite nor XLA can run and a portable form that computes
the same. The converter traces the network in `builtin_operators_only`, a training step that XLA
compiles is traced in `compiled_by_xla`; a layer asks when it is traced.
"""

from __future__ import annotations

import contextlib
import threading
from typing import ContextManager, Iterator, Optional

import tensorflow as tf

_state = threading.local()


def only_builtin_operators() -> bool:
    """Whether the graph that is being traced is for TFLite; its batch and shapes are static."""
    return _compiler() == "tflite"


def only_xla_operators() -> bool:
    """Whether the graph that is being traced is for XLA; its batch and shapes are static."""
    return _compiler() == "xla"


def only_portable_operators() -> bool:
    """Whether it is for one of the two."""
    return _compiler() is not None


def builtin_operators_only() -> ContextManager[None]:
    """Layers called within this context build their portable form, for TFLite."""
    return _tracing_for("tflite")


def compiled_by_xla() -> ContextManager[None]:
    """Layers called within this context build their portable form, for XLA."""
    return _tracing_for("xla")


def _compiler() -> Optional[str]:
    return getattr(_state, "compiler", None)


@contextlib.contextmanager
def _tracing_for(compiler: str) -> Iterator[None]:
    before = _compiler()
    _state.compiler = compiler
    try:
        yield
    finally:
        _state.compiler = before


def has_accelerator() -> bool:
    """Whether TensorFlow sees a device that is no CPU."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def needs_static_shapes() -> bool:
    """Whether all sizes must be known when the graph is built: for TFLite, XLA and off the CPU.

    There a form that does the same work whatever the data is the faster one, or the only one.
    """
    return only_portable_operators() or has_accelerator()
