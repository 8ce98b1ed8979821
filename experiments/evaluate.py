"""Scores a checkpoint, a SavedModel or a .tflite file on records.

panoptic-tf evaluate --experiment=panoptic_deeplab_shapes --model_dir=runs/shapes \
    --output_dir=runs/shapes/evaluation
panoptic-tf evaluate --saved_model_dir=runs/demo/saved_model --input_path='data/val-*' \
    --output_dir=runs/evaluation

writes metrics.json, report.html and, with --write_predictions, COCO panoptic result files. The
configuration is the params.yaml of --model_dir unless --config_file is given; the records are the
experiment's validation data unless --input_path is given.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict

from absl import app, flags
from tqdm import tqdm

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.evaluation import ceiling, records, results
from panoptic_tf.experiments import cli, common, limits, outputs
from panoptic_tf.metrics import coverage, summary
from panoptic_tf.metrics.panoptic_quality import CROWD_RULES
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.training import runner

common.define_experiment_flags()
_CHECKPOINT_PATH = flags.DEFINE_string(
    "checkpoint_path", None, "A checkpoint's prefix; default the last one in --model_dir."
)
_SAVED_MODEL_DIR = flags.DEFINE_string("saved_model_dir", None, "Score this SavedModel instead.")
_INPUT_PATH = flags.DEFINE_string("input_path", None, "Pattern of the records to score on.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the results.", required=True)
_WRITE_PREDICTIONS = flags.DEFINE_bool(
    "write_predictions", False, "Write predictions.json and predictions/*.png."
)
_GALLERY_SIZE = flags.DEFINE_integer(
    "gallery_size", 6, "Best and worst images in the report, each.", lower_bound=0
)
_CEILING = flags.DEFINE_bool(
    "ceiling", False, "Also score the ground truth through the system's targets: PQ_ceiling."
)
_CROWD_RULE = flags.DEFINE_enum(
    "crowd_rule", None, CROWD_RULES, "Crowds of a category that forgive a prediction."
)
_WITH_INSTANCES = flags.DEFINE_bool(
    "with_instances",
    None,
    "Measure AP on the records' overlapping instances (`convert --instances_json`); "
    "default is the experiment's choice, for a SavedModel no.",
)
_MAX_PIXELS = limits.define_max_pixels(
    "larger ones are left out and counted; for a checkpoint the default is the experiment's"
)


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    outputs.check_can_write("output_dir", os.path.join(_OUTPUT_DIR.value, "metrics.json"))
    if _SAVED_MODEL_DIR.value:
        metrics = _evaluate_saved_model()
    else:
        metrics = _evaluate_checkpoint()
    print(summary.format_metrics(metrics))
    for text in coverage.warnings_of(metrics):
        print(f"warning: {text}")
    if metrics.get("PQ_ceiling") is not None:
        print(f"PQ of the ground truth at this output stride: {metrics['PQ_ceiling']:.2f}")
    for name in ("metrics.json", "report.html"):
        print(os.path.join(_OUTPUT_DIR.value, name))


def _collector(info: DatasetInfo) -> results.ResultCollector:
    return results.ResultCollector(
        info,
        _OUTPUT_DIR.value,
        write_predictions=_WRITE_PREDICTIONS.value,
        gallery_size=_GALLERY_SIZE.value,
    )


def _evaluate_checkpoint() -> Dict[str, Any]:
    checkpoint_path = _CHECKPOINT_PATH.value or flags.FLAGS.model_dir
    if not checkpoint_path or not flags.FLAGS.experiment:
        raise app.UsageError(
            "give --experiment with --model_dir or --checkpoint_path, or --saved_model_dir."
        )
    flag = "checkpoint_path" if _CHECKPOINT_PATH.value else "model_dir"
    common.check_checkpoint(flag, checkpoint_path)
    is_folder = os.path.isdir(checkpoint_path)
    folder = checkpoint_path if is_folder else os.path.dirname(checkpoint_path)
    params = common.parse_experiment(flags.FLAGS.model_dir or folder)
    validation_data, measured = {}, {}
    if _INPUT_PATH.value:
        validation_data["input_path"] = _INPUT_PATH.value
    if _WITH_INSTANCES.value is not None:
        validation_data["with_instances"] = _WITH_INSTANCES.value
    if flags.FLAGS["max_pixels"].present:
        measured["max_pixels"] = _MAX_PIXELS.value
    if _CROWD_RULE.value:
        measured["crowd_rule"] = _CROWD_RULE.value
    params = params.replace(task={"validation_data": validation_data, "evaluation": measured})
    input_path = params.task.validation_data.input_path
    total = records.count_records(input_path, params.task.validation_data.max_examples)
    task = runner.build_task(params)
    collector = _collector(task.dataset_info)
    with tqdm(total=total, unit="image", desc="evaluate") as progress:
        task.image_listeners.append(lambda *_: progress.update())
        task.image_listeners.append(collector.add)
        metrics = runner.evaluate(params, task, checkpoint_path=checkpoint_path)
    if _CEILING.value:
        metrics["PQ_ceiling"] = ceiling.evaluate_ceiling(
            task, input_path, max_examples=params.task.validation_data.max_examples
        )["PQ"]
    collector.finish(
        metrics,
        input_path=input_path,
        title=flags.FLAGS.experiment,
        subtitle=f"{total} images of {input_path}",
        extras={"Run": {"checkpoint": checkpoint_path, "step": metrics.get("step")}},
    )
    return metrics


def _evaluate_saved_model() -> Dict[str, Any]:
    if not _INPUT_PATH.value:
        raise app.UsageError("--saved_model_dir needs --input_path: the records to score on.")
    total = records.count_records(_INPUT_PATH.value)
    predictor = Predictor(_SAVED_MODEL_DIR.value, max_pixels=_MAX_PIXELS.value)
    collector = _collector(predictor.dataset_info)
    with tqdm(total=total, unit="image", desc="evaluate") as progress:

        def listen(example: records.EvaluatedImage) -> None:
            progress.update()
            truth = {"image_id": json.dumps(example.image_id), **example.ground_truth}
            collector.add(truth, example.prediction, example.pq)

        metrics, latency = records.evaluate_records(
            predictor,
            _INPUT_PATH.value,
            crowd_rule=_CROWD_RULE.value or "all",
            with_instances=bool(_WITH_INSTANCES.value),
            on_example=listen,
        )
    metrics["latency_ms"], metrics["latency_ms_p90"] = latency["median"], latency["p90"]
    collector.finish(
        metrics,
        input_path=_INPUT_PATH.value,
        title=_SAVED_MODEL_DIR.value,
        subtitle=f"{total} images of {_INPUT_PATH.value}",
    )
    return metrics


if __name__ == "__main__":
    cli.run_script(__file__, main)
