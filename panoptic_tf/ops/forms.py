"""The forms of an operation: one exact reference, and tuned ones beside it.

The reference of an operation is plain and runs on every device; it is what accelerators and XLA
get. A tuned form computes the same for a CPU, or of the operators that TFLite has. Whoever builds a
graph says what it is for; no operation looks at the machine.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import threading
from typing import Any, Callable, Dict, Iterator, Mapping, TypeVar

import tensorflow as tf

Function = TypeVar("Function", bound=Callable[..., Any])


class Form(enum.Enum):
    """What a graph is for.

    Attributes:
      ACCELERATOR: GPUs, TPUs and whatever XLA compiles: the references.
      CPU: CPUs without XLA.
      CPU_AVX2: the same where they have AVX2 but not AVX512, for training; what has no form of its
        own for them takes that for CPUs.
      TFLITE: TFLite's builtin operators; shapes are static, the batch included.
      ONNX: operators that ONNX and its runtimes define alike.
    """

    ACCELERATOR = "accelerator"
    CPU = "cpu"
    CPU_AVX2 = "cpu_avx2"
    TFLITE = "tflite"
    ONNX = "onnx"


_state = threading.local()
_tuned: Dict[str, Dict[Form, Callable[..., Any]]] = {}


def current() -> Form:
    """The form of what is traced in this thread; without `use` the references."""
    return getattr(_state, "form", Form.ACCELERATOR)


@contextlib.contextmanager
def use(form: Form) -> Iterator[None]:
    """Operations called in this thread within the context take this form, where they have it."""
    before = current()
    _state.form = form
    try:
        yield
    finally:
        _state.form = before


def op(reference: Function) -> Function:
    """Makes a function an operation, which calls the form in use; the function is its reference."""
    name = _name(reference)
    forms: Dict[Form, Callable[..., Any]] = {Form.ACCELERATOR: reference}
    _tuned[name] = forms

    @functools.wraps(reference)
    @tf.autograph.experimental.do_not_convert
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        form = current()
        if form is Form.CPU_AVX2 and form not in forms:
            form = Form.CPU
        return forms.get(form, reference)(*args, **kwargs)

    return dispatch  # type: ignore[return-value]


def reference_of(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The reference of an operation, for forms that differ from it in some cases only."""
    return _tuned[_name(operation)][Form.ACCELERATOR]


def register(operation: Callable[..., Any], *for_forms: Form) -> Callable[[Function], Function]:
    """Decorates a tuned form of an operation, of the same arguments and results.

    Raises:
      ValueError: the operation has that form already.
    """
    forms = _tuned[_name(operation)]

    def add(function: Function) -> Function:
        for form in for_forms:
            if form in forms:
                raise ValueError(f"{_name(operation)} has a form for {form.value} already.")
            forms[form] = function
        return function

    return add


def registered() -> Mapping[str, Mapping[Form, Callable[..., Any]]]:
    """The forms of every operation, by its name `<module>.<function>`."""
    return {name: dict(forms) for name, forms in _tuned.items()}


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
