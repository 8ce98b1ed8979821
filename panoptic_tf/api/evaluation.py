"""Scoring a model from Python, and what `panoptic-tf evaluate` runs."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Dict, List, Optional, Sequence, Union

from tqdm import tqdm

from panoptic_tf.api import models, paths, process_state, settings
from panoptic_tf.api.scores import Scored
from panoptic_tf.datasets import files
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.evaluation import ceiling, records, results
from panoptic_tf.metrics import coverage
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.training import runner

_KINDS = {
    models.CHECKPOINT: "a checkpoint or the folder of a run",
    models.SAVED_MODEL: "a SavedModel",
    models.TFLITE: "a .tflite file",
    models.ONNX: "a .onnx file",
}


@dataclasses.dataclass(frozen=True)
class EvaluationResult(Scored):
    """The scores of a model.

    Attributes:
      metrics: as metrics.json holds them.
      report: path of report.html, or None where nothing was written.
      warnings: what looks wrong in the metrics, one line each.
    """

    report: Optional[str]

    @property
    def warnings(self) -> List[str]:
        """See the class."""
        return coverage.warnings_of(self.metrics)


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """What is written of an evaluation; nothing where there is no folder."""

    folder: Optional[str]
    write_predictions: bool
    gallery_size: int
    show_progress: bool

    def collector(self, info: DatasetInfo) -> Optional[results.ResultCollector]:
        if self.folder is None:
            return None
        return results.ResultCollector(
            info,
            self.folder,
            write_predictions=self.write_predictions,
            gallery_size=self.gallery_size,
        )

    def progress(self, total: int) -> tqdm:
        return tqdm(total=total, unit="image", desc="evaluate", disable=not self.show_progress)


def evaluate(
    path: Union[str, os.PathLike],
    *,
    input_path: Optional[str] = None,
    output_dir: Union[None, str, os.PathLike] = None,
    experiment: Optional[str] = None,
    config_file: Union[None, str, Sequence[str]] = None,
    overrides: Optional[settings.Overrides] = None,
    saved_dir: Optional[str] = None,
    write_predictions: bool = False,
    gallery_size: int = 6,
    with_ceiling: bool = False,
    crowd_rule: Optional[str] = None,
    boundary_ratio: Optional[float] = None,
    with_instances: Optional[bool] = None,
    max_examples: Optional[int] = None,
    max_pixels: Optional[int] = None,
    num_threads: Optional[int] = None,
    show_progress: bool = True,
    **devices: Any,
) -> EvaluationResult:
    """Scores a model on records.

    Args:
      path: the folder of a run, a checkpoint's prefix, a SavedModel's folder (or that of its
        versions), or a .tflite or .onnx file.
      input_path: pattern of the records; default a run's own validation data.
      output_dir: gets metrics.json and report.html; default nothing is written.
      experiment, config_file, overrides: of a run or checkpoint; default its params.yaml. See
        `settings.configure`.
      saved_dir: folder of the params.yaml; default the checkpoint's, or the one above.
      write_predictions: also write predictions.json, predictions/*.png and, of a model that finds
        instances, coco_instances_results.json to `output_dir`.
      gallery_size: best and worst images in the report, each.
      with_ceiling: of a run or checkpoint, also score the ground truth through its targets:
        `PQ_ceiling`.
      crowd_rule: `all` crowds of a category forgive a prediction, or only the `last`.
      boundary_ratio: measure Boundary PQ at boundaries this wide, as a share of the image's
        diagonal; 0 leaves it out.
      with_instances: measure AP on the records' overlapping instances.
      max_examples: only the first so many; 0 is all.
      max_pixels: larger images are left out and counted.
      num_threads: of what runs a .tflite or .onnx file.
      show_progress: a bar.
      **devices: of a run or checkpoint; see `settings.configure`.

    Returns:
      The metrics, in percent, and the report's path.

    Example:
        result = panoptic_tf.evaluate(run.model_dir, output_dir="runs/python/report")
        print(result.scores["PQ"], result.report)

    Raises:
      ValueError: there is no model, it does not fit its experiment, an argument is for another kind
        of model, records are missing or cannot be read, or every image is too large.
    """
    path, folder = os.fspath(path), None if output_dir is None else os.fspath(output_dir)
    if folder is not None:
        paths.check_can_write("output_dir", os.path.join(folder, "metrics.json"))
    elif write_predictions:
        raise ValueError("write_predictions needs output_dir, the folder to write to.")
    outputs = _Outputs(folder, write_predictions, gallery_size, show_progress)
    scored = {"crowd_rule": crowd_rule, "boundary_ratio": boundary_ratio}
    read = {"with_instances": with_instances, "max_examples": max_examples}
    configured = {
        "experiment": experiment,
        "config_file": config_file,
        "overrides": overrides,
        **devices,
    }
    kind = models.kind_of(path)
    if kind == models.CHECKPOINT:
        _refuse(path, kind, num_threads=num_threads)
        found = settings.configure(saved_dir=saved_dir or models.folder_of(path), **configured)
        with process_state.kept():
            return _evaluate_checkpoint(
                path,
                found,
                _given(input_path=input_path, **read),
                _given(max_pixels=max_pixels, **scored),
                with_ceiling,
                outputs,
            )
    _refuse(path, kind, **configured, saved_dir=saved_dir, with_ceiling=with_ceiling or None)
    if kind == models.SAVED_MODEL:
        _refuse(path, kind, num_threads=num_threads)
    if not input_path:
        raise ValueError(f"{path} needs --input_path: the records to score on.")
    total = records.count_records(input_path, max_examples or 0)
    predictor = Predictor(path, num_threads=num_threads, **_given(max_pixels=max_pixels))
    return _evaluate_file(predictor, input_path, total, _given(**scored, **read), outputs)


def _given(**values: Any) -> Dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _refuse(path: str, kind: str, **values: Any) -> None:
    for name in _given(**values):
        wanted = _KINDS[models.TFLITE if name == "num_threads" else models.CHECKPOINT]
        raise ValueError(
            f"{path} is {_KINDS[kind]}, and {name} is not for it. Leave it out, or give {wanted}."
        )


def _evaluate_checkpoint(
    path: str,
    found: settings.Settings,
    validation_data: Dict[str, Any],
    measured: Dict[str, Any],
    with_ceiling: bool,
    outputs: _Outputs,
) -> EvaluationResult:
    params = found.params.replace(task={"validation_data": validation_data, "evaluation": measured})
    data = params.task.validation_data
    total = records.count_records(data.input_path, data.max_examples)
    task = runner.build_task(params)
    collector = outputs.collector(task.dataset_info)
    with outputs.progress(total) as progress:
        task.image_listeners.append(lambda *_: progress.update())
        if collector is not None:
            task.image_listeners.append(collector.add)
        metrics = runner.evaluate(params, task, checkpoint_path=path)
    if with_ceiling:
        if outputs.folder is not None:  # What is measured stays, whatever the ceiling meets.
            files.write_json(os.path.join(outputs.folder, "metrics.json"), metrics)
        with runner.naming_bad_records(params, task, "eval"):
            found_ceiling = ceiling.evaluate_ceiling(
                task,
                data.input_path,
                max_examples=data.max_examples,
                allow_partial=data.allow_partial,
                max_bad_records=data.max_bad_records,
            )
        metrics["PQ_ceiling"] = found_ceiling["PQ"]
    report = None
    if collector is not None:
        report = collector.finish(
            metrics,
            input_path=data.input_path,
            title=found.experiment,
            subtitle=f"{total} images of {data.input_path}",
            extras={"Run": {"checkpoint": path, "step": metrics.get("step")}},
        )
    return EvaluationResult(metrics=metrics, report=report)


def _evaluate_file(
    predictor: Predictor,
    input_path: str,
    total: int,
    options: Dict[str, Any],
    outputs: _Outputs,
) -> EvaluationResult:
    collector = outputs.collector(predictor.dataset_info)
    with outputs.progress(total) as progress:

        def listen(example: records.EvaluatedImage) -> None:
            progress.update()
            if collector is not None:
                truth: Dict[str, Any] = {"image_id": json.dumps(example.image_id)}
                truth.update(example.ground_truth)
                collector.add(truth, example.prediction, example.pq)

        metrics, latency = records.evaluate_records(
            predictor, input_path, on_example=listen, **options
        )
    if os.path.isfile(predictor.path):
        metrics["size_bytes"] = os.path.getsize(predictor.path)
    metrics["latency_ms"], metrics["latency_ms_p90"] = latency["median"], latency["p90"]
    report = None
    if collector is not None:
        report = collector.finish(
            metrics,
            input_path=input_path,
            title=predictor.path,
            subtitle=f"{total} images of {input_path}",
        )
    return EvaluationResult(metrics=metrics, report=report)
