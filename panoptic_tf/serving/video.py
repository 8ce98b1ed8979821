"""Frames of video files and cameras, and a video file of pictures; by OpenCV and its FFmpeg.

OpenCV (`opencv-python-headless`) is the extra `video`; it is imported when a video is opened.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any, Iterator, NamedTuple, Optional, Tuple, Union

import numpy as np

from panoptic_tf.datasets import files
from panoptic_tf.serving import decoding

ENDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts")
"""Of the names of videos, in lower case."""

EXPECTED = "a video that FFmpeg reads"

_CODEC = "mp4v"  # MPEG-4 Part 2, the encoder for .mp4 that every build of OpenCV has
_DEFAULT_RATE = 25.0
_RATES = (1.0, 240.0)
_WRITTEN_RATES = (0.01, 240.0)
_MISSING_SHARE = 0.02  # Some containers state a frame or two that are not shown.


class Frame(NamedTuple):
    """One picture of a video.

    Attributes:
      number: of the frame in its source, from 0.
      pixels: uint8 [H, W, 3], RGB.
    """

    number: int
    pixels: np.ndarray


class Video:
    """A video file or a camera, opened; a context manager that closes it.

    Args:
      source: path of a file, or the number of a camera, from 0.
      max_pixels: limit of height times width of a frame.
      is_turned: frames are turned as the file says, which those of phones do.

    Attributes:
      name: of the source, for messages.
      is_camera: whether it is one.
      frames_per_second: float, 25 where the source states nothing that makes sense.
      num_frames: as the file states it; None where it does not, and of cameras.

    Raises:
      ValueError: it cannot be opened, or its frames are too large; the message names it. Or OpenCV
        is not installed.
    """

    def __init__(
        self,
        source: Union[str, os.PathLike[str], int],
        *,
        max_pixels: int = decoding.MAX_PIXELS,
        is_turned: bool = True,
    ):
        cv2 = import_opencv()
        self._cv2 = cv2
        self.is_camera = isinstance(source, int)
        if isinstance(source, int):
            self.name = f"camera {source}"
            self._capture = cv2.VideoCapture(source)
        else:
            self.name = os.fsdecode(source)
            problem = files.file_problem(self.name)
            if problem:
                raise ValueError(f"{self.name}: {problem}; expected {EXPECTED}.")
            # Other back ends take names for patterns of many files.
            self._capture = cv2.VideoCapture(os.path.abspath(self.name), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            reason = f"it is damaged, or not {EXPECTED}"
            if self.is_camera:
                reason = "there is none of this number, or another program has it"
            raise ValueError(f"{self.name} cannot be opened: {reason}.")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, int(is_turned))
        height, width = (
            int(self._capture.get(key))
            for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        )
        decoding.check_size(height, width, name=self.name, max_pixels=max_pixels)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = rate if _RATES[0] <= rate <= _RATES[1] else _DEFAULT_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        is_stated = not self.is_camera and math.isfinite(count) and count > 0
        self.num_frames = int(count) if is_stated else None

    def frames(self, *, every: int = 1) -> Iterator[Frame]:
        """Every n-th frame, from where the video stands to its end; a camera has none.

        Raises:
          ValueError: there is no frame, or the file ends before the frames that it states.
        """
        number = 0
        while self._capture.grab():
            if number % every == 0:
                is_there, pixels = self._capture.retrieve()
                if not is_there:
                    break
                yield Frame(number, self._cv2.cvtColor(pixels, self._cv2.COLOR_BGR2RGB))
            number += 1
        if not number:
            raise ValueError(f"{self.name} has no frame that can be read.")
        stated = self.num_frames or 0
        if stated - number > max(1.0, _MISSING_SHARE * stated):
            raise ValueError(
                f"{self.name} is damaged or truncated: {number} of {stated} frames can be read."
            )

    def close(self) -> None:
        """Frees the file or camera."""
        self._capture.release()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class VideoWriter:
    """Writes pictures of one size as a video, MPEG-4 in .mp4; see `write_video`."""

    def __init__(self, path: str, frames_per_second: float, name: str):
        self._path = path
        self._name = name
        self._size: Optional[Tuple[int, int]] = None
        self._rate = min(max(frames_per_second, _WRITTEN_RATES[0]), _WRITTEN_RATES[1])
        self._cv2 = import_opencv()
        self._writer: Optional[Any] = None
        self.num_frames = 0

    def add(self, picture: np.ndarray) -> None:
        """Adds a picture, uint8 [H, W, 3], RGB; a side of odd length gets its last pixel twice.

        Raises:
          ValueError: it has another size than the first, or no video can be written of its size.
        """
        height, width = picture.shape[:2]
        picture = np.pad(picture, [(0, height % 2), (0, width % 2), (0, 0)], "edge")
        size = (picture.shape[1], picture.shape[0])
        if self._size is None:
            self._size = size
            code = self._cv2.VideoWriter_fourcc(*_CODEC)
            self._writer = self._cv2.VideoWriter(self._path, code, self._rate, size)
        if size != self._size:
            raise ValueError(
                f"{self._name}: pictures of {self._size} and {size}, width and height; expected "
                "one size."
            )
        if self._writer is None or not self._writer.isOpened():
            raise ValueError(
                f"{self._name}: no video of {size[0]} x {size[1]} pixels can be written. Is the "
                "picture too large for its format, or the disk full?"
            )
        self._writer.write(self._cv2.cvtColor(picture, self._cv2.COLOR_RGB2BGR))
        self.num_frames += 1

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.release()


@contextlib.contextmanager
def write_video(path: str, frames_per_second: float) -> Iterator[VideoWriter]:
    """Gives a writer of a video, which has its name when the block ends without an error.

    Args:
      path: of the file, .mp4.
      frames_per_second: of the video; limited to 0.01..240.

    Raises:
      ValueError: no picture was added; and what `VideoWriter.add` raises.
      OSError: it cannot be written, or the disk is full; the message names it.
    """
    with files.atomic_path(path) as temporary:
        named = temporary + ".mp4"  # The ending is the format.
        try:
            writer = VideoWriter(named, frames_per_second, path)
            try:
                yield writer
            finally:
                writer.close()
            if not writer.num_frames:
                raise ValueError(f"{path}: a video needs a picture at least.")
            _check_whole(named, path, writer.num_frames)
            os.replace(named, temporary)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(named)


def _check_whole(written: str, path: str, num_frames: int) -> None:
    """Whether all frames arrived: OpenCV's writer says nothing of a full disk."""
    try:
        with Video(written) as video:
            found = video.num_frames
    except ValueError:
        found = 0
    if found != num_frames:
        raise OSError(
            f"cannot write {path}: {found} of {num_frames} frames arrived. Is the disk full?"
        )


def import_opencv() -> Any:
    """OpenCV, quiet: what it and FFmpeg say of a file is in our errors.

    That is said by two variables of this process, which are left as they are where they are set.

    Raises:
      ValueError: it is not installed.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"videos and cameras need OpenCV, which cannot be imported ({error}). Install it with "
            "`pip install 'panoptic-tf[video]'`."
        ) from error
    return cv2
