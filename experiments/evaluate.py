"""Scores a checkpoint, a SavedModel or a .onnx file on records.

panoptic-tf evaluate --model_dir=runs/shapes --output_dir=runs/shapes/evaluation
panoptic-tf evaluate --saved_model_dir=runs/demo/saved_model --input_path='data/val-*' \\
    --output_dir=runs/evaluation

writes metrics.json, report.html and, with --write_predictions, COCO result files. The
configuration is the params.yaml of --model_dir unless --config_file is given; the records are the
experiment's validation data unless --input_path is given.
"""

from __future__ import annotations

from typing import Optional

from absl import app, flags

from panoptic_tf.experiments import cli, common, limits, outputs

common.define_experiment_flags()
_CHECKPOINT_PATH = flags.DEFINE_string(
    "checkpoint_path", None, "A checkpoint's prefix; default the last one in --model_dir."
)
_SAVED_MODEL_DIR = flags.DEFINE_string("saved_model_dir", None, "Score this SavedModel instead.")
_ONNX_PATH = flags.DEFINE_string("onnx_path", None, "Score this .onnx file instead.")
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", None, "Threads that run a .onnx file; default is the runtime's choice."
)
_INPUT_PATH = flags.DEFINE_string("input_path", None, "Pattern of the records to score on.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the results.", required=True)
_WRITE_PREDICTIONS = flags.DEFINE_bool(
    "write_predictions",
    False,
    "Write predictions.json and predictions/*.png, and coco_instances_results.json.",
)
_GALLERY_SIZE = flags.DEFINE_integer(
    "gallery_size", 6, "Best and worst images in the report, each.", lower_bound=0
)
_CEILING = flags.DEFINE_bool(
    "ceiling", False, "Also score the ground truth through the system's targets: PQ_ceiling."
)
_CROWD_RULE = flags.DEFINE_enum(
    "crowd_rule", None, ["all", "last"], "Crowds of a category that forgive a prediction."
)
_BOUNDARY_RATIO = flags.DEFINE_float(
    "boundary_ratio",
    None,
    "Measure Boundary PQ at boundaries this wide, as a share of the image's diagonal: 0.02 is the "
    "paper's, 0 leaves it out; default is the experiment's choice, for a SavedModel 0.",
    lower_bound=0.0,
    upper_bound=1.0,
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
common.define_device_flags()

_WRONG_KIND = {
    "saved_model": "--saved_model_dir={path} is of a run or a file. Expected a SavedModel's "
    "folder, or that of its versions.",
    "onnx": "--onnx_path={path} is no .onnx file. `panoptic-tf export-onnx` writes such files.",
}


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.api import evaluation, models

    path, configured = _exported(), {}
    if path:
        wanted = models.ONNX if _ONNX_PATH.value else models.SAVED_MODEL
        if models.kind_of(path) != wanted:
            raise ValueError(_WRONG_KIND[wanted].format(path=path))
    else:
        configured = {**common.experiment_options(), "saved_dir": flags.FLAGS.model_dir}
        path = _CHECKPOINT_PATH.value or flags.FLAGS.model_dir
        if not path:
            raise app.UsageError(
                "give --model_dir, --checkpoint_path, --saved_model_dir or --onnx_path."
            )
        models.check_checkpoint("checkpoint_path" if _CHECKPOINT_PATH.value else "model_dir", path)
    result = evaluation.evaluate(
        path,
        input_path=_INPUT_PATH.value,
        output_dir=_OUTPUT_DIR.value,
        write_predictions=_WRITE_PREDICTIONS.value,
        gallery_size=_GALLERY_SIZE.value,
        with_ceiling=_CEILING.value,
        crowd_rule=_CROWD_RULE.value,
        boundary_ratio=_BOUNDARY_RATIO.value,
        with_instances=_WITH_INSTANCES.value,
        max_pixels=_MAX_PIXELS.value if flags.FLAGS["max_pixels"].present else None,
        num_threads=_NUM_THREADS.value,
        **configured,
    )
    outputs.print_evaluation(result, _OUTPUT_DIR.value)


def _exported() -> Optional[str]:
    """The path of an exported model, or None: of a checkpoint.

    Refuses what only a checkpoint has: an exported model is as it was exported.
    """
    given = [flag for flag in (_SAVED_MODEL_DIR, _ONNX_PATH) if flag.value]
    if not given:
        if _NUM_THREADS.value is not None:
            raise app.UsageError("--num_threads needs --onnx_path.")
        return None
    names = ["checkpoint_path", "model_dir", "ceiling", *common.EXPERIMENT, *common.DEVICES]
    names += [flag.name for flag in given[1:]]
    names += ["num_threads"] if _SAVED_MODEL_DIR.value else []
    refused = [name for name in names if flags.FLAGS[name].present]
    if refused:
        raise app.UsageError(f"--{refused[0]} does not go together with --{given[0].name}.")
    if not _INPUT_PATH.value:
        raise app.UsageError(f"--{given[0].name} needs --input_path: the records to score on.")
    return given[0].value


if __name__ == "__main__":
    cli.run_script(__file__, main)
