"""What a network costs: parameters, multiply-adds and activations, part by part.

Read off the traced graph of the inference network; nothing is executed.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory

from panoptic_tf.ops import forms
from panoptic_tf.systems.model import PanopticModel

COUNTING_RULE = """\
One image through the inference network.
parameters: values of all variables that training may change, frozen stages included. Not the
  running statistics of batch normalisation, nor scale and shift of a frozen one: these are buffers.
multiply-adds: one for each multiplication of a convolution (grouped, depthwise, dilated,
  transposed too), dense layer or matrix product; taps on padding count. Biases, normalisation,
  activation functions, resizing and pooling, of regions too, count nothing.
activations: output elements of the same operations.
The post-processor is counted apart and is not in the total."""

POSTPROCESSOR = "postprocessor"
"""Name of the layer that turns raw outputs into a prediction."""

OTHER = "other"
"""Where operations outside every part are counted."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Counts of a part; `COUNTING_RULE` defines them."""

    parameters: int = 0
    buffers: int = 0
    multiply_adds: int = 0
    activations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Costs of a network.

    Attributes:
      input_size: (height, width) of the network's input.
      parts: costs by the first part of the variables' names, in the order of the network's layers;
        `other` only where there is something outside the parts.
      postprocessor: of the post-processor.
      not_counted: operations that the rule counts but whose number is not known before they run.
    """

    input_size: Tuple[int, int]
    parts: Mapping[str, Cost]
    postprocessor: Cost
    not_counted: Sequence[str] = ()

    @property
    def total(self) -> Cost:
        """Of all parts, without the post-processor."""
        return sum(self.parts.values(), Cost())

    def as_dict(self) -> Dict[str, Any]:
        """Content of the JSON file."""
        return {
            "input_size": list(self.input_size),
            "counting_rule": COUNTING_RULE,
            "parts": {name: dataclasses.asdict(cost) for name, cost in self.parts.items()},
            "total": dataclasses.asdict(self.total),
            "postprocessor": dataclasses.asdict(self.postprocessor),
            "not_counted": list(self.not_counted),
        }


def analyze(params: cfg.ExperimentConfig, input_size: Optional[Sequence[int]] = None) -> Analysis:
    """Analyses the network of an experiment.

    Args:
      params: the experiment.
      input_size: (height, width) of the network's input; None is the experiment's.

    Raises:
      ValueError: the network cannot be built at that size.
    """
    size = list(input_size or params.task.model.input_size)
    params = params.replace(task={"model": {"train_size": size, "input_size": size}})
    task = task_factory.get_task(params.task)
    try:
        model = task.build_model()
    except ValueError as error:
        # Keras adds a list of tensors.
        reason = " ".join(str(error).split("Call arguments received")[0].split())
        raise ValueError(
            f"the network cannot be built for an input of {size[0]}x{size[1]} pixels: {reason}"
        ) from error
    return analyze_model(model, (size[0], size[1]))


def analyze_model(model: PanopticModel, input_size: Tuple[int, int]) -> Analysis:
    """Analyses a model that was built for `input_size`.

    Args:
      model: see `PanopticModel`.
      input_size: (height, width) of its inference network's input.
    """
    specs = {
        "image": tf.TensorSpec([1, *input_size, 3], tf.float32),
        "image_info": tf.TensorSpec([1, 4, 2], tf.float32),
    }
    with forms.use(forms.Form.CPU):
        graph = trace(functools.partial(model.inference_network, training=False), specs)
    operations, not_counted = count_operations(graph, [*model.parts, POSTPROCESSOR])
    costs = {
        name: operations.pop(name, Cost()) + count_variables(part)
        for name, part in model.parts.items()
    }
    postprocessor = operations.pop(POSTPROCESSOR, Cost())
    return Analysis(input_size, {**costs, **operations}, postprocessor, not_counted)


def trace(function: Callable[..., Any], *specs: Any) -> tf.Graph:
    """The graph of a function of tensors, with the bodies of the `tf.function`s it calls in place.

    Args:
      function: what to trace.
      *specs: its arguments, with `tf.TensorSpec` in place of tensors.
    """
    # Keras wraps grouped convolutions, for example.
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return tf.function(function, autograph=False).get_concrete_function(*specs).graph
    finally:
        tf.config.run_functions_eagerly(eagerly)


# Variables


def count_variables(part: tf.keras.layers.Layer) -> Cost:
    """Parameters and buffers of a layer."""
    buffers: Set[int] = set()
    for module in (part, *part.submodules):
        if hasattr(module, "moving_mean"):  # batch normalisation of any kind
            buffers.update(weight.ref() for weight in module.non_trainable_weights)
    sizes = {True: 0, False: 0}
    for weight in part.weights:
        sizes[weight.ref() in buffers] += weight.shape.num_elements()
    return Cost(parameters=sizes[False], buffers=sizes[True])


# Operations


def count_operations(
    graph: tf.Graph, parts: Iterable[str]
) -> Tuple[Dict[str, Cost], Tuple[str, ...]]:
    """Multiply-adds and activations of a traced graph.

    Args:
      graph: see `trace`; its tensors have static shapes.
      parts: names of layers; an operation belongs to the outermost that is in its name.

    Returns:
      costs: by part; `other` last, if anything is outside the parts.
      not_counted: descriptions of operations in loops and branches, or of unknown shape.
    """
    names = set(parts)
    costs: Dict[str, Cost] = {}
    not_counted: List[str] = _nested(graph)
    for op in graph.get_operations():
        if op.type not in _COUNTERS:
            continue
        try:
            cost = Cost(multiply_adds=_COUNTERS[op.type](op), activations=_elements(_output(op)))
        except _UnknownShape:
            not_counted.append(f"{op.type} {op.name}: shape not known")
            continue
        part = _part(op.name, names)
        costs[part] = costs.get(part, Cost()) + cost
    if OTHER in costs:
        costs[OTHER] = costs.pop(OTHER)
    return costs, tuple(not_counted)


def _part(op_name: str, parts: set) -> str:
    for scope in op_name.split("/")[:-1]:
        # A layer's second call is named with a number.
        for name in (scope, re.sub(r"_\d+$", "", scope)):
            if name in parts:
                return name
    return OTHER


def _nested(graph: tf.Graph) -> List[str]:
    """Countable operations in the bodies of loops and branches."""
    messages = []
    for function in graph.as_graph_def().library.function:
        types = collections.Counter(node.op for node in function.node_def)
        messages += [
            f"{types[name]} x {name} in {function.signature.name}, which runs any number of times"
            for name in _COUNTERS
            if types[name]
        ]
    return messages


class _UnknownShape(Exception):
    """A shape is not static."""


def _shape(tensor: tf.Tensor) -> List[int]:
    if not tensor.shape.is_fully_defined():
        raise _UnknownShape
    return tensor.shape.as_list()


def _elements(tensor: tf.Tensor) -> int:
    return math.prod(_shape(tensor))


def _output(op: tf.Operation) -> tf.Tensor:
    """What the operation computes for its reader.

    A dilated depthwise convolution runs on cells dealt out into the batch and padded to a multiple
    of the dilation; what BatchToSpaceND cuts off again is no part of the network.
    """
    output = op.outputs[0]
    readers = output.consumers()
    if len(readers) == 1 and readers[0].type == "BatchToSpaceND":
        return readers[0].outputs[0]
    return output


def _convolution(op: tf.Operation) -> int:
    """Kernel [kh, kw, C / groups, D]: every output element sums over all but the last axis."""
    return _elements(_output(op)) * math.prod(_shape(op.inputs[1])[:-1])


def _depthwise(op: tf.Operation) -> int:
    """Kernel [kh, kw, C, multiplier]: every output element sums over the taps."""
    return _elements(_output(op)) * math.prod(_shape(op.inputs[1])[:2])


def _transposed(op: tf.Operation) -> int:
    """Kernel [kh, kw, D, C], input C channels: every input element goes to all taps and D."""
    return _elements(op.inputs[2]) * math.prod(_shape(op.inputs[1])[:3])


def _product(op: tf.Operation, *, transpose: str) -> int:
    """[..., M, K] x [..., K, N]: every output element sums over K."""
    return _elements(op.outputs[0]) * _shape(op.inputs[0])[-2 if op.get_attr(transpose) else -1]


def _einsum(op: tf.Operation) -> int:
    """Every combination of all indices is one multiplication."""
    terms = op.get_attr("equation").decode().split("->")[0].split(",")
    sizes: Dict[str, int] = {}
    for term, tensor in zip(terms, op.inputs):
        shape = _shape(tensor)
        before, dots, after = term.partition("...")
        batch = [f".{i}" for i in range(len(shape) - len(before) - len(after), 0, -1)]
        for label, size in zip([*before, *(batch if dots else []), *after], shape):
            sizes[label] = max(size, sizes.get(label, 1))  # a broadcast axis has 1 on one side
    return math.prod(sizes.values())


_COUNTERS: Dict[str, Callable[[tf.Operation], int]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "MatMul": functools.partial(_product, transpose="transpose_a"),
    "BatchMatMul": functools.partial(_product, transpose="adj_x"),
    "BatchMatMulV2": functools.partial(_product, transpose="adj_x"),
    "BatchMatMulV3": functools.partial(_product, transpose="adj_x"),
    "Einsum": _einsum,
}
