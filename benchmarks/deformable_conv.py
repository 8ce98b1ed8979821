"""CPU-seconds of modulated deformable convolution beside a plain one and beside another operator.

python benchmarks/deformable_conv.py
python benchmarks/deformable_conv.py --rounds=3 --reference_python=other/bin/python

A 3x3 convolution of 256 to 256 channels on the five levels (64x64 to 4x4 cells) that Panoptic FCN's
heads see of an image of 512x512. Offsets vary by one cell. The operators alone: offsets and
modulation are given. A reference command reads the workload, arrays [2, h, w, C] named
`<cells>/<what>`, and prints JSON that ends its output:
`{"seconds": {"<kind> <batch>x<cells> <pass>": ..., ...}, "counts": {"cells": 5456}}`, kind
`deformable` or `plain`, pass `forward` or `both` (that and the gradients of all inputs).
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import numpy as np
import speed
import tensorflow as tf
from absl import app

from panoptic_tf.ops.deformable_conv2d import deform_conv2d

_CELLS = (64, 32, 16, 8, 4)
_CHANNELS = 256
_TAPS = 9
_BATCHES = (1, 2)
_KINDS = ("deformable", "plain")
_PASSES = ("forward", "both")


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    rows = {}
    for kind in _KINDS:
        for batch in _BATCHES:
            for name in _PASSES:
                parts = [f"{kind} {batch}x{cells} {name}" for cells in _CELLS]
                rows.update({part: (part,) for part in parts})
                rows[f"{kind} {batch}x all {name}"] = parts
    title = f"3x3, {_CHANNELS} to {_CHANNELS} channels"
    speed.run(
        argv,
        title=title,
        build=build,
        measure=measure,
        rows=rows,
        reference="torchvision_deformable_conv.py",
    )


def build() -> speed.Workload:
    """The workload; see the module."""
    generator = np.random.RandomState(0)
    arrays = {"kernel": 0.02 * generator.normal(size=[3, 3, _CHANNELS, _CHANNELS])}
    for cells in _CELLS:
        shape = [max(_BATCHES), cells, cells]
        arrays[f"{cells}/inputs"] = generator.normal(size=[*shape, _CHANNELS])
        arrays[f"{cells}/offsets"] = generator.normal(size=[*shape, 2 * _TAPS])
        arrays[f"{cells}/modulation"] = generator.uniform(size=[*shape, _TAPS])
        arrays[f"{cells}/output_gradient"] = generator.normal(size=[*shape, _CHANNELS])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def measure(workload: speed.Workload) -> Dict[str, Any]:
    """Ours, in this process; see the module for what comes and goes."""
    seconds = {}
    for batch in _BATCHES:
        for cells in _CELLS:
            arrays = speed.select_tensors(workload, f"{cells}/")
            arrays = {name: array[:batch] for name, array in arrays.items()}
            arrays["kernel"] = tf.constant(workload["kernel"])
            for kind in _KINDS:
                for name in _PASSES:
                    function = _build_function(kind, name, arrays)
                    seconds[f"{kind} {batch}x{cells} {name}"] = speed.seconds_of(function)
    return {"seconds": seconds, "counts": {"cells": sum(cells**2 for cells in _CELLS)}}


def _build_function(kind: str, name: str, arrays: Dict[str, tf.Tensor]) -> Callable[[], Any]:
    arrays = dict(arrays)
    gradient = arrays.pop("output_gradient")
    if kind == "plain":
        arrays = {key: arrays[key] for key in ("inputs", "kernel")}

    def convolve() -> tf.Tensor:
        if kind == "plain":
            return tf.nn.conv2d(arrays["inputs"], arrays["kernel"], strides=1, padding="SAME")
        return deform_conv2d(**arrays, training=name == "both")

    def convolve_and_differentiate() -> List[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(list(arrays.values()))
            outputs = convolve()
        return [outputs, *tape.gradient(outputs, list(arrays.values()), gradient)]

    function = convolve if name == "forward" else convolve_and_differentiate
    return tf.function(function, autograph=False)


if __name__ == "__main__":
    app.run(main)
