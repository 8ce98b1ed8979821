"""The operators of a .tflite model: what kind, of which layer, who reads whose output."""

from __future__ import annotations

import re
from typing import Any, Iterator, List, Mapping, NamedTuple, Sequence, Set, Tuple

import flatbuffers
from tensorflow.lite.python import schema_py_generated as schema

_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
_IDENTIFIER = b"TFL3"
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


class Operator(NamedTuple):
    """One operator.

    Attributes:
      kind: as TFLite names it, `CONV_2D`.
      name: of its first output; starts with the layer's.
      inputs: numbers of the tensors that it computes with, without constants.
      outputs: numbers of tensors.
      shape: of its first output.
      has_weights: whether its second input is a constant, float32 or int8.
      is_int8: whether its first output is.
    """

    kind: str
    name: str
    inputs: Tuple[int, ...]
    outputs: Tuple[int, ...]
    shape: Tuple[int, ...]
    has_weights: bool
    is_int8: bool


def read_operators(model: bytes) -> List[List[Operator]]:
    """The operators of every graph in a model, in the order in which they run.

    The first graph is the model's; the others are the bodies of its loops.
    """
    parsed = _parse(model)
    return [
        [_read(parsed, graph, operator) for operator in graph.operators or []]
        for graph in parsed.subgraphs
    ]


def cut(model: bytes, outputs: Sequence[int]) -> bytes:
    """The part of a model that computes some tensors of its first graph, which become its outputs.

    Args:
      model: the file.
      outputs: numbers of tensors.

    Returns:
      A model with the same inputs and without signatures.
    """
    parsed = _parse(model)
    graph = parsed.subgraphs[0]
    chosen = _needed(read_operators(model)[0], outputs)
    return _pack(_reduced(parsed, chosen, inputs=graph.inputs, outputs=outputs))


def network_part(model: bytes, layers: Sequence[str]) -> bytes:
    """The operators of some layers alone, with the conversions of dtype around them.

    Inputs are what the layers read of others, outputs what others read of them: where layers come
    before and after regions are pooled, both parts are in it and the pooling is not.

    Args:
      model: the file.
      layers: names of layers.

    Returns:
      A model without signatures.
    """
    operators = read_operators(model)[0]
    inside = layer_pattern(layers)
    chosen = {i for i, o in enumerate(operators) if inside.match(o.name)}
    read = {t for i in chosen for t in operators[i].inputs}
    written = {t for i in chosen for t in operators[i].outputs}
    for i, o in enumerate(operators):
        if o.kind in _CONVERSIONS and (
            read.intersection(o.outputs) or written.intersection(o.inputs)
        ):
            chosen.add(i)
    read = {t for i in chosen for t in operators[i].inputs}
    written = {t for i in chosen for t in operators[i].outputs}
    read_by_others = {t for i, o in enumerate(operators) if i not in chosen for t in o.inputs} | (
        written - read
    )
    inputs, outputs = sorted(read - written), sorted(written & read_by_others)
    return _pack(_reduced(_parse(model), chosen, inputs=inputs, outputs=outputs))


def single_operators(model: bytes) -> Iterator[Tuple[Operator, bytes]]:
    """Each operator of the first graph that computes with tensors, and a model of it alone."""
    parsed = _parse(model)
    graph = parsed.subgraphs[0]
    every = list(graph.operators)
    for operator, found in zip(read_operators(model)[0], every):
        if operator.inputs:
            graph.operators = [found]
            yield (
                operator,
                _pack(_reduced(parsed, {0}, inputs=operator.inputs, outputs=operator.outputs)),
            )


def layer_pattern(layers: Sequence[str]) -> re.Pattern[str]:
    """Matches the names of the operators of some layers of a network."""
    names = "|".join(map(re.escape, layers))
    return re.compile(rf"(?:[^/;]+/)?(?:{names})(?:_\d+)?(?:[/;]|$)")


def with_ranges(model: bytes, ranges: Mapping[int, Tuple[float, float]]) -> bytes:
    """Writes the smallest and the largest value of tensors of the first graph into a model.

    Args:
      model: the file.
      ranges: (smallest, largest) by the number of the tensor.
    """
    parsed = _parse(model)
    for number, (smallest, largest) in ranges.items():
        parameters = schema.QuantizationParametersT()
        parameters.min, parameters.max = [smallest], [largest]
        parsed.subgraphs[0].tensors[number].quantization = parameters
    return _pack(parsed)


def _needed(operators: Sequence[Operator], outputs: Sequence[int]) -> Set[int]:
    """Numbers of the operators that the tensors depend on."""
    needed, tensors = set(), set(outputs)
    for i in reversed(range(len(operators))):  # An operator comes after those it reads.
        if tensors.intersection(operators[i].outputs):
            needed.add(i)
            tensors.update(operators[i].inputs)
    return needed


def _reduced(
    parsed: Any, chosen: Set[int], *, inputs: Sequence[int], outputs: Sequence[int]
) -> Any:
    graph = parsed.subgraphs[0]
    graph.operators = [graph.operators[i] for i in sorted(chosen)]
    graph.inputs, graph.outputs = list(inputs), list(outputs)
    parsed.signatureDefs = []
    return parsed


def _parse(model: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def _pack(parsed: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(parsed.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _read(model: Any, graph: Any, operator: Any) -> Operator:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    inputs = [i for i in operator.inputs if i >= 0]
    first = graph.tensors[operator.outputs[0]] if len(operator.outputs) else None
    return Operator(
        kind=_NAMES.get(number, str(number)),
        name="" if first is None else first.name.decode(),
        inputs=tuple(int(i) for i in inputs if not _is_constant(model, graph, i)),
        outputs=tuple(int(i) for i in operator.outputs),
        shape=() if first is None or first.shape is None else tuple(map(int, first.shape)),
        has_weights=len(inputs) > 1 and _is_weight(model, graph, inputs[1]),
        is_int8=first is not None and first.type == schema.TensorType.INT8,
    )


def _is_constant(model: Any, graph: Any, tensor: int) -> bool:
    data = model.buffers[graph.tensors[tensor].buffer].data
    return data is not None and len(data) > 0


def _is_weight(model: Any, graph: Any, tensor: int) -> bool:
    types = (schema.TensorType.FLOAT32, schema.TensorType.INT8)
    return graph.tensors[tensor].type in types and _is_constant(model, graph, tensor)
