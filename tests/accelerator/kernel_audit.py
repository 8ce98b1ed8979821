"""Where a GPU would hand a graph's work to the CPU, read from TensorFlow's registry of kernels.

No GPU is needed: a build for CUDA registers its kernels without one. Two things are found:
operators that have no GPU kernel, and tensors that are copied between the memories of host and
device because TensorFlow's "GPU" kernels for int32 compute on the host, and int32 arguments and
results of inner functions lie there.

What goes into or comes out of the outermost function is not counted: it is the host's in any case.
What graph optimisation removes afterwards is not seen.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, Iterator, List, Mapping, Optional, Set, Tuple

import tensorflow as tf
from tensorflow.python.framework import kernels, op_def_registry

import panoptic_tf

SMALL = 4096  # bytes; copies up to this are not counted
PACKAGE = pathlib.Path(panoptic_tf.__file__).parent

_CALLS = {"PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf", "Case", "While"}
_CALLS |= {"StatelessCase", "StatelessWhile"}
_ARGUMENTS = {"Placeholder", "PlaceholderWithDefault"}
# Handles, which are the host's everywhere, and what no device takes.
_NOT_COPIED = {tf.resource, tf.variant, tf.string}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One operator that computes on the host.

    Attributes:
      operator: its type, e.g. `AddV2`. Of a copy that which is on the host; where that is an
        argument or a result of an inner function, its reader or its maker.
      file: where it is written, relative to `root`; empty where no frame is below it.
      line: in that file, from 1.
      nbytes: of the tensor that is copied, of an operator without a kernel all its inputs and
        outputs; None where a size is not known.
      loops: number of loops around it.
    """

    operator: str
    file: str
    line: int
    nbytes: Optional[int]
    loops: int


@dataclasses.dataclass(frozen=True)
class KernelAudit:
    """What `audit` finds.

    Attributes:
      without_kernel: operators that have no GPU kernel.
      copies: tensors that int32 takes from one memory to the other, each once.
    """

    without_kernel: List[Finding]
    copies: List[Finding]


def has_gpu_kernels() -> bool:
    """Whether this TensorFlow is built for CUDA."""
    return any(kernel.device_type == "GPU" for kernel in _registered("MatMul"))


def audit(function: Any, *, small: int = SMALL, root: pathlib.Path = PACKAGE) -> KernelAudit:
    """Audits a concrete function and all functions that it calls.

    Args:
      function: a `ConcreteFunction`.
      small: copies up to this many bytes are left out; those of unknown size stay.
      root: the folder whose lines of code are named.
    """
    found = KernelAudit([], [])
    for graph, loops, is_inner in walk(function.graph):
        _audit_graph(graph, loops, is_inner, found, small, root)
    return found


def walk(
    graph: tf.Graph, loops: int = 0, is_inner: bool = False
) -> Iterator[Tuple[tf.Graph, int, bool]]:
    """A graph and those of all functions it calls, with the number of loops around each."""
    yield graph, loops, is_inner
    for op in graph.get_operations():
        for name in _functions_of(op.node_def):
            inner = graph._get_function(name).graph  # pylint: disable=protected-access
            yield from walk(inner, loops + (op.type in ("While", "StatelessWhile")), True)


def _functions_of(node: Any) -> List[str]:
    if node.op not in _CALLS:
        return []  # Gradient functions and reducers of data sets are not the graph's own work.
    names = []
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            names.append(value.func.name)
        names.extend(f.name for f in value.list.func)
    return names


def _audit_graph(
    graph: tf.Graph, loops: int, is_inner: bool, found: KernelAudit, small: int, root: pathlib.Path
) -> None:
    places = {op.name: _Places(op) for op in graph.get_operations()}
    for op in graph.get_operations():
        if not places[op.name].has_kernel:
            nbytes = nbytes_of([*op.inputs, *op.outputs])
            found.without_kernel.append(Finding(op.type, *_line(op, root), nbytes, loops))
    copied = set()
    for tensor, op in _copies(graph, places, is_inner):
        nbytes = nbytes_of([tensor])
        if tensor.name not in copied and (nbytes is None or nbytes > small):
            copied.add(tensor.name)
            found.copies.append(Finding(op.type, *_line(op, root), nbytes, loops))


