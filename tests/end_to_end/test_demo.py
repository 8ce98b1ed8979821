"""What a demo of a few images leaves behind."""

import json
import pathlib

import pytest

pytestmark = pytest.mark.slow

METRICS = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "mIoU", "fIoU", "AP", "AP50", "AP75")


def load(path):
    return json.loads(pathlib.Path(path).read_text())


def test_demo_leaves_every_result(demo_folder):
    metrics = load(demo_folder / "metrics.json")
    assert list(metrics) == ["keras", "saved_model", "tflite_float32", "tflite_int8"]
    for form in metrics.values():
        assert set(METRICS) <= set(form)
        assert len(form["per_category"]) == 10
    assert 50 < metrics["keras"]["PQ_ceiling"] <= 100
    for form, name in (("tflite_float32", "model_float32"), ("tflite_int8", "model_int8")):
        assert metrics[form]["size_bytes"] == (demo_folder / f"{name}.tflite").stat().st_size
        assert metrics[form]["latency_ms"] > 0
    assert metrics["tflite_int8"]["size_bytes"] < 0.4 * metrics["tflite_float32"]["size_bytes"]
    assert metrics["saved_model"]["latency_ms"] > 0
    assert "<html" in (demo_folder / "report.html").read_text()
    assert (demo_folder / "saved_model" / "1" / "saved_model.pb").exists()
    output = (demo_folder / "output.txt").read_text()
    assert "tflite_float32" in output and "tflite_int8" in output and "seconds:" in output
    assert "val-*: 8 images, " in output


def test_exported_forms_score_as_keras_does(demo_folder):
    metrics = load(demo_folder / "metrics.json")
    # A barely trained network has near-ties that flip on rounding; trained ones agree closer.
    for form in ("saved_model", "tflite_float32"):
        for name in ("PQ", "PQ_stuff", "mIoU"):
            assert metrics[form][name] == pytest.approx(metrics["keras"][name], abs=0.5)


def test_int8_form_scores_nearly_as_keras_does(demo_folder):
    metrics = load(demo_folder / "metrics.json")
    # 30 steps leave logits close to each other; a trained network loses less.
    for name in ("PQ_stuff", "mIoU"):
        assert metrics["tflite_int8"][name] == pytest.approx(metrics["keras"][name], abs=5.0)
