"""The ONNX file: the same answers of any batch; and the TFLite file read by ONNX Runtime."""

import os
import sys

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.serving import onnx_export, onnx_runner
from panoptic_tf.serving.differences import differences
from panoptic_tf.serving.export import build_answer
from panoptic_tf.serving.model_info import FILE_NAME, ModelInfo
from panoptic_tf.serving.onnx_runner import OnnxRunner
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.serving.tflite import TFLiteRunner

SIZE = (32, 48)


@pytest.fixture
def onnx():
    """The package, with what converts to it and runs it."""
    for name in ("tf2onnx", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx")
    return pytest.importorskip("onnx", reason="needs the extra onnx")


def check_equal(found, expected):
    assert list(differences(found, expected)) == []


@pytest.mark.parametrize("count", [1, 3])
def test_equals_python(onnx_path, network, export_arguments, batch, count):
    names = ("mean", "std", "channel_order")
    answer = build_answer(
        network, *(export_arguments[name] for name in names), forms.Form.ACCELERATOR
    )
    images, image_info = (x[:count] for x in batch)
    expected = {key: value.numpy() for key, value in answer(images, image_info).items()}
    check_equal(OnnxRunner(onnx_path).predict_batch(images, image_info), expected)
    assert (expected["num_segments"] > 1).all()


def test_file_describes_itself(onnx, onnx_path, dataset_info):
    run = OnnxRunner(onnx_path, num_threads=1)
    assert run.info == ModelInfo(dataset_info, SIZE, "stand_in", "onnx")
    assert run.input_size == SIZE
    model = onnx.load(onnx_path)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import if not o.domain] == [("", 17)]
    assert not {"ScatterND", "ScatterElements", "Unique"} & {n.op_type for n in model.graph.node}


def test_predictor_takes_it(onnx_path, tflite_path, make_image):
    image = make_image(60, 70)
    ours, other = (Predictor(path, num_threads=1)(image) for path in (onnx_path, tflite_path))
    np.testing.assert_array_equal(ours.category_mask, other.category_mask)
    np.testing.assert_array_equal(ours.instance_mask, other.instance_mask)
    assert [s.area for s in ours.segments] == [s.area for s in other.segments]


def test_a_file_that_answers_otherwise_is_not_written(
    onnx_path, network, export_arguments, tmp_path, monkeypatch
):
    true = OnnxRunner.predict_batch

    def wrong(self, images, image_info):
        answer = true(self, images, image_info)
        return {**answer, "category_mask": 1 + answer["category_mask"]}

    monkeypatch.setattr(OnnxRunner, "predict_batch", wrong)
    path = str(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"category_mask differs in 100.00% of the pixels"):
        onnx_export.export_onnx(network, onnx_path=path, **export_arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("package", ["tf2onnx", "onnx", "onnxruntime"])
def test_missing_package_is_named(network, export_arguments, tmp_path, monkeypatch, package):
    for name in ("tf2onnx", "onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name, tf))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package}: `pip install 'panoptic-tf\[onnx\]'`"):
        onnx_export.export_onnx(network, onnx_path=str(tmp_path / "m.onnx"), **export_arguments)


def test_what_fails_to_optimise_the_graph_is_left_out(onnx, monkeypatch):
    from tf2onnx import optimizer

    class Failing:
        def optimize(self, graph, iteration):
            failures.append(iteration)
            raise RuntimeError("not today")

    failures = []
    monkeypatch.setitem(optimizer._optimizers, "fold_constants", Failing)
    model = onnx_export._run_tf2onnx(lambda x: {"y": 2.0 * x + 1.0}, [tf.TensorSpec([4], name="x")])
    assert {"Mul", "Add"} <= {node.op_type for node in model.graph.node}
    assert len(failures) > 1


def test_files_of_others(onnx, onnx_path, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match="model.onnx cannot be loaded on ONNX Runtime"):
        Predictor(path)
    model = onnx.load(onnx_path)
    del model.metadata_props[:]
    onnx.save(model, str(path))
    with pytest.raises(ValueError, match=f"model.onnx holds no {FILE_NAME}"):
        OnnxRunner(str(path))
    onnx.helper.set_model_props(model, {FILE_NAME: "{]"})
    onnx.save(model, str(path))
    with pytest.raises(ValueError, match=f"model.onnx:{FILE_NAME} is not JSON"):
        OnnxRunner(str(path))
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "other", value[:1], value[1:])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    with pytest.raises(ValueError, match="model.onnx: expected inputs image"):
        OnnxRunner(str(path))


def by_name(tflite_path, outputs):
    """The outputs of a converted .tflite file, whose tensors are numbered in the names' order."""
    names = sorted(TFLiteRunner(tflite_path)._run.get_output_details())
    assert len(names) == len(outputs)
    ordered = sorted(outputs, key=lambda name: int(name.rpartition(":")[2]))
    return {name: outputs[tensor] for name, tensor in zip(names, ordered)}


def run_converted(tflite_path, path, image, image_info):
    """What tf2onnx makes of a .tflite file, on ONNX Runtime."""
    import onnxruntime
    import tf2onnx

    tf2onnx.convert.from_tflite(tflite_path, opset=17, output_path=path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {x.name: image if len(x.shape) == 4 else image_info for x in session.get_inputs()}
    names = [x.name for x in session.get_outputs()]
    return by_name(tflite_path, dict(zip(names, session.run(None, given))))


def test_the_tflite_file_answers_alike_on_onnx_runtime(onnx, tflite_path, batch, tmp_path):
    """Sums by a scatter into repeated indices would be overwritten there, without an error."""
    for image, image_info in zip(*batch):
        found = run_converted(
            tflite_path, str(tmp_path / "lite.onnx"), image[None], image_info[None]
        )
        check_equal(found, TFLiteRunner(tflite_path)(image, image_info))


def test_of_equals_the_first_comes_first(onnx, tmp_path):
    """Of a maximum and in a sort: what ONNX says, and what TensorFlow does."""
    import onnxruntime
    import tf2onnx

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 300], name="x")])
    def find(x):
        return {"best": tf.argmax(x, axis=1), "order": tf.math.top_k(x, k=300).indices}

    path = str(tmp_path / "find.onnx")
    tf2onnx.convert.from_function(find, find.input_signature, opset=17, output_path=path)
    x = np.random.default_rng(0).integers(0, 4, [2, 300]).astype(np.float32)
    best, order = onnxruntime.InferenceSession(path).run(["best", "order"], {"x": x})
    np.testing.assert_array_equal(best, x.argmax(1))
    np.testing.assert_array_equal(order, np.argsort(-x, axis=1, kind="stable"))


def test_kinds_of_files(onnx_path):
    from panoptic_tf.api import models

    assert models.kind_of(onnx_path) == models.ONNX
    assert onnx_path.endswith(onnx_runner.SUFFIX)
