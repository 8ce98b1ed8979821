"""How large a traced training step is: operators, and what it keeps for its gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, Set

import tensorflow as tf
from kernel_audit import nbytes_of, walk

# Their output is their input in another shape or under another name.
_ALIASES = {"Identity", "Reshape", "ExpandDims", "Squeeze", "EnsureShape", "StopGradient"}
# What is there anyway: weights, inputs, constants.
_NOT_KEPT = {"ReadVariableOp", "Placeholder", "Const"}
_ONLY_SHAPES = {"Shape", "ShapeN", "Size", "Rank"}


@dataclasses.dataclass(frozen=True)
class Budget:
    """The size of a step.

    Attributes:
      operators: number of them, those of inner functions included, a loop's body once.
      kept_bytes: of the forward pass's tensors that the gradient reads, each once; those of unknown
        size are not counted, and of loops only what leaves them.
    """

    operators: int
    kept_bytes: int


def measure(function: Any, forward: int) -> Budget:
    """Measures what `traced.training_step` returns."""
    operators = function.graph.get_operations()
    is_forward = {op.name for op in operators[:forward]}
    is_run = _run_operators(function.graph)
    kept = {}
    for op in operators[forward:]:
        if op.name not in is_run:
            continue
        for tensor in op.inputs if op.type not in _ONLY_SHAPES else []:
            while tensor.op.type in _ALIASES:
                tensor = tensor.op.inputs[0]
            if tensor.op.name in is_forward and tensor.op.type not in _NOT_KEPT:
                kept[tensor.name] = nbytes_of([tensor]) or 0
    count = sum(len(graph.get_operations()) for graph, _, _ in walk(function.graph))
    return Budget(count, sum(kept.values()))


def _run_operators(graph: tf.Graph) -> Set[str]:
    """What the results of a graph need; a gradient through frozen layers is not run."""
    found: Set[str] = set()
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    while waiting:
        op = waiting.pop()
        if op.name not in found:
            found.add(op.name)
            waiting.extend([*(tensor.op for tensor in op.inputs), *op.control_inputs])
    return found
