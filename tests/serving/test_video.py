"""Videos and cameras: their frames, what is written of them, and files that are damaged."""

import builtins
import json
import os
import struct

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import converter
from panoptic_tf.serving import video, video_prediction
from panoptic_tf.serving.predictor import Predictor

cv2 = video.import_opencv()

SIZE = (48, 64)
COLORS = [(220, 40, 40), (40, 220, 40)]


def picture(number, size=SIZE):
    """Even frames are red, odd ones green; a column of pixels tells the number."""
    pixels = np.full((*size, 3), COLORS[number % 2], np.uint8)
    pixels[:, 4 * number : 4 * number + 4] = 0
    return pixels


def write(path, count=12, size=SIZE, codec="mp4v", rate=10.0):
    path = str(path)
    code = cv2.VideoWriter_fourcc(*codec)
    writer = cv2.VideoWriter(path, code, rate, size[::-1])
    for number in range(count):
        writer.write(picture(number, size)[..., ::-1].copy())
    writer.release()
    return path


def read(path, **options):
    with video.Video(path, **options) as opened:
        return [frame.pixels for frame in opened.frames()]


@pytest.fixture(scope="module")
def predictor(tflite_path):
    return Predictor(tflite_path)


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "in").mkdir()
    return write(tmp_path / "in" / "clip.mp4")


def written(folder):
    """Files below a folder, hidden ones too."""
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    )


def test_frames(clip):
    with video.Video(clip) as opened:
        assert (opened.num_frames, opened.frames_per_second) == (12, 10.0)
        assert opened.name == clip and not opened.is_camera
        frames = list(opened.frames(every=5))
    assert [frame.number for frame in frames] == [0, 5, 10]
    for number, pixels in frames:
        assert pixels.dtype == np.uint8 and pixels.shape == (*SIZE, 3)
        np.testing.assert_allclose(pixels[24, 2 + 4 * number], 0, atol=40)
        np.testing.assert_allclose(pixels[24, 60], COLORS[number % 2], atol=40)


def test_a_turned_video_is_turned(clip, tmp_path):
    """As of a phone: the matrix of the track says by how much."""
    with open(clip, "rb") as file:
        content = file.read()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    right = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    start = content.index(upright, content.index(b"tkhd"))
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(content[:start] + right + content[start + len(upright) :])
    stored = read(clip)
    np.testing.assert_array_equal(read(turned), [np.rot90(pixels, -1) for pixels in stored])
    np.testing.assert_array_equal(read(turned, is_turned=False), stored)


def test_a_video_of_overlays(predictor, clip, tmp_path, capsys):
    output_dir = tmp_path / "out"
    assert not video_prediction.predict_videos(predictor, [clip], str(output_dir))
    assert written(output_dir) == ["overlays/clip.mp4"]
    with video.Video(output_dir / "overlays" / "clip.mp4") as opened:
        assert (opened.num_frames, opened.frames_per_second) == (12, 10.0)
        frames = list(opened.frames())
    for (_, pixels), source in zip(frames, read(clip)):
        expected = predictor(source).plot()
        assert np.abs(pixels.astype(int) - expected).mean() < 12
    shown = capsys.readouterr().err
    assert "clip.mp4: 12 of 12 frames [" in shown and "frames/s]" in shown


def test_formats_by_frame(predictor, clip, tmp_path, dataset_info):
    output_dir = tmp_path / "out"
    formats = ["coco_panoptic", "labelme", "overlays"]
    assert not video_prediction.predict_videos(
        predictor, [clip], str(output_dir), formats=formats, every=3, max_frames=2
    )
    names = ["clip/000000", "clip/000003"]
    assert written(output_dir) == sorted(
        [
            "overlays/clip.mp4",
            "predictions.json",
            *(f"{folder}/{n}.png" for folder in ("frames", "predictions") for n in names),
            *(f"labelme/{n}.json" for n in names),
        ]
    )
    with Image.open(output_dir / "frames" / "clip" / "000003.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), read(clip)[3])
    with video.Video(output_dir / "overlays" / "clip.mp4") as overlay:
        assert overlay.num_frames == 2
        assert overlay.frames_per_second == pytest.approx(10 / 3, abs=0.01)
    with open(output_dir / "predictions.json") as file:
        images = json.load(file)["images"]
    assert [image["file_name"] for image in images] == [f"{name}.png" for name in names]
    # They are what `convert` reads.
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=str(output_dir / "predictions.json"),
        panoptic_dir=str(output_dir / "predictions"),
        image_dir=str(output_dir / "frames"),
        output_dir=str(tmp_path / "records"),
        split="train",
        num_processes=1,
    )


def test_names_of_several(predictor, clip, tmp_path):
    os.makedirs(tmp_path / "other")
    other = write(tmp_path / "other" / "clip.avi", count=2, size=(33, 45), codec="MJPG")
    output_dir = tmp_path / "out"
    assert not video_prediction.predict_videos(
        predictor, [clip, other], str(output_dir), max_frames=1
    )
    assert written(output_dir) == ["overlays/clip.mp4", "overlays/clip_2.mp4"]


@pytest.mark.parametrize(
    "sizes, message",
    [
        ([(64, 64), (32, 48)], r"pictures of \(64, 64\) and \(48, 32\), width and height"),
        ([(16, 9000)], "no video of 9000 x 16 pixels can be written"),
        ([], "a video needs a picture at least"),
    ],
)
def test_pictures_that_are_no_video(tmp_path, sizes, message):
    path = tmp_path / "out.mp4"
    with pytest.raises(ValueError, match=rf"out\.mp4: {message}"):
        with video.write_video(str(path), 5.0) as writer:
            for size in sizes:
                writer.add(np.zeros((*size, 3), np.uint8))
    assert os.listdir(tmp_path) == []


