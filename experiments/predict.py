"""Predicts images and videos with an exported model.

panoptic-tf predict --saved_model_dir=runs/demo/saved_model --input='photos/*.jpg' \
    --output_dir=runs/predictions

writes, in --output_dir, what --write names: overlays (overlays/<name>.jpg), coco_panoptic
(predictions/<name>.png, segment ids as COCO has them, and predictions.json), coco_instances
(coco_instances.json), semantic_masks and instance_masks (<name>.png in folders of these names),
labelme (labelme/<name>.json). <name> is the path below the folder of --input, without its ending.
Images that cannot be read, or have more than --max_pixels, are named at the end, and the exit code
is 1.

Of videos (--video, or --input that ends like one) and of a --camera, overlays are a video,
overlays/<name>.mp4; with other formats in --write, each frame is saved in frames/<name>/ and
predicted like a photograph there.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, Tuple, Union

from absl import app, flags

from panoptic_tf.experiments import cli, limits, outputs, runners
from panoptic_tf.serving import writers
from panoptic_tf.serving.writers import overlays

if TYPE_CHECKING:
    from panoptic_tf.serving.predictor import Predictor

_SAVED_MODEL_DIR = flags.DEFINE_string("saved_model_dir", None, "The model, or its versions.")
_TFLITE_PATH = flags.DEFINE_string("tflite_path", None, "The model as a .tflite file.")
_ONNX_PATH = flags.DEFINE_string("onnx_path", None, "The model as a .onnx file.")
_INPUT = flags.DEFINE_multi_string(
    "input",
    None,
    "A photograph, a folder of such, a folder with /** behind for those of folders in it, or a "
    "pattern; may be repeated. Or videos, by name or pattern.",
)
_VIDEO = flags.DEFINE_multi_string(
    "video", None, "A video, whatever it is called; may be repeated."
)
_CAMERA = flags.DEFINE_integer(
    "camera",
    None,
    "Number of a camera, from 0; Ctrl-C or --max_frames ends it.",
    lower_bound=0,
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the results.", required=True)
_WRITE = flags.DEFINE_list(
    "write",
    list(writers.DEFAULT),
    f"What is written: {', '.join(writers.FORMATS)}; of videos, overlays unless this is given.",
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
_TILE_SIZE = flags.DEFINE_list(
    "tile_size",
    None,
    "Predicts larger images in tiles of this side, or height,width, in pixels of the image; the "
    "model's input size keeps their scale. Default: every image whole.",
)
_TILE_OVERLAP = flags.DEFINE_integer(
    "tile_overlap",
    None,
    "Pixels that neighbouring tiles share; as wide as most things is good. Default: a quarter of "
    "the tile's shorter side.",
    lower_bound=0,
)
_EVERY = flags.DEFINE_integer(
    "every", 1, "Of videos: every n-th frame is predicted.", lower_bound=1
)
_MAX_FRAMES = flags.DEFINE_integer(
    "max_frames", None, "Of videos: most frames that are predicted of each.", lower_bound=1
)
_NUM_THREADS = flags.DEFINE_integer("num_threads", None, "Threads that run a file.")
_MAX_PIXELS = limits.define_max_pixels("larger ones are not decoded")
runners.define_flags()
flags.mark_flags_as_mutual_exclusive(["input", "video", "camera"], required=True)
flags.mark_flags_as_mutual_exclusive(["saved_model_dir", "tflite_path", "onnx_path"], required=True)


def main(argv: Sequence[str]) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected arguments: {argv[1:]}. Quote the pattern: --input='photos/*.jpg'."
        )
    from panoptic_tf.serving.predictor import Predictor

    writers.check_formats(_WRITE.value)
    paths, videos = _sources()
    if videos and runners.beam_options() is not None:
        raise app.UsageError("--runner=beam predicts photographs, no videos.")
    for flag in [_OVERLAY_FORMAT] if videos else [_EVERY, _MAX_FRAMES]:
        if flag.present:
            kind = "photographs" if videos else "videos and cameras"
            raise app.UsageError(f"--{flag.name} is read with {kind} only.")
    outputs.make_output_dir(_OUTPUT_DIR.value)
    load = functools.partial(
        Predictor,
        _SAVED_MODEL_DIR.value or _TFLITE_PATH.value or _ONNX_PATH.value,
        num_threads=_NUM_THREADS.value,
        max_pixels=_MAX_PIXELS.value,
        exif=_EXIF.value,
        score_threshold=_SCORE_THRESHOLD.value,
        tile_size=_tile_size(),
        tile_overlap=_TILE_OVERLAP.value,
    )
    failures = _predict_videos(load(), videos) if videos else _predict_images(load, paths)
    for message in failures:
        print(" ".join(message.splitlines()), file=sys.stderr)
    if failures:
        kind = "videos" if videos else "images"
        count = len(paths) + len(videos)
        print(f"{len(failures)} of {count} {kind} could not be read.", file=sys.stderr)
        sys.exit(1)


def _sources() -> Tuple[List[str], List[Union[str, int]]]:
    """Photographs, or videos and the camera; never both."""
    from panoptic_tf.serving import prediction, video

    found = prediction.find_images(_INPUT.value or [])
    is_video = [path.lower().endswith(video.ENDINGS) for path in found]
    videos = [*found, *(_VIDEO.value or [])] if _CAMERA.value is None else [_CAMERA.value]
    if found and not any(is_video):
        return found, []
    if not all(is_video):
        raise ValueError(
            f"--input: {found[is_video.index(True)]} is a video, "
            f"{found[is_video.index(False)]} is none. Predict them by two commands."
        )
    video.import_opencv()
    return [], videos


def _tile_size() -> Optional[List[int]]:
    if _TILE_SIZE.value is None:
        return None
    try:
        return [int(side) for side in _TILE_SIZE.value]
    except ValueError:
        raise ValueError(
            "--tile_size must be a side or height,width, whole numbers, "
            f"got {','.join(_TILE_SIZE.value)!r}."
        ) from None


def _predict_images(load: Callable[[], Predictor], paths: Sequence[str]) -> List[str]:
    from panoptic_tf.serving import beam_prediction, prediction

    predict_images, options = None, runners.beam_options()
    if options is not None:
        predict_images = beam_prediction.by_beam(load, _OUTPUT_DIR.value, options)
    return prediction.predict_files(
        load(),
        paths,
        _OUTPUT_DIR.value,
        image_dir=prediction.common_folder(_INPUT.value),
        formats=_WRITE.value,
        overlay_format=_OVERLAY_FORMAT.value,
        predict_images=predict_images,
    )


def _predict_videos(predictor: Predictor, videos: Sequence[Union[str, int]]) -> List[str]:
    from panoptic_tf.serving import video_prediction

    return video_prediction.predict_videos(
        predictor,
        videos,
        _OUTPUT_DIR.value,
        formats=_WRITE.value if _WRITE.present else video_prediction.DEFAULT,
        every=_EVERY.value,
        max_frames=_MAX_FRAMES.value,
    )


if __name__ == "__main__":
    cli.run_script(__file__, main)
