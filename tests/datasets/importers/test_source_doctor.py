"""`doctor` on annotations of any format, before they are converted."""

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import importers, source_doctor
from panoptic_tf.metrics.panoptic_quality import PanopticQuality

SQUARE = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"


@pytest.fixture
def data_yaml(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(4):
        pixels = np.full([8, 8, 3], 40 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "labels" / f"{i}.txt").write_text(SQUARE)
    path = tmp_path / "data.yaml"
    path.write_text("train: images\nnames: [car]\n")
    return path


def examine(data_yaml):
    source = importers.read("yolo", source=str(data_yaml))
    return source_doctor.examine_source(source, build_quality=PanopticQuality)


def test_sound_annotations(data_yaml):
    report = examine(data_yaml)
    assert report["problems"] == [] and report["ground_truth_PQ"] == 100
    assert (report["num_images"], report["num_segments"], report["num_instances"]) == (4, 4, 4)
    (car,) = report["per_category"]
    assert car["name"] == "car" and car["pixel_share"] == pytest.approx(16 / 64)


def test_every_problem_is_named(data_yaml):
    folder = data_yaml.parent
    (folder / "labels" / "0.txt").write_text("7 " + SQUARE[2:])
    (folder / "images" / "1.png").write_bytes(b"no image")
    (folder / "labels" / "3.txt").write_text("")
    source = importers.read("yolo", source=str(data_yaml))
    (folder / "labels" / "2.txt").unlink()
    report = source_doctor.examine_source(source, build_quality=PanopticQuality)
    first, second, third = report["problems"]
    assert "labels/0.txt: line 1: class 7.0 is not among 'names'" in first
    assert "images/1.png" in second and "photograph" in second
    assert "labels/2.txt: no such file, for image_id 'images/2'" in third
    assert report["num_images"] == 1  # The empty one.
