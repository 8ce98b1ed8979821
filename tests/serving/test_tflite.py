"""The TFLite file: the same answers, builtin operators only, categories on board."""

import io
import os
import sys
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.serving import tflite
from panoptic_tf.serving.model_info import FILE_NAME, MAX_BYTES, ModelInfo
from panoptic_tf.serving.tflite import TFLiteRunner, export_tflite, read_model_info


@pytest.mark.parametrize("size", [(32, 48), (20, 30), (75, 200)])
def test_equals_python(tflite_path, network, make_image, size):
    image, info = geometry.fit_and_pad(tf.constant(make_image(*size)), (32, 48))
    normalized = normalize.normalize_image(
        image, info, mean=(120.0, 110.0, 100.0), std=(50.0, 60.0, 70.0)
    )
    expected = network({"image": normalized[None], "image_info": info[None]})
    answer = TFLiteRunner(tflite_path, num_threads=1)(image.numpy(), info.numpy())
    assert set(answer) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(answer[key], value, atol=1e-5, err_msg=key)


def test_file_describes_itself(tflite_path, dataset_info):
    info = read_model_info(tflite_path)
    assert info == ModelInfo(dataset_info, (32, 48), "stand_in", "tflite")
    assert TFLiteRunner(tflite_path).input_size == (32, 48)


@pytest.mark.parametrize("quantization", ["float16", "dynamic"])
def test_weight_quantization_runs(network, export_arguments, make_image, tmp_path, quantization):
    path = str(tmp_path / "model.tflite")
    export_tflite(network, tflite_path=path, quantization=quantization, **export_arguments)
    image, info = geometry.fit_and_pad(tf.constant(make_image(32, 48)), (32, 48))
    answer = TFLiteRunner(path)(image.numpy(), info.numpy())
    assert set(np.unique(answer["category_mask"])) == {1, 2, 3}


def test_unknown_quantization_is_refused(network, export_arguments, tmp_path):
    with pytest.raises(ValueError, match="one of none, float16, dynamic, int8, got 'int4'"):
        export_tflite(
            network, tflite_path=str(tmp_path / "m"), quantization="int4", **export_arguments
        )


def test_operator_that_is_not_builtin_is_named(network, export_arguments, tmp_path):
    areas = tf.keras.layers.Lambda(
        lambda ids: tf.math.bincount(ids, minlength=4, maxlength=4, axis=-1)
    )
    mask = tf.keras.layers.Reshape([32 * 48])(network.output["category_mask"])
    bad = tf.keras.Model(network.input, {"areas": areas(mask)})
    with pytest.raises(ValueError, match=r"not builtin in TFLite: .*Bincount"):
        export_tflite(bad, tflite_path=str(tmp_path / "bad.tflite"), **export_arguments)
    assert os.listdir(tmp_path) == []


def _with_archive(path, entries, compression=zipfile.ZIP_DEFLATED):
    model = b"\x1c\0\0\0TFL3" + b"\0" * 64
    buffer = io.BytesIO(model)
    with zipfile.ZipFile(buffer, "a", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    path.write_bytes(buffer.getvalue())
    return str(path)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({}, "no readable dataset_info.json"),
        ({"labels.txt": b"a"}, "no readable dataset_info.json"),
        ({FILE_NAME: b" " * (MAX_BYTES + 1)}, "at most"),
        ({FILE_NAME: b"{]"}, "is not JSON"),
        ({FILE_NAME: b"[" * 100_000}, "is not JSON"),
        ({FILE_NAME: b"[]"}, "'name' must be"),
        ({FILE_NAME: b'{"name": "x", "categories": []}'}, "'categories' must be"),
        (
            {FILE_NAME: b'{"name": "x", "categories": [{"id": 1, "name": "a"}]}'},
            "'model' must be an object",
        ),
        (
            {
                FILE_NAME: b'{"name": "x", "categories": [{"id": 1, "name": "a"}], '
                b'"model": {"input_size": [0, 5], "experiment": ""}}'
            },
            "input_size must be",
        ),
        ({f"{i}.txt": b"" for i in range(17)}, "over 16 files"),
    ],
)
def test_archive_of_others_is_checked(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message):
        read_model_info(_with_archive(tmp_path / "model.tflite", entries))


def test_file_that_is_no_model(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(ValueError, match=r"model.tflite is not a TFLite file"):
        TFLiteRunner(str(path))
    with pytest.raises(ValueError, match="cannot be loaded"):
        TFLiteRunner(_with_archive(path, {}))


def test_model_with_other_inputs(tmp_path):
    function = tf.function(lambda x: {"y": x + 1.0}, input_signature=[tf.TensorSpec([1, 4])])
    module = tf.Module()
    module.f = function
    content = tflite._convert(function.get_concrete_function(), module, "none")
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected inputs image and image_info"):
        TFLiteRunner(str(path))


def test_ai_edge_litert_is_preferred_where_it_is_installed(monkeypatch):
    installed = types.ModuleType("ai_edge_litert.interpreter")
    installed.Interpreter = object()
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", installed)
    assert tflite.interpreter_class() is installed.Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)  # not importable
    assert tflite.interpreter_class() is tf.lite.Interpreter


def test_both_interpreters_answer_alike(tflite_path, make_image, monkeypatch):
    pytest.importorskip("ai_edge_litert.interpreter", reason="needs the package ai-edge-litert")
    image, info = geometry.fit_and_pad(tf.constant(make_image(32, 48)), (32, 48))
    runner = TFLiteRunner(tflite_path)
    assert type(runner._interpreter).__module__.startswith("ai_edge_litert")
    answer = runner(image.numpy(), info.numpy())
    monkeypatch.setattr(tflite, "interpreter_class", lambda: tf.lite.Interpreter)
    for key, value in TFLiteRunner(tflite_path)(image.numpy(), info.numpy()).items():
        np.testing.assert_allclose(answer[key], value, atol=1e-5, err_msg=key)
