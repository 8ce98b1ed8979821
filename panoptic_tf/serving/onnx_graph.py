"""What is changed in an ONNX graph after tf2onnx, so that runtimes take it.

`read_unchanged_from_outside`: tf2onnx hands all that the body of a loop reads to it as states, and
the body returns those that it does not change as they came. OpenVINO counts such a state twice and
refuses the file. A body may as well read any value of the graph around it; then nothing is copied
from step to step either.

`round_scales_up`: tf2onnx writes what a resize multiplies sizes with, rounded to float32. ONNX
Runtime infers sizes with more digits and rounds down: from 5 cells times 1.8 it expects 8, not 9,
and refuses the file.
"""

from __future__ import annotations

import fractions
import importlib
from typing import Any, Dict, Iterator, Mapping

import numpy as np

_LARGEST_SIDE = 2048  # of what is resized: two fractions of such sides differ by more than rounding


def read_unchanged_from_outside(graph: Any) -> None:
    """Takes the states that a loop does not change out of it, in place, in bodies of bodies too.

    Args:
      graph: `onnx.GraphProto`. A state stays where it is a result of the graph.
    """
    for node in graph.node:
        if node.op_type == "Loop":
            _take_out(graph, node)
        for body in _bodies(node):
            read_unchanged_from_outside(body)


def round_scales_up(graph: Any) -> None:
    """Raises scales of resizes that are below the quotient of two sizes to the next float32.

    Args:
      graph: `onnx.GraphProto`, changed in place. Of it, not of the bodies of its loops.
    """
    onnx = importlib.import_module("onnx")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    raised: Dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Resize" or node.input[2] not in constants:
            continue
        name = node.input[2]
        if name not in raised:
            scales = onnx.numpy_helper.to_array(constants[name])
            raised[name] = f"{name}/rounded_up"
            tensor = onnx.numpy_helper.from_array(_raise(scales), raised[name])
            graph.initializer.append(tensor)
        node.input[2] = raised[name]
    read = set(_names_read(graph))
    for name in set(raised) - read:
        graph.initializer.remove(constants[name])


def _raise(scales: np.ndarray) -> np.ndarray:
    """float32 [4] -> float32 [4], not below the fractions that they stand for."""
    exact = [fractions.Fraction(float(x)).limit_denominator(_LARGEST_SIDE) for x in scales]
    is_below = [fractions.Fraction(float(x)) < quotient for x, quotient in zip(scales, exact)]
    return np.where(is_below, np.nextafter(scales, np.float32(np.inf)), scales)


def _take_out(graph: Any, loop: Any) -> None:
    """Of one loop: inputs are trip count, condition, states; outputs states and what is stacked.

    Those of its body are step, condition, states; and condition, states, what is stacked.
    """
    (body,) = _bodies(loop)
    results = {value.name for value in graph.output}
    returned = [value.name for value in body.output]
    unchanged = [
        i
        for i, value in enumerate(body.input[2:])
        if returned[1 + i] == value.name
        and returned.count(value.name) == 1
        and loop.output[i] not in results
    ]
    _rename(body, {body.input[2 + i].name: loop.input[2 + i] for i in unchanged})
    _rename(graph, {loop.output[i]: loop.input[2 + i] for i in unchanged})
    for i in reversed(unchanged):
        del loop.input[2 + i], loop.output[i], body.input[2 + i], body.output[1 + i]


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """What its nodes and those of its bodies read."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name:  # Else an optional input that is left out.
                node.input[i] = names.get(name, name)
        for body in _bodies(node):
            _rename(body, names)


def _names_read(graph: Any) -> Iterator[str]:
    """By its nodes and those of its bodies."""
    for node in graph.node:
        yield from node.input
        for body in _bodies(node):
            yield from _names_read(body)


def _bodies(node: Any) -> Iterator[Any]:
    return (attribute.g for attribute in node.attribute if attribute.HasField("g"))
