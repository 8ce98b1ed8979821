"""Predicting videos and cameras: a video of overlays, and the files of other formats by frame."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import List, Optional, Sequence, Union

from PIL import Image
from tqdm import tqdm

from panoptic_tf.datasets import files, images
from panoptic_tf.serving import video as video_lib
from panoptic_tf.serving import writers
from panoptic_tf.serving.prediction import unique_names
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.serving.result import PanopticResult
from panoptic_tf.serving.writers import base, overlays

DEFAULT = (overlays.FOLDER,)
"""The formats that are written."""

FRAMES = "frames"
"""Folder of the pictures that results by frame are of."""

_BAR = "{desc}: {n_fmt} of {total_fmt} frames [{elapsed}<{remaining}, {rate_noinv_fmt}]"
_ENDLESS_BAR = "{desc}: {n_fmt} frames [{elapsed}, {rate_noinv_fmt}]"


def predict_videos(
    predictor: Predictor,
    sources: Sequence[Union[str, int]],
    output_dir: str,
    *,
    formats: Sequence[str] = DEFAULT,
    every: int = 1,
    max_frames: Optional[int] = None,
) -> List[str]:
    """Predicts the frames of videos and cameras.

    The format `overlays` is one video, `overlays/<name>.mp4`. For the others, each predicted frame
    is saved as `frames/<name>/<number>.png`, and results are as of a folder `frames` of
    photographs. A camera ends with `max_frames` or an interrupt from the keyboard.

    Args:
      predictor: the model.
      sources: paths of videos and numbers of cameras.
      output_dir: folder of the results.
      formats: of `writers.FORMATS`.
      every: every n-th frame is predicted; a video of overlays lasts as long as its source.
      max_frames: most frames that are predicted of each.

    Returns:
      One message for each source that cannot be read, or is damaged: it has no video of overlays.

    Raises:
      ValueError: a format that there is not, or that cannot hold the model's categories; an
        argument that is out of its range; OpenCV is not installed.
      OSError: a file cannot be written.
    """
    writers.check_formats(formats)
    if every < 1 or max_frames is not None and max_frames < 1:
        raise ValueError(f"every and max_frames must be at least 1, got {every}, {max_frames}.")
    video_lib.import_opencv()
    names = unique_names(
        [f"camera_{one}" if isinstance(one, int) else os.path.basename(one) for one in sources]
    )
    has_overlay = overlays.FOLDER in formats
    by_frame = [
        writers.FORMATS[name](output_dir, predictor.dataset_info)
        for name in dict.fromkeys(formats)
        if name != overlays.FOLDER
    ]
    failures = []
    for source, name in zip(sources, names):
        try:
            if not files.is_printable(str(source)):
                raise ValueError(f"{source!r}: the name is not printable UTF-8 text. Rename it.")
            with contextlib.ExitStack() as stack:
                video = stack.enter_context(
                    video_lib.Video(
                        source,
                        max_pixels=predictor.max_pixels,
                        is_turned=predictor.exif == images.APPLY,
                    )
                )
                overlay = None
                if has_overlay:
                    path = os.path.join(output_dir, overlays.FOLDER, f"{name}.mp4")
                    rate = video.frames_per_second / every
                    overlay = stack.enter_context(video_lib.write_video(path, rate))
                results = _Results(output_dir, name, overlay, by_frame)
                _predict_video(predictor, video, results, every, max_frames)
        except ValueError as error:
            failures.append(str(error))
    for writer in by_frame:
        writer.close()
    return failures


def _predict_video(
    predictor: Predictor,
    video: video_lib.Video,
    results: _Results,
    every: int,
    max_frames: Optional[int],
) -> None:
    total = max_frames
    if video.num_frames:
        total = min(-(-video.num_frames // every), max_frames or video.num_frames)
    frames = itertools.islice(video.frames(every=every), max_frames)
    bar_format = _BAR if total else _ENDLESS_BAR
    with tqdm(frames, video.name, total, unit=" frames", bar_format=bar_format) as bar:
        try:
            for frame in bar:
                results.add(frame, predictor(frame.pixels))
        except KeyboardInterrupt:
            if not (video.is_camera and results.num_frames):
                raise


class _Results:
    """What is written of one video."""

    def __init__(
        self,
        output_dir: str,
        name: str,
        overlay: Optional[video_lib.VideoWriter],
        by_frame: Sequence[base.Writer],
    ):
        self._output_dir = output_dir
        self._name = name
        self._overlay = overlay
        self._by_frame = by_frame
        self.num_frames = 0

    def add(self, frame: video_lib.Frame, result: PanopticResult) -> None:
        if self._overlay:
            self._overlay.add(result.plot())
        if self._by_frame:
            self._write(frame, result)
        self.num_frames += 1

    def _write(self, frame: video_lib.Frame, result: PanopticResult) -> None:
        name = f"{self._name}/{frame.number:06d}"
        path = os.path.join(self._output_dir, FRAMES, f"{name}.png")
        image = base.ImageFile(path, f"{name}.png", name, name)
        for writer in self._by_frame:
            writer.check(image, result)
        base.save_png(Image.fromarray(frame.pixels), path)
        for writer in self._by_frame:
            writer.add(image, result)
