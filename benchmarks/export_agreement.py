"""A trained network on every runtime beside Keras: how many pixels agree, and CPU time.

python benchmarks/export_agreement.py --model_dir=runs/learn_shapes/panoptic_fpn/model \\
    --input_path='runs/learn_shapes/data/records/val-*'

Images are of the network's size. A pixel agrees where it is of the same segment; numbers of
segments of one category may be others. OpenVINO reads the .onnx file. int8 is calibrated on
`--calibration_path`, and left out without it. Ends with 1 where a float32 form agrees on less than
99.9 % of the pixels.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, Mapping

import numpy as np
import postprocess
import tensorflow as tf
from absl import app, flags
from tqdm import tqdm

import panoptic_tf
from panoptic_tf.api import settings
from panoptic_tf.ops import forms
from panoptic_tf.serving import calibration, export
from panoptic_tf.serving.onnx_runner import OnnxRunner
from panoptic_tf.serving.tflite import TFLiteRunner
from panoptic_tf.training import runner

Arrays = Mapping[str, np.ndarray]
Run = Callable[[np.ndarray, np.ndarray], Arrays]

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of a run.", required=True)
_INPUT_PATH = flags.DEFINE_string("input_path", None, "Records to run on.", required=True)
_CALIBRATION_PATH = flags.DEFINE_string("calibration_path", None, "Training records.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 50, "How many images.")
_LEAST = 99.9
_INEXACT = ("int8", "bfloat16")


def main(argv: List[str]) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    params = settings.configure(saved_dir=_MODEL_DIR.value, num_gpus=0).params
    task = runner.build_task(params)
    arguments = runner.export_arguments(params, task)
    read_inputs = calibration.read_inputs(
        _INPUT_PATH.value,
        dataset_info=arguments["dataset_info"],
        input_size=arguments["input_size"],
        num_images=_NUM_IMAGES.value,
    )
    model = runner.load_model(params, task, checkpoint_path=_MODEL_DIR.value)
    names = ("mean", "std", "channel_order")
    network = export.build_answer(
        model.inference_network, *(arguments[name] for name in names), forms.Form.CPU
    )
    expected, _ = _run_all(_of_function(tf.function(network, autograph=False)), read_inputs)
    print(f"{_MODEL_DIR.value}: {_NUM_IMAGES.value} images, {_count_segments(expected)} segments")
    print("| form | pixels that agree, % | worst image | images with as many segments | CPU ms |")
    print("|---|---|---|---|---|")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, run in _build_forms(folder).items():
            found, milliseconds = _run_all(run, read_inputs)
            agreeing = [_agreement(a, b) for a, b in zip(found, expected)]
            equal = np.mean(
                [_count_segments([a]) == _count_segments([b]) for a, b in zip(found, expected)]
            )
            print(
                f"| {name} | {np.mean(agreeing):.3f} | {min(agreeing):.2f} | {100 * equal:.0f} % | "
                f"{milliseconds:.1f} |"
            )
            if np.mean(agreeing) < _LEAST and not name.endswith(_INEXACT):
                failed.append(name)
    if failed:
        sys.exit(f"off: {', '.join(failed)}")


def _build_forms(folder: str) -> Dict[str, Run]:
    """Exports the run into a folder and loads everything that comes out."""
    model_dir = _MODEL_DIR.value
    saved_model = panoptic_tf.export(model_dir, os.path.join(folder, "saved_model"))
    served = tf.saved_model.load(saved_model).signatures["image_tensor"]
    found = {"SavedModel": _of_function(lambda x, _: served(image_tensor=tf.cast(x, tf.uint8)))}
    tflite = {"TFLite": {}}
    if _CALIBRATION_PATH.value:
        tflite["TFLite, int8"] = {
            "quantization": "int8",
            "calibration_path": _CALIBRATION_PATH.value,
        }
    for name, options in tflite.items():
        path = panoptic_tf.export(
            model_dir, os.path.join(folder, f"{len(found)}.tflite"), **options
        )
        interpreter = TFLiteRunner(path, num_threads=1)
        found[name] = lambda x, info, run=interpreter: run(x[0], info[0])
    onnx = panoptic_tf.export(model_dir, os.path.join(folder, "model.onnx"))
    found["ONNX Runtime"] = OnnxRunner(onnx, num_threads=1).predict_batch
    try:
        import openvino
    except ImportError:
        return found
    for name, precision in {"OpenVINO": "f32", "OpenVINO, bfloat16": "bf16"}.items():
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(onnx, "CPU", options)
        found[name] = lambda x, info, run=compiled: _of_openvino(run, x, info)
    return found


def _of_function(function: Callable[..., Any]) -> Run:
    def run(image: np.ndarray, image_info: np.ndarray) -> Arrays:
        outputs = function(tf.constant(image), tf.constant(image_info))
        return {key: value.numpy() for key, value in outputs.items()}

    return run


def _of_openvino(compiled: Any, image: np.ndarray, image_info: np.ndarray) -> Arrays:
    outputs = compiled({"image": image, "image_info": image_info})
    return {output.any_name: np.array(outputs[output]) for output in compiled.outputs}


def _run_all(run: Run, read_inputs: calibration.ReadInputs):
    """Segment maps int [H, W] of all images, and the median of CPU milliseconds."""
    maps, seconds = [], []
    for inputs in tqdm(list(read_inputs()), unit="image", leave=False):
        original, network = inputs["image_info"][0, :2]
        if not np.array_equal(original, network):
            raise app.UsageError(f"An image has {original}, the network takes {network}.")
        start = time.process_time()
        outputs = run(inputs["image"], inputs["image_info"])
        seconds.append(time.process_time() - start)
        maps.append(postprocess.segment_map(outputs))
    return maps, 1000.0 * statistics.median(seconds)


def _agreement(found: np.ndarray, expected: np.ndarray) -> float:
    return 100.0 - 100.0 * postprocess.count_differing(found, expected) / expected.size


def _count_segments(maps: List[np.ndarray]) -> int:
    return sum(np.count_nonzero(np.unique(x)) for x in maps)


if __name__ == "__main__":
    app.run(main)
