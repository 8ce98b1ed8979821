"""Predicts images with an exported model.

panoptic-tf predict --saved_model_dir=runs/demo/saved_model --input='photos/*.jpg' \
    --output_dir=runs/predictions

writes, in --output_dir, what --write names: overlays (overlays/<name>.jpg), coco_panoptic
(predictions/<name>.png, segment ids as COCO has them, and predictions.json), coco_instances
(coco_instances.json), semantic_masks and instance_masks (<name>.png in folders of these names),
labelme (labelme/<name>.json). <name> is the path below the folder of --input, without its ending.
Images that cannot be read, or have more than --max_pixels, are named at the end, and the exit code
is 1.
"""

from __future__ import annotations

import sys
from typing import Sequence

from absl import app, flags

from panoptic_tf.experiments import cli, limits, outputs
from panoptic_tf.serving import writers
from panoptic_tf.serving.writers import overlays

_SAVED_MODEL_DIR = flags.DEFINE_string("saved_model_dir", None, "The model, or its versions.")
_TFLITE_PATH = flags.DEFINE_string("tflite_path", None, "The model as a .tflite file.")
_INPUT = flags.DEFINE_multi_string(
    "input",
    None,
    "A photograph, a folder of such, a folder with /** behind for those of folders in it, or a "
    "pattern; may be repeated.",
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the results.", required=True)
_WRITE = flags.DEFINE_list(
    "write", list(writers.DEFAULT), f"What is written: {', '.join(writers.FORMATS)}."
)
_OVERLAY_FORMAT = flags.DEFINE_enum(
    "overlay_format", overlays.JPEG, list(overlays.PICTURES), "Of the overlays."
)
_SCORE_THRESHOLD = flags.DEFINE_float(
    "score_threshold",
    None,
    "Things of a lower score are left out: their pixels become void. Default: as the model gives "
    "them; 0.5 of a model that only detects.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_EXIF = flags.DEFINE_enum(
    "exif",
    "apply",
    ["apply", "ignore"],
    "What is done with an EXIF orientation: apply turns the picture, and results are of the turned "
    "one; ignore predicts the pixels as they are stored.",
)
_NUM_THREADS = flags.DEFINE_integer("num_threads", None, "Threads of the TFLite interpreter.")
_MAX_PIXELS = limits.define_max_pixels("larger ones are not decoded")
flags.mark_flag_as_required("input")
flags.mark_flags_as_mutual_exclusive(["saved_model_dir", "tflite_path"], required=True)


def main(argv: Sequence[str]) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected arguments: {argv[1:]}. Quote the pattern: --input='photos/*.jpg'."
        )
    from panoptic_tf.serving import prediction
    from panoptic_tf.serving.predictor import Predictor

    writers.check_formats(_WRITE.value)
    paths = prediction.find_images(_INPUT.value)
    outputs.make_output_dir(_OUTPUT_DIR.value)
    predictor = Predictor(
        _SAVED_MODEL_DIR.value or _TFLITE_PATH.value,
        num_threads=_NUM_THREADS.value,
        max_pixels=_MAX_PIXELS.value,
        exif=_EXIF.value,
        score_threshold=_SCORE_THRESHOLD.value,
    )
    failures = prediction.predict_files(
        predictor,
        paths,
        _OUTPUT_DIR.value,
        image_dir=prediction.common_folder(_INPUT.value),
        formats=_WRITE.value,
        overlay_format=_OVERLAY_FORMAT.value,
    )
    for message in failures:
        print(" ".join(message.splitlines()), file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(paths)} images could not be read.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.run_script(__file__, main)
