"""Every step on the embedded data set: data, check, training, scores, export, scores again.

panoptic-tf demo --output_dir=runs/demo

takes under ten minutes on two CPU cores and writes <output_dir>/metrics.json, report.html,
saved_model/1/, model_float32.tflite, model_int8.tflite, predictions/ and data/. Started again it
continues where it stopped: complete data is kept, training resumes from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from typing import Any, Callable, Dict, List, Tuple

import tensorflow as tf
from absl import app, flags
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams
from tqdm import tqdm

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.datasets import doctor, shapes_records, shapes_writer
from panoptic_tf.evaluation import ceiling, records, results
from panoptic_tf.experiments import cli, outputs
from panoptic_tf.metrics.panoptic_quality import PanopticQuality
from panoptic_tf.serving import calibration, export, prediction, quantization, tflite
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.training import machine, runner

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/demo", "Folder of everything.")
_NUM_TRAIN = flags.DEFINE_integer("num_train_images", 2000, "Training images.", lower_bound=1)
_NUM_VAL = flags.DEFINE_integer("num_val_images", 200, "Validation images.", lower_bound=1)
_TRAIN_STEPS = flags.DEFINE_integer(
    "train_steps",
    None,
    "Training steps; default those of the recipe, fewer where the machine has no bfloat16.",
    lower_bound=1,
)
_KEEP = flags.DEFINE_bool("keep", True, "Continue from what the folder holds, else start over.")

_EXPERIMENT = "panoptic_deeplab_shapes"
_RECIPE = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "recipes", "panoptic_deeplab", "shapes_demo.yaml"
)
# In about the time that the recipe's take in bfloat16.
_STEPS_IN_FLOAT32 = 500
_COLUMNS = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "mIoU", "AP")


@dataclasses.dataclass
class _Paths:
    """Where things are, below the output folder."""

    root: str

    def __getattr__(self, name: str) -> str:
        return os.path.join(self.root, *_LAYOUT[name])


_LAYOUT: Dict[str, Tuple[str, ...]] = {
    "data": ("data",),
    "train_records": ("data", "records", "train-*"),
    "val_records": ("data", "records", "val-*"),
    "model": ("model",),
    "saved_model": ("saved_model",),
    "tflite_float32": ("model_float32.tflite",),
    "tflite_int8": ("model_int8.tflite",),
    "predictions": ("predictions",),
}


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    outputs.check_can_write("output_dir", os.path.join(_OUTPUT_DIR.value, "metrics.json"))
    paths = _Paths(_OUTPUT_DIR.value)
    if not _KEEP.value:
        shutil.rmtree(paths.root, ignore_errors=True)
    stages = _Stages()
    stages.run(
        "data",
        lambda: shapes_records.write_records(
            paths.data, num_train=_NUM_TRAIN.value, num_val=_NUM_VAL.value
        ),
    )
    stages.run("doctor", lambda: _examine(paths))
    params = _experiment(paths)
    stages.run("train", lambda: _train(params, paths))
    task = runner.build_task(params)
    collector = results.ResultCollector(task.dataset_info, paths.root)
    forms = {"keras": stages.run("evaluate", lambda: _evaluate(params, task, collector, paths))}
    best = stages.run("ceiling", lambda: ceiling.evaluate_ceiling(task, paths.val_records))
    forms["keras"]["PQ_ceiling"] = best["PQ"]
    stages.run("export", lambda: _export(params, task, paths))
    for form in ("saved_model", "tflite_float32", "tflite_int8"):
        path = getattr(paths, form)
        forms[form] = stages.run(f"evaluate {form}", lambda path=path: _evaluate_file(path, paths))
    stages.run("predict", lambda: _predict(paths))
    report = collector.finish(
        forms,
        input_path=paths.val_records,
        title="panoptic_tf demo",
        subtitle=f"{_EXPERIMENT} on {_NUM_VAL.value} validation images of shapes",
        extras={"Seconds": {name: f"{seconds:.0f}" for name, seconds in stages.seconds}},
    )
    _print_results(forms, stages, paths, report)


class _Stages:
    """Runs and times the stages."""

    def __init__(self):
        self.seconds: List[Tuple[str, float]] = []

    def run(self, name: str, stage: Callable[[], Any]) -> Any:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        result = stage()
        self.seconds.append((name, time.monotonic() - start))
        return result


def _examine(paths: _Paths) -> None:
    for input_path in (paths.train_records, paths.val_records):
        report = doctor.examine_records(input_path=input_path, build_quality=PanopticQuality)
        if report["problems"]:
            raise SystemExit("\n".join(["doctor found problems:", *report["problems"][:20]]))
        print(
            f"{input_path}: {report['num_images']} images, {report['num_segments']} segments, "
            f"ground truth against itself PQ {report['ground_truth_PQ']:.2f}"
        )


def _experiment(paths: _Paths) -> cfg.ExperimentConfig:
    params = exp_factory.get_exp_config(_EXPERIMENT)
    params = hyperparams.override_params_dict(params, _RECIPE, is_strict=True)
    found = machine.find_machine()
    params.runtime.mixed_precision_dtype = found.precision
    params.task.train_data.input_path = paths.train_records
    params.task.validation_data.input_path = paths.val_records
    steps = _TRAIN_STEPS.value
    if steps is None and not found.has_bfloat16:
        steps = _STEPS_IN_FLOAT32
    if steps:
        params.trainer.train_steps = steps
        params.trainer.optimizer_config.learning_rate.cosine.decay_steps = steps
    return params


def _train(params: cfg.ExperimentConfig, paths: _Paths) -> None:
    runner.train(params, mode="train", model_dir=paths.model, experiment=_EXPERIMENT)


def _evaluate(params, task, collector: results.ResultCollector, paths: _Paths) -> Dict[str, Any]:
    with tqdm(total=records.count_records(paths.val_records), unit="image") as progress:
        task.image_listeners[:] = [lambda *_: progress.update(), collector.add]
        return runner.evaluate(params, task, checkpoint_path=paths.model)


def _export(params, task, paths: _Paths) -> None:
    model = runner.load_model(params, task, checkpoint_path=paths.model)
    arguments = {**runner.export_arguments(params, task), "experiment": _EXPERIMENT}
    network = model.inference_network
    shutil.rmtree(paths.saved_model, ignore_errors=True)
    export.export_saved_model(network, export_dir=paths.saved_model, version=1, **arguments)
    tflite.export_tflite(network, tflite_path=paths.tflite_float32, **arguments)
    read_inputs = calibration.read_inputs(
        paths.train_records,
        dataset_info=arguments["dataset_info"],
        input_size=arguments["input_size"],
        num_images=min(calibration.NUM_IMAGES, _NUM_TRAIN.value),
    )
    tflite.quantize_tflite(
        paths.tflite_float32,
        network,
        tflite_path=paths.tflite_int8,
        int8_options=quantization.Options(
            read_inputs, quantization.pattern_of(task.float_layers())
        ),
    )


def _evaluate_file(path: str, paths: _Paths) -> Dict[str, Any]:
    with tqdm(total=records.count_records(paths.val_records), unit="image") as progress:
        metrics, latency = records.evaluate_records(
            Predictor(path), paths.val_records, on_example=lambda _: progress.update()
        )
    metrics["size_bytes"] = _size(path)
    metrics["latency_ms"] = latency["median"]
    return metrics


def _predict(paths: _Paths) -> None:
    images = os.path.join(paths.data, "val", shapes_writer.IMAGE_DIR, "00000*.png")
    prediction.predict_files(
        Predictor(paths.saved_model), prediction.find_images([images]), paths.predictions
    )


def _size(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )


def _print_results(forms, stages: _Stages, paths: _Paths, report: str) -> None:
    print()
    print(f"{'form':<16}" + "".join(f"{name:>10}" for name in _COLUMNS) + "    MiB  ms/image")
    for form, metrics in forms.items():
        cells = "".join(
            f"{'-':>10}" if metrics[name] is None else f"{metrics[name]:10.2f}" for name in _COLUMNS
        )
        size = f"{metrics['size_bytes'] / 2**20:7.1f}" if "size_bytes" in metrics else " " * 7
        latency = f"{metrics['latency_ms']:10.1f}" if "latency_ms" in metrics else ""
        print(f"{form:<16}{cells}{size}{latency}")
    print(f"PQ of the ground truth at output stride 4: {forms['keras']['PQ_ceiling']:.2f}")
    total = sum(seconds for _, seconds in stages.seconds)
    times = ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages.seconds)
    print(f"seconds: {total:.0f} ({times})")
    print()
    for path in (
        report,
        os.path.join(paths.root, "metrics.json"),
        os.path.join(paths.saved_model, "1"),
        paths.tflite_float32,
        paths.tflite_int8,
        paths.predictions,
    ):
        print(path)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    cli.run_script(__file__, main)