def _copies(
    graph: tf.Graph, places: Mapping[str, _Places], is_inner: bool
) -> Iterator[Tuple[tf.Tensor, tf.Operation]]:
    """Tensors that lie on one side and are read on the other, with the operator to blame."""
    results = set() if is_inner else {t.op.name for t in graph.outputs if t.op.type == "Identity"}
    for op in graph.get_operations():
        here = places[op.name]
        if op.name in results or not here.has_kernel:
            continue
        for tensor, wants_host in zip(op.inputs, here.host_inputs):
            source = places[tensor.op.name]
            is_argument = tensor.op.type in _ARGUMENTS
            if not source.has_kernel or tensor.dtype in _NOT_COPIED:
                continue
            if wants_host == source.host_outputs[tensor.value_index]:
                continue
            if is_inner or not is_argument:
                yield tensor, op if wants_host or is_argument else tensor.op
    for tensor in graph.outputs if is_inner else []:
        if tensor.dtype == tf.int32 and not places[tensor.op.name].host_outputs[tensor.value_index]:
            yield tensor, tensor.op


class _Places:
    """Whether an operator has a GPU kernel, and which of its tensors this keeps on the host."""

    def __init__(self, op: tf.Operation):
        self.has_kernel = True
        if op.type in _CALLS or op.type in _ARGUMENTS:
            self.host_inputs = [t.dtype == tf.int32 for t in op.inputs]
            self.host_outputs = [t.dtype == tf.int32 for t in op.outputs]
            if op.type in ("If", "StatelessIf", "Case", "StatelessCase"):
                self.host_inputs[0] = True
            return
        node = op.node_def
        kernel = _gpu_kernel(node)
        self.has_kernel = kernel is not None
        names = set(kernel.host_memory_arg) if kernel else set()
        definition = op_def_registry.get(op.type)
        self.host_inputs = _expand(definition.input_arg, node, names, not kernel)
        self.host_outputs = _expand(definition.output_arg, node, names, not kernel)


def _expand(arguments: Any, node: Any, host_names: Set[str], on_host: bool) -> List[bool]:
    """Of each tensor, whether it is the host's: an argument may stand for several."""
    places = []
    for argument in arguments:
        count = 1
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        places.extend([on_host or argument.name in host_names] * count)
    return places


@functools.cache
def _registered(operator: str) -> Tuple[Any, ...]:
    return tuple(kernels.get_registered_kernels_for_op(operator).kernel)


def _gpu_kernel(node: Any) -> Optional[Any]:
    """The kernel that a GPU takes: its own, or one for all devices."""
    for device in ("GPU", "DEFAULT"):
        fitting = [
            kernel
            for kernel in _registered(node.op)
            if kernel.device_type == device and not kernel.label and _fits(kernel, node)
        ]
        if fitting:
            return max(fitting, key=lambda kernel: kernel.priority)
    return None


def _fits(kernel: Any, node: Any) -> bool:
    for constraint in kernel.constraint:
        value = node.attr[constraint.name]
        is_one = value.WhichOneof("value") == "type"
        types = [value.type] if is_one else value.list.type
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def nbytes_of(tensors: List[tf.Tensor]) -> Optional[int]:
    """Their size together, None where one is not known."""
    total = 0
    for tensor in tensors:
        if tensor.dtype in _NOT_COPIED:
            continue
        count = tensor.shape.num_elements()
        if count is None:
            return None
        total += count * tensor.dtype.size
    return total


def _line(op: tf.Operation, root: pathlib.Path) -> Tuple[str, int]:
    """The innermost frame below `root`."""
    for frame in reversed(op.traceback or []):
        path = pathlib.Path(frame.filename)
        if root in path.parents:
            return path.relative_to(root).as_posix(), frame.lineno
    return "", 0
