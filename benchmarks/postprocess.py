"""CPU-seconds and memory of a system's post-processing; beside a reference.

python benchmarks/postprocess.py --system=panoptic_deeplab --size=1024,2048 --centers=200
python benchmarks/postprocess.py --system=panoptic_fpn --rounds=3 \\
    --reference_python=other/bin/python

Both sides get the same (`<system>_workload`) and run in turn, in processes of their own. A
reference command prints JSON that ends its output:
`{"seconds": {"post": ...}, "counts": {...}, "memory": {...}, "segments": "<file>.npz"}`,
the last two if it has them.

post: Panoptic-DeepLab: from drawn logits, heat map and offsets at the heads' stride, Panoptic FCN:
from drawn logits, kernels and encoded feature, both with all that comes after; Panoptic FPN: from
the detections with masks and the semantic logits that the network finds. Each to the panoptic
prediction at the image's size. network, on request: the network before it.

memory: of the first call; see `references/measuring.py`.
segments: int32 [H, W] `segments`, category * 1000 + number, 0 is void; how many pixels differ is
printed, numbers up to renaming.
"""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
import speed
import subjects
import tensorflow as tf
import workloads
from absl import app, flags
from references import measuring

from panoptic_tf.structures import Prediction, Tensors

_ROWS = {"post": ("post",), "network": ("network",), "network + post": ("network", "post")}
_DIVISOR = 1000

_CENTERS = flags.DEFINE_integer("centers", 20, "Instances drawn; of panoptic_deeplab only.")
_WITH_NETWORK = flags.DEFINE_bool("with_network", False, "Whether to measure the network, too.")


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    subject = subjects.get_subject()
    speed.run(
        argv,
        title=str(subject),
        build=lambda: _build(subject),
        measure=measure,
        rows=_ROWS,
        reference=subject.workload.REFERENCE,
        compare=_compare,
    )


def measure(workload: speed.Workload) -> Dict[str, Any]:
    """Ours, in this process.

    Args:
      workload: see `build_postprocess` of the system.

    Returns:
      What a reference command prints; see the module.
    """
    subject = subjects.get_subject()
    process, count = subject.workload.prepare_postprocess(subject.params, workload)
    process.get_concrete_function()
    memory = measuring.megabytes_of(process)
    prediction = process()
    seconds = {"post": speed.seconds_of(process)}
    if _WITH_NETWORK.value:
        seconds["network"] = _measure_network(subject, workload)
    return {
        "seconds": seconds,
        "counts": {name: int(np.sum(marks)) for name, marks in count(prediction).items()},
        "memory": {"post": memory},
        "segments": speed.write_beside_workload(
            "ours_segments.npz", segments=segment_map(prediction)
        ),
    }


def _build(subject: subjects.Subject) -> speed.Workload:
    arrays = subject.workload.build_postprocess(subject.experiment, subject.size, _CENTERS.value)
    if _WITH_NETWORK.value:
        arrays = {**subject.workload.build_network(subject.experiment, subject.size), **arrays}
    return arrays


def _measure_network(subject: subjects.Subject, workload: speed.Workload) -> float:
    _, model = workloads.build_model(subject.params)
    workloads.load_weights(model, workload)
    network = subject.workload.build_raw_network(model)
    inputs = workloads.inference_inputs(workload)
    return speed.seconds_of(tf.function(lambda: network(inputs, training=False), autograph=False))


def segment_map(prediction: Tensors) -> np.ndarray:
    """Of the first image of a batch: integers [H, W], category * 1000 + number, 0 is void."""
    category, number = (
        np.asarray(prediction[key])[0]
        for key in (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK)
    )
    return category * _DIVISOR + number


def _compare(turns: speed.Turns) -> None:
    """Prints the memory of each side, and how many pixels of the segment maps differ."""
    speed.print_memory(turns)
    maps = []
    for first, *_ in turns.values():
        if "segments" in first:
            maps.append(np.load(first["segments"])["segments"])
    if len(maps) > 1:
        print(f"{count_differing(*maps)} of {maps[0].size} pixels differ")


def count_differing(first: np.ndarray, second: np.ndarray) -> int:
    """Pixels at which two maps are not the same segment, numbers within a category up to renaming.

    Args:
      first, second: integers [H, W], category * 1000 + number, 0 is void.
    """
    pairs, counts = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1, return_counts=True)
    same, taken = 0, (set(), set())
    for i in np.argsort(-counts):
        a, b = pairs[:, i]
        if a // _DIVISOR == b // _DIVISOR and a not in taken[0] and b not in taken[1]:
            same += counts[i]
            taken[0].add(a)
            taken[1].add(b)
    return int(first.size - same)


if __name__ == "__main__":
    app.run(main)
