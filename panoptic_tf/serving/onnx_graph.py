"""Loops of an ONNX graph read from outside what they do not change.

tf2onnx hands all that the body of a loop reads to it as states, and the body returns those that it
does not change as they came. OpenVINO counts such a state twice and refuses the file. A body may
as well read any value of the graph around it; then nothing is copied from step to step either.
"""

from __future__ import annotations

from typing import Any, Iterator, Mapping


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


def _bodies(node: Any) -> Iterator[Any]:
    return (attribute.g for attribute in node.attribute if attribute.HasField("g"))