def test_slow_videos_keep_their_length(tmp_path):
    path = str(tmp_path / "out.mp4")
    with video.write_video(path, 0.25) as writer:
        for value in (0, 80, 160):
            writer.add(np.full((64, 64, 3), value, np.uint8))
    with video.Video(path) as written:
        assert written.num_frames == 3
        assert written._capture.get(video.import_opencv().CAP_PROP_FPS) == 0.25


def test_an_odd_size_keeps_its_pixels(tmp_path):
    path = str(tmp_path / "odd.mp4")
    with video.write_video(path, 5.0) as writer:
        for number in range(3):
            writer.add(picture(number, (33, 45)))
    assert [pixels.shape for pixels in read(path)] == [(34, 46, 3)] * 3


@pytest.mark.parametrize("codec, ending", [("MJPG", "avi"), ("mp4v", "mkv"), ("mp4v", "mp4")])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_truncated_files(predictor, tmp_path, codec, ending, share):
    whole = write(tmp_path / f"whole.{ending}", codec=codec)
    with open(whole, "rb") as file:
        content = file.read()
    cut = tmp_path / f"cut.{ending}"
    cut.write_bytes(content[: int(len(content) * share)])
    output_dir = tmp_path / "out"
    problems = video_prediction.predict_videos(predictor, [str(cut), whole], str(output_dir))
    (problem,) = problems
    assert problem.startswith(str(cut)) and "\n" not in problem
    assert "cannot be opened" in problem or "damaged or truncated: " in problem
    assert written(output_dir) == ["overlays/whole.mp4"]


def test_what_is_no_video(predictor, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    sources = [str(tmp_path / f"{name}.mp4") for name in ("text", "folder", "pipe", "missing")]
    problems = video_prediction.predict_videos(predictor, [*sources, 57], str(tmp_path / "out"))
    assert [problem.split(":")[0] for problem in problems] == [
        f"{sources[0]} cannot be opened",
        *sources[1:],
        "camera 57 cannot be opened",
    ]
    assert not (tmp_path / "out").exists() or not written(tmp_path / "out")


def test_limits(tflite_path, clip, tmp_path):
    small = Predictor(tflite_path, max_pixels=100)
    (problem,) = video_prediction.predict_videos(small, [clip], str(tmp_path / "out"))
    assert "clip.mp4 has 48 x 64 pixels" in problem and "limit is 100" in problem
    for options in ({"every": 0}, {"max_frames": 0}):
        with pytest.raises(ValueError, match="every and max_frames must be at least 1"):
            video_prediction.predict_videos(small, [clip], str(tmp_path / "out"), **options)
    with pytest.raises(ValueError, match="formats must be of overlays"):
        video_prediction.predict_videos(small, [clip], str(tmp_path / "out"), formats=["yolo"])


def test_a_fault_leaves_nothing(predictor, clip, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    output_dir = tmp_path / "out"
    monkeypatch.setattr(predictor, "predict_arrays", stop)
    with pytest.raises(KeyboardInterrupt):
        video_prediction.predict_videos(predictor, [clip], str(output_dir))
    assert not written(output_dir)
    # OpenCV says nothing where frames do not arrive.
    with pytest.raises(OSError, match="cannot write .*full.mp4: 1 of 2 frames arrived"):
        with video.write_video(str(output_dir / "full.mp4"), 5.0) as writer:
            writer.add(picture(0))
            writer.num_frames += 1
    assert not written(output_dir)


class Camera:
    """OpenCV's capture of a camera, which has no end."""

    def __init__(self, number):
        self.number = number

    def isOpened(self):  # noqa: N802
        return True

    def get(self, key):
        sizes = {cv2.CAP_PROP_FRAME_HEIGHT: SIZE[0], cv2.CAP_PROP_FRAME_WIDTH: SIZE[1]}
        return sizes.get(key, -1.0)

    def grab(self):
        return True

    def retrieve(self):
        return True, picture(0)[..., ::-1].copy()

    def set(self, key, value):
        pass

    def release(self):
        pass


def test_a_camera(predictor, tmp_path, monkeypatch, capsys):
    capture = cv2.VideoCapture
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda name, *kind: capture(name, *kind) if kind else Camera(name)
    )
    output_dir = tmp_path / "out"
    assert not video_prediction.predict_videos(predictor, [0], str(output_dir), max_frames=3)
    assert len(read(output_dir / "overlays" / "camera_0.mp4")) == 3
    # Ctrl-C while the fifth frame is predicted: the video has those before.
    calls = []

    def interrupted(pixels):
        calls.append(pixels)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return Predictor.predict_arrays(predictor, pixels)

    monkeypatch.setattr(predictor, "predict_arrays", interrupted)
    assert not video_prediction.predict_videos(predictor, [1], str(output_dir))
    assert len(read(output_dir / "overlays" / "camera_1.mp4")) == 4
    assert "camera 1: 4 frames [" in capsys.readouterr().err
    assert written(output_dir) == ["overlays/camera_0.mp4", "overlays/camera_1.mp4"]


def test_without_opencv(predictor, clip, tmp_path, monkeypatch):
    original = builtins.__import__

    def no_opencv(name, *args, **options):
        if name == "cv2":
            raise ImportError("No module named 'cv2'")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", no_opencv)
    with pytest.raises(ValueError, match=r"need OpenCV, .*No module.* 'panoptic-tf\[video\]'"):
        video_prediction.predict_videos(predictor, [clip], str(tmp_path / "out"))
