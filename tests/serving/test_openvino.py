"""Exported files on OpenVINO, which reads both kinds: what Python predicts.

`tests/systems/test_contract.py` does the same with the trained network of every system.
"""

import numpy as np
import pytest

from panoptic_tf.serving.differences import differences
from panoptic_tf.serving.onnx_runner import OnnxRunner
from panoptic_tf.serving.tflite import TFLiteRunner

openvino = pytest.importorskip("openvino", reason="needs the package openvino")


def run(path, image, image_info):
    """Outputs by name; a .tflite file has its signature's."""
    # Processors with bfloat16 would take it unasked.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ranks = {x.any_name: len(x.partial_shape) for x in model.inputs}
    found = model({name: image if rank == 4 else image_info for name, rank in ranks.items()})
    found = {x.any_name: np.array(found[x]) for x in model.outputs}
    if "num_segments" in found:
        return found
    # Tensors of a converted .tflite file are numbered in the order of the outputs' names.
    names = sorted(TFLiteRunner(path)._run.get_output_details())
    ordered = sorted(found, key=lambda name: int(name.rpartition(":")[2]))
    return dict(zip(names, (found[tensor] for tensor in ordered)))


def test_tflite(tflite_path, batch):
    for image, image_info in zip(*batch):
        found = run(tflite_path, image[np.newaxis], image_info[np.newaxis])
        assert list(differences(found, TFLiteRunner(tflite_path)(image, image_info))) == []


@pytest.mark.parametrize("count", [1, 3])
def test_onnx_of_any_batch(onnx_path, batch, count):
    images, image_info = (x[:count] for x in batch)
    expected = OnnxRunner(onnx_path).predict_batch(images, image_info)
    assert list(differences(run(onnx_path, images, image_info), expected)) == []


def test_onnx_with_loops(network, export_arguments, batch, monkeypatch, tmp_path):
    """As sums of images of usual sizes are in."""
    from panoptic_tf.ops import forms
    from panoptic_tf.serving import onnx_export

    monkeypatch.setitem(forms._tuned["blocks.values_at_once"], forms.Form.ONNX, lambda: 5000)
    path = str(tmp_path / "model.onnx")
    onnx_export.export_onnx(network, onnx_path=path, **export_arguments)
    onnx = pytest.importorskip("onnx")
    assert "Loop" in {node.op_type for node in onnx.load(path).graph.node}
    expected = OnnxRunner(path).predict_batch(*batch)
    assert list(differences(run(path, *batch), expected)) == []
