"""A system's inference in the form for accelerators beside the form for CPUs, on one CPU thread.

python benchmarks/forms.py --system=panoptic_fpn --size=512,512

Both are whole: network and post-processing, in one process, in turns, with the weights and the
image of `benchmarks/network.py`. What they predict is compared.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Dict, List

import numpy as np
import subjects
import tensorflow as tf
import workloads
from absl import app, flags

from panoptic_tf.ops import forms
from panoptic_tf.structures import Prediction

_TURNS = flags.DEFINE_integer("turns", 5, "Of each form; the median counts.")


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    subject = subjects.get_subject()
    workload = subject.workload.build_network(subject.experiment, subject.size)
    _, model = workloads.build_model(subject.params)
    workloads.load_weights(model, workload)
    inputs = workloads.inference_inputs(workload)
    functions = {form: _trace(model, form) for form in (forms.Form.CPU, forms.Form.ACCELERATOR)}
    seconds: Dict[forms.Form, List[float]] = {form: [] for form in functions}
    found = {form: _run(function, inputs) for form, function in functions.items()}
    for _ in range(_TURNS.value):
        for form, function in functions.items():
            start = time.process_time()
            _run(function, inputs)
            seconds[form].append(time.process_time() - start)
    cpu, accelerator = (statistics.median(seconds[form]) for form in functions)
    _compare(*found.values())
    print(f"{subject}, one thread; CPU-seconds of a whole inference")
    print("| form | CPU-s | ratio |\n|---|---|---|")
    print(f"| cpu | {cpu:.3f} | 1 |\n| accelerator | {accelerator:.3f} | {accelerator / cpu:.2f} |")


def _trace(model: Any, form: forms.Form) -> Any:
    def predict(inputs: Dict[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
        with forms.use(form):
            return model(inputs, training=False)

    return tf.function(predict, autograph=False)


def _run(function: Any, inputs: Dict[str, tf.Tensor]) -> Dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in function(inputs).items()}


def _compare(cpu: Dict[str, np.ndarray], accelerator: Dict[str, np.ndarray]) -> None:
    count = int(cpu[Prediction.NUM_SEGMENTS].sum())
    masks = [key for key, value in cpu.items() if value.dtype.kind in "iub"]
    different = sum(int((cpu[key] != accelerator[key]).sum()) for key in masks)
    score = np.abs(cpu[Prediction.SEGMENT_SCORE] - accelerator[Prediction.SEGMENT_SCORE]).max()
    print(f"{count} segments; {different} integers differ; scores differ by {score:.1e} at most")


if __name__ == "__main__":
    app.run(main)
