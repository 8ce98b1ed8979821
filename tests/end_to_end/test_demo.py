"""The commands of the README on a few images: the demo, then what a user does with its results."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

METRICS = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "mIoU", "fIoU", "AP", "AP50", "AP75")


@pytest.fixture(scope="module")
def run(panoptic_tf_command):
    return panoptic_tf_command


@pytest.fixture(scope="module")
def demo(demo_folder, tmp_path_factory):
    """A copy, because the tests train on."""
    return pathlib.Path(shutil.copytree(demo_folder, tmp_path_factory.mktemp("copy") / "demo"))


def load(path):
    return json.loads(pathlib.Path(path).read_text())


def summary_tags(folder):
    """Tags of the TensorBoard events in a folder."""
    import tensorflow as tf

    paths = [str(path) for path in folder.glob("events.*")]
    events = map(tf.compat.v1.Event.FromString, tf.data.TFRecordDataset(paths).as_numpy_iterator())
    return {value.tag for event in events for value in event.summary.value}


def test_demo_leaves_every_result(demo):
    metrics = load(demo / "metrics.json")
    assert list(metrics) == ["keras", "saved_model", "tflite_float32", "tflite_int8"]
    for form in metrics.values():
        assert set(METRICS) <= set(form)
        assert len(form["per_category"]) == 10
    for form, name in (("tflite_float32", "model_float32"), ("tflite_int8", "model_int8")):
        assert metrics[form]["size_bytes"] == (demo / f"{name}.tflite").stat().st_size
        assert metrics[form]["latency_ms"] > 0
    assert metrics["tflite_int8"]["size_bytes"] < 0.4 * metrics["tflite_float32"]["size_bytes"]
    assert metrics["saved_model"]["latency_ms"] > 0
    assert "<html" in (demo / "report.html").read_text()
    assert (demo / "saved_model" / "1" / "saved_model.pb").exists()
    output = (demo / "output.txt").read_text()
    assert "tflite_float32" in output and "tflite_int8" in output and "seconds:" in output
    assert "val-*: 8 images, " in output


def test_exported_forms_score_as_keras_does(demo):
    metrics = load(demo / "metrics.json")
    # A barely trained network has near-ties that flip on rounding; trained ones agree closer.
    for form in ("saved_model", "tflite_float32"):
        for name in ("PQ", "PQ_stuff", "mIoU"):
            assert metrics[form][name] == pytest.approx(metrics["keras"][name], abs=0.5)


def test_int8_form_scores_nearly_as_keras_does(demo):
    metrics = load(demo / "metrics.json")
    # 30 steps leave logits close to each other; a trained network loses less.
    for name in ("PQ_stuff", "mIoU"):
        assert metrics["tflite_int8"][name] == pytest.approx(metrics["keras"][name], abs=5.0)


def test_evaluate_reads_the_config_of_the_run(run, demo, tmp_path):
    run(
        "evaluate",
        "--experiment=panoptic_deeplab_shapes",
        f"--model_dir={demo / 'model'}",
        f"--output_dir={tmp_path}",
        "--write_predictions",
        "--ceiling",
    )
    metrics = load(tmp_path / "metrics.json")
    assert metrics["PQ"] == pytest.approx(load(demo / "metrics.json")["keras"]["PQ"], abs=1e-6)
    assert metrics["step"] == 30
    assert 50 < metrics["PQ_ceiling"] <= 100

    # The result files are what the COCO tools read, and score the same.
    run(
        "score",
        f"--panoptic_json={demo / 'data' / 'val' / 'panoptic.json'}",
        f"--panoptic_dir={demo / 'data' / 'val' / 'panoptic'}",
        f"--predictions_json={tmp_path / 'predictions.json'}",
        f"--predictions_dir={tmp_path / 'predictions'}",
        f"--output_dir={tmp_path / 'score'}",
    )
    scored = load(tmp_path / "score" / "metrics.json")
    for name in ("PQ", "ECE"):
        assert scored[name] == pytest.approx(metrics[name], abs=1e-6)
    things = [row["dataset_id"] for row in scored["per_category"] if row["is_thing"]]
    results = load(tmp_path / "coco_instances_results.json")
    assert {result["category_id"] for result in results} <= set(things)


def test_evaluate_saved_model_and_tflite(run, demo, tmp_path):
    records = f"--input_path={demo / 'data' / 'records' / 'val-*'}"
    run(
        "evaluate",
        f"--saved_model_dir={demo / 'saved_model'}",
        records,
        f"--output_dir={tmp_path / 'saved_model'}",
    )
    run(
        "evaluate-tflite",
        f"--tflite_path={demo / 'model_float32.tflite'}",
        records,
        f"--output_dir={tmp_path / 'tflite'}",
    )
    run(
        "evaluate-tflite",
        f"--tflite_path={demo / 'model_int8.tflite'}",
        records,
        f"--output_dir={tmp_path / 'int8'}",
    )
    expected = load(demo / "metrics.json")
    forms = {"saved_model": "saved_model", "tflite": "tflite_float32", "int8": "tflite_int8"}
    for folder, form in forms.items():
        metrics = load(tmp_path / folder / "metrics.json")
        assert metrics["PQ"] == pytest.approx(expected[form]["PQ"], abs=1e-6)


def test_export_and_predict(run, demo, tmp_path):
    run(
        "export-saved-model",
        "--experiment=panoptic_deeplab_shapes",
        f"--checkpoint_path={demo / 'model'}",
        f"--export_dir={tmp_path / 'exported'}",
        "--input_type=image_bytes",
    )
    assert (tmp_path / "exported" / "1" / "saved_model.pb").exists()
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (90, 150, 3), np.uint8)
    Image.fromarray(pixels).save(photos / "noise.jpg")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 not an image")
    output = run(
        "predict",
        f"--saved_model_dir={tmp_path / 'exported'}",
        f"--input={photos / '*.jpg'}",
        f"--output_dir={tmp_path / 'predicted'}",
        expect=1,
    )
    assert "broken.jpg" in output
    id_map = Image.open(tmp_path / "predicted" / "predictions" / "noise.png")
    assert id_map.size == (150, 90)
    assert [
        image["file_name"] for image in load(tmp_path / "predicted" / "predictions.json")["images"]
    ]


def test_training_goes_on_where_it_was(run, demo):
    output = run(
        "train",
        "--experiment=panoptic_deeplab_shapes",
        "--mode=train_and_eval",
        f"--model_dir={demo / 'model'}",
        f"--config_file={demo / 'model' / 'params.yaml'}",
        "--params_override=trainer.train_steps=40,trainer.validation_interval=10",
    )
    assert "continuing from step 30 of 40" in output
    assert load(demo / "model" / "metrics.json")["step"] == 40
    tags = summary_tags(demo / "model" / "validation")
    assert {"PQ", "mIoU", "panel/0", "panel/3"} <= tags


def test_wrong_config_key_is_named(run, tmp_path):
    output = run(
        "train",
        "--experiment=panoptic_deeplab_shapes",
        "--mode=train",
        f"--model_dir={tmp_path / 'model'}",
        "--params_override=task.model.no_such_key=1",
        expect=1,
    )
    assert "no_such_key" in output and "Traceback" not in output
    assert not (tmp_path / "model").exists()
