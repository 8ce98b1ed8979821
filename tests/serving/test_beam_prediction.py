"""Prediction by Apache Beam: the files of the ordinary prediction."""

import functools
import json
import pickle

import pytest

from panoptic_tf.serving import beam_prediction, prediction, writers
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.serving.writers.base import ImageFile

NAMES = ("b", "a/1", "a/2", "c", "d", "e", "f")


@pytest.fixture
def photos(tmp_path, make_image, encode):
    """Seven photographs, one of them in vain; the output is small, their sizes differ."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(make_image(30 + number, 40 - number, seed=number)))
    (tmp_path / "photos" / "c.png").write_bytes(b"no photograph")
    return tmp_path / "photos"


def _contents(folder):
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.is_file()}


def _predict(load, photos, output_dir, predict_images=None):
    paths = prediction.find_images([f"{photos}/**"])
    return prediction.predict_files(
        load(), paths, str(output_dir), formats=list(writers.FORMATS), predict_images=predict_images
    )


@pytest.mark.parametrize("model", ["tflite_path", "saved_model_dir"])
def test_files_are_those_of_the_ordinary_prediction(photos, tmp_path, model, request, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    monkeypatch.setattr(beam_prediction, "_IMAGES_PER_TASK", 3)
    load = functools.partial(Predictor, request.getfixturevalue(model), score_threshold=0.1)
    expected = _predict(load, photos, tmp_path / "expected")
    by_beam = beam_prediction.by_beam(load, str(tmp_path / "out"), [])
    assert _predict(load, photos, tmp_path / "out", by_beam) == expected
    assert len(expected) == 1 and "c.png is not an image" in expected[0]
    files = _contents(tmp_path / "out")
    assert files == _contents(tmp_path / "expected")
    assert len(json.loads(files["coco_instances.json"])["images"]) == len(NAMES) - 1


def test_labels_that_somebody_may_have_corrected_stay(photos, tmp_path, tflite_path):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    load = functools.partial(Predictor, tflite_path)
    (tmp_path / "out" / "labelme").mkdir(parents=True)
    (tmp_path / "out" / "labelme" / "b.json").write_text("corrected")
    by_beam = beam_prediction.by_beam(load, str(tmp_path / "out"), [])
    with pytest.raises(ValueError, match="labels may have been corrected"):
        _predict(load, photos, tmp_path / "out", by_beam)


@pytest.mark.parametrize("ids", [(11, 12, 13, 14), ("a", "b", "c", "d")])
@pytest.mark.parametrize("name", list(writers.FORMATS))
def test_what_equal_writers_keep_joins(name, ids, tmp_path, make_image, tflite_path):
    predictor = Predictor(tflite_path)
    images = [ImageFile(str(tmp_path / f"{i}.png"), f"{i}.png", str(i), i) for i in ids]
    results = [predictor(make_image(30, 40, seed=seed)) for seed in range(4)]

    def write(output_dir, *cuts):
        whole = writers.FORMATS[name](str(output_dir), predictor.dataset_info)
        empty = pickle.dumps(whole)
        for start, end in zip((0, *cuts), (*cuts, len(images))):
            part = pickle.loads(empty)
            for image, result in zip(images[start:end], results[start:end]):
                part.add(image, result)
            whole.join(part.kept())
        whole.close()
        return _contents(output_dir)

    assert write(tmp_path / "out", 1, 3) == write(tmp_path / "expected")
