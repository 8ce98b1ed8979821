"""Scores a checkpoint, a SavedModel or a .tflite file on records.

panoptic-tf evaluate --model_dir=runs/shapes --output_dir=runs/shapes/evaluation
panoptic-tf evaluate --saved_model_dir=runs/demo/saved_model --input_path='data/val-*' \\
    --output_dir=runs/evaluation

writes metrics.json, report.html and, with --write_predictions, COCO panoptic result files. The
configuration is the params.yaml of --model_dir unless --config_file is given; the records are the
experiment's validation data unless --input_path is given.
"""

from __future__ import annotations

from absl import app, flags

from panoptic_tf.experiments import cli, common, limits, outputs

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


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.api import evaluation, models

    path, configured = _SAVED_MODEL_DIR.value, {}
    if path:
        _check_saved_model_flags()
        if models.kind_of(path) != models.SAVED_MODEL:
            raise ValueError(
                f"--saved_model_dir={path} is of a run or a file. Expected a SavedModel's folder, "
                "or that of its versions."
            )
    else:
        configured = {**common.experiment_options(), "saved_dir": flags.FLAGS.model_dir}
        path = _CHECKPOINT_PATH.value or flags.FLAGS.model_dir
        if not path:
            raise app.UsageError("give --model_dir, --checkpoint_path or --saved_model_dir.")
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
        **configured,
    )
    outputs.print_evaluation(result, _OUTPUT_DIR.value)


def _check_saved_model_flags() -> None:
    """Refuses what only a checkpoint has: a SavedModel is as it was exported."""
    names = ("checkpoint_path", "model_dir", "ceiling", *common.EXPERIMENT, *common.DEVICES)
    given = [name for name in names if flags.FLAGS[name].present]
    if given:
        raise app.UsageError(f"--{given[0]} does not go together with --saved_model_dir.")
    if not _INPUT_PATH.value:
        raise app.UsageError("--saved_model_dir needs --input_path: the records to score on.")


if __name__ == "__main__":
    cli.run_script(__file__, main)
