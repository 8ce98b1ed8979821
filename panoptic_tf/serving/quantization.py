"""int8 for the layers with weights and for what lies between them, float32 for all else.

The converter's own full-integer mode quantises whatever it can, boxes, scores and offsets included,
and its calibration does not survive the loops of a post-processor. Here ranges are measured on the
float32 file itself, and the operators to quantise are chosen one by one:

- convolutions, transposed convolutions and dense layers of the network's layers that have weights;
- what computes nothing new and lies between two of those: sums, ReLU, pooling, padding, resizing,
  concatenation.

So whatever follows the last convolution of a head is float32. Weights are quantised by output
channel, activations by tensor; see the quantiser of TensorFlow Lite (arXiv:1712.05877).
"""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import convert

from panoptic_tf.datasets import files
from panoptic_tf.serving import tflite_graph
from panoptic_tf.serving.tflite_graph import Operator

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
"""Operators that are quantised for their own sake."""

BETWEEN = (
    *("ADD", "RELU", "RELU6", "CONCATENATION", "PAD", "RESHAPE", "STRIDED_SLICE", "MEAN"),
    *("MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
)
"""Operators that are quantised between two of those."""

Inputs = Dict[str, np.ndarray]
ReadInputs = Callable[[], Iterator[Inputs]]
Ranges = Dict[int, Tuple[float, float]]


class Options(NamedTuple):
    """How to quantise.

    Attributes:
      read_inputs: the images to calibrate with; see `calibration.read_inputs`.
      float_layers: see `make_plan`.
      report_path: file for the errors of the layers; see `layer_statistics`.
    """

    read_inputs: ReadInputs
    float_layers: str
    report_path: Optional[str] = None


class Plan(NamedTuple):
    """What becomes int8, by number of the operator in the first graph.

    Attributes:
      operators: of the first graph.
      weighted: those with weights that become int8.
      between: those between them.
      kept: those with weights that stay float32.
      others: names of everything that must not be touched, loops included.
    """

    operators: List[Operator]
    weighted: Set[int]
    between: Set[int]
    kept: Set[int]
    others: List[str]


def pattern_of(layers: Sequence[str]) -> str:
    """A regular expression that finds the operators of some layers: `float_layers` of `make_plan`.

    Args:
      layers: ends of their names, as regular expressions.
    """
    names = rf"(?:{'|'.join(layers)})(?:/conv)?"
    # A bias of zeros is dropped. A product's name also occurs behind the names of other operators.
    return rf"{names}/BiasAdd|^[^;]*{names}/(?:Conv2D|MatMul)"


def quantize_model(model: bytes, *, layers: Sequence[str], options: Options) -> bytes:
    """Plans, calibrates, quantises, reports.

    Args:
      model: float32 .tflite file.
      layers: names of the network's layers whose weights may become int8.
      options: see there.

    Returns:
      The int8 file's content; inputs and outputs stay float32.

    Raises:
      ValueError: see `make_plan` and `measure_ranges`.
    """
    plan = make_plan(model, layers=layers, float_layers=options.float_layers)
    ranges = measure_ranges(model, plan, options.read_inputs)
    if options.report_path:
        table = layer_statistics(model, plan, ranges, options.read_inputs)
        files.write_bytes(options.report_path, table.encode())
    return quantize(model, plan, ranges)


def make_plan(model: bytes, *, layers: Sequence[str], float_layers: str = "") -> Plan:
    """Chooses the operators.

    Args:
      model: float32 .tflite file.
      layers: names of the network's layers whose weights may become int8.
      float_layers: regular expression; an operator with weights in whose name it is found stays
        float32. Names are those of the layers, with those of what was fused into the operator.

    Raises:
      ValueError: no operator is left, or `float_layers` is not a regular expression.
    """
    keep_float = _compile(float_layers) if float_layers else None
    operators, *loops = tflite_graph.read_operators(model)
    inside = tflite_graph.layer_pattern(layers)
    candidates = {
        i
        for i, o in enumerate(operators)
        if o.kind in WEIGHTED and o.has_weights and inside.match(o.name)
    }
    kept = {i for i in candidates if keep_float and keep_float.search(operators[i].name)}
    weighted = candidates - kept
    if not weighted:
        raise ValueError(
            f"int8 leaves nothing to quantise: of {len(candidates)} operators with weights in "
            f"{', '.join(layers)}, {len(kept)} match float_layers {float_layers!r}."
        )
    between = _between(operators, weighted)
    chosen = weighted | between
    others = [o.name for i, o in enumerate(operators) if i not in chosen]
    others += [o.name for graph in loops for o in graph]
    return Plan(operators, weighted, between, kept, others)


def measure_ranges(model: bytes, plan: Plan, read_inputs: ReadInputs) -> Ranges:
    """Smallest and largest value of every tensor that becomes int8, over all images.

    Args:
      model: float32 .tflite file.
      plan: of `make_plan`.
      read_inputs: the images; see `calibration.read_inputs`.

    Returns:
      By number of the tensor.

    Raises:
      ValueError: a value is not finite.
    """
    chosen = [plan.operators[i] for i in sorted(plan.weighted | plan.between)]
    tensors = sorted({t for o in chosen for t in (*o.inputs, *o.outputs)})
    interpreter = tf.lite.Interpreter(model_content=tflite_graph.cut(model, tensors))
    interpreter.allocate_tensors()
    ranges: Ranges = {}
    inputs = {_input_name(d): d["index"] for d in interpreter.get_input_details()}
    outputs = [d["index"] for d in interpreter.get_output_details()]
    for values in read_inputs():
        for name, index in inputs.items():
            interpreter.set_tensor(index, values[name])
        interpreter.invoke()
        for tensor, index in zip(tensors, outputs):
            found = interpreter.get_tensor(index)
            smallest, largest = ranges.get(tensor, (0.0, 0.0))
            # Not Python's min and max, which drop what is no number.
            ranges[tensor] = (
                float(np.minimum(smallest, found.min())),
                float(np.maximum(largest, found.max())),
            )
    broken = [t for t, pair in ranges.items() if not np.isfinite(pair).all()]
    if broken:
        names = [o.name for o in chosen if set(o.outputs) & set(broken)][:1]
        raise ValueError(f"calibration met values that are not finite, first in {names}.")
    # What was zero throughout gets some scale: none cannot be written.
    return {t: pair if pair[1] > pair[0] else (0.0, 1.0) for t, pair in ranges.items()}


def quantize(model: bytes, plan: Plan, ranges: Ranges, *, for_debugger: bool = False) -> bytes:
    """The model with the plan carried out.

    Args:
      model: float32 .tflite file.
      plan: of `make_plan`.
      ranges: of `measure_ranges`.
      for_debugger: whether every int8 operator is followed by its comparison with float32.
    """
    kinds = {o.kind for graph in tflite_graph.read_operators(model) for o in graph}
    return convert.mlir_quantize(
        tflite_graph.with_ranges(model, ranges),
        enable_numeric_verify=for_debugger,
        # An operator with several outputs is not found by its name.
        denylisted_ops=sorted(kinds - set(WEIGHTED) - set(BETWEEN)),
        denylisted_nodes=plan.others,
    )


def layer_statistics(model: bytes, plan: Plan, ranges: Ranges, read_inputs: ReadInputs) -> str:
    """Error of every int8 operator alone, by TensorFlow's quantization debugger, as CSV.

    Each operator is compared with its float32 form on the same input, what the int8 operator before
    it gave. The column `rmse/scale` is the root of the mean squared error in steps of the output's
    scale, 0.29 is what rounding alone gives; the worst come first.

    Args:
      model: float32 .tflite file.
      plan: of `make_plan`.
      ranges: of `measure_ranges`.
      read_inputs: the images.
    """
    content = quantize(model, plan, ranges, for_debugger=True)
    details = tf.lite.Interpreter(model_content=content).get_input_details()
    names = [_input_name(detail) for detail in details]
    debugger = tf.lite.experimental.QuantizationDebugger(
        quant_debug_model_content=content,
        debug_dataset=lambda: ([values[name] for name in names] for values in read_inputs()),
    )
    debugger.run()
    dumped = io.StringIO()
    debugger.layer_statistics_dump(dumped)
    rows = list(csv.DictReader(io.StringIO(dumped.getvalue())))
    for row in rows:
        steps = math.sqrt(float(row["mean_squared_error"])) / float(row["scale"])
        row["rmse/scale"] = f"{steps:.3f}"
    rows.sort(key=lambda row: -float(row["rmse/scale"]))
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def describe(plan: Plan) -> str:
    """One line of each operator with weights: int8 or float32, kind, shape, name."""
    lines = []
    for i in sorted(plan.weighted | plan.kept):
        o = plan.operators[i]
        kind = "int8" if i in plan.weighted else "float32"
        lines.append(f"{kind:<8}{o.kind:<18}{'x'.join(map(str, o.shape)):<16}{short_name(o)}")
    return "\n".join(lines)


def short_name(operator: Operator) -> str:
    """Name without those of what was fused into it and of the network."""
    return operator.name.split(";")[0].partition("/")[2] or operator.name.split(";")[0]


def _between(operators: Sequence[Operator], weighted: Set[int]) -> Set[int]:
    """Operators on a way from one with weights to another that passes `BETWEEN` only."""
    leading: Set[int] = set()
    read: Set[int] = set()
    for i in reversed(range(len(operators))):
        o = operators[i]
        if i in weighted or (o.kind in BETWEEN and read.intersection(o.outputs)):
            leading.add(i)
            read.update(o.inputs)
    found: Set[int] = set()
    written: Set[int] = set()
    for i in sorted(leading):
        o = operators[i]
        if i in weighted:
            written.update(o.outputs)
        elif written.intersection(o.inputs):
            found.add(i)
            written.update(o.outputs)
    return found


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"float_layers {pattern!r} is not a regular expression: {error}."
        ) from None


def _input_name(detail: Dict) -> str:
    """`image` or `image_info`: the converter writes `serving_default_image:0`, or plain."""
    return detail["name"].split(":")[0].replace("serving_default_", "")
