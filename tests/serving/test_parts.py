"""Files of the network alone: static shapes, plain operators, the heads of the whole network."""

import zipfile

import numpy as np
import pytest
import small_systems
import tensorflow as tf

from panoptic_tf import lite
from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.ops import forms
from panoptic_tf.serving import (
    onnx_export,
    onnx_runner,
    parts,
    quantization,
    tflite,
    tflite_graph,
    tflite_metadata,
)
from panoptic_tf.serving.model_info import FILE_NAME, ModelInfo
from panoptic_tf.serving.predictor import Predictor

SIZE = (64, 64)
DELEGATED = {
    *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "LOGISTIC"),
    *("MAX_POOL_2D", "MEAN", "MUL", "PAD", "RELU", "RESHAPE", "RESIZE_BILINEAR", "SUB"),
}
"""Operators that XNNPACK and the GPU delegate take."""
HEADS = {"semantic_logits", "center_heatmap", "offsets"}


def build(system, *overrides):
    """Task and inference network of a tiny system."""
    (row,) = (row for row in small_systems.ROWS if row.system == system)
    tf.keras.utils.set_random_seed(3)
    task = small_systems.row_task(row, *overrides)
    return task, task.build_model().inference_network


def arguments(task, channel_order="RGB"):
    return dict(
        dataset_info=task.dataset_info,
        mean=(120.0, 110.0, 90.0),
        std=(50.0, 60.0, 70.0),
        channel_order=channel_order,
        input_size=SIZE,
        experiment="tiny",
    )


@pytest.fixture(scope="module")
def deeplab():
    return build("panoptic_deeplab")


@pytest.fixture(scope="module")
def network_path(deeplab, tmp_path_factory):
    task, network = deeplab
    path = str(tmp_path_factory.mktemp("network") / "model_net.tflite")
    return tflite.export_tflite(network, tflite_path=path, part="network", **arguments(task))


def run(path, pixels):
    """The outputs for an image, padded as the file says."""
    info = tflite.read_model_info(path)
    image, _ = lite.fit_and_pad(pixels, info.input_size, color=info.padding_color)
    interpreter = tflite.interpreter_class()(model_path=path)
    return interpreter.get_signature_runner(lite.SIGNATURE)(image=image[np.newaxis])


def heads(deeplab, pixels, channel_order="RGB", size=SIZE):
    """What the post-processor of the whole network reads."""
    task, network = deeplab
    image, image_info = geometry.fit_and_pad(tf.constant(pixels), size)
    settings = {k: v for k, v in arguments(task, channel_order).items() if k in ("mean", "std")}
    image = normalize.normalize_image(image, image_info, channel_order=channel_order, **settings)
    part = parts.cut_network(network, "network", num_categories=0)
    return part({"image": image[tf.newaxis]})


def test_outputs_are_the_heads_of_the_whole(deeplab, network_path, make_image):
    pixels = make_image(40, 90)  # rows are padded
    outputs, expected = run(network_path, pixels), heads(deeplab, pixels)
    assert set(outputs) == set(expected) == HEADS
    for key, value in expected.items():
        np.testing.assert_allclose(outputs[key], value, atol=1e-4, err_msg=key)


def test_channels_may_be_backwards(deeplab, make_image):
    task, network = deeplab
    settings = {k: arguments(task)[k] for k in ("mean", "std")}
    part = parts.cut_network(network, "network", num_categories=0)
    function = parts.part_function(part, channel_order="BGR", form=forms.current(), **settings)
    color = parts.padding_color(settings["mean"], "BGR")
    image, _ = lite.fit_and_pad(make_image(40, 90), SIZE, color=color)
    for key, value in heads(deeplab, make_image(40, 90), "BGR").items():
        np.testing.assert_allclose(function(image[np.newaxis])[key], value, atol=1e-4, err_msg=key)


def test_network_has_no_post_processing(network_path):
    with open(network_path, "rb") as file:
        graphs = tflite_graph.read_operators(file.read())
    (operators,) = graphs  # no loops
    assert {o.kind for o in operators} <= DELEGATED
    runner = tflite.interpreter_class()(model_path=network_path).get_signature_runner()
    details = [*runner.get_input_details().values(), *runner.get_output_details().values()]
    assert all(
        (np.asarray(d["shape_signature"]) > 0).all() for d in details if "shape_signature" in d
    )
    assert {tuple(d["shape"][:3]) for d in details} == {(1, 64, 64), (1, 16, 16)}


def test_file_says_that_it_is_a_part(network_path):
    info = tflite.read_model_info(network_path)
    assert info.part == "network" and info.padding_color == (120.0, 110.0, 90.0)
    with pytest.raises(ValueError, match="It is a part of a model"):
        Predictor(network_path)


def test_padding_is_the_mean_in_rgb():
    assert parts.padding_color((1.0, 2.0, 3.0), "RGB") == (1.0, 2.0, 3.0)
    assert parts.padding_color((1.0, 2.0, 3.0), "BGR") == (3.0, 2.0, 1.0)


def test_int8_is_calibrated_on_the_padding(deeplab, network_path, make_image, tmp_path):
    task, network = deeplab

    def read_inputs():
        for seed in range(4):
            pixels = make_image(40, 90, seed)
            image, image_info = geometry.fit_and_pad(tf.constant(pixels), SIZE)
            yield {"image": image.numpy()[None], "image_info": image_info.numpy()[None]}

    path = tflite.export_tflite(
        network,
        tflite_path=str(tmp_path / "m"),
        part="network",
        quantization="int8",
        int8_options=quantization.Options(
            read_inputs, quantization.pattern_of(task.float_layers())
        ),
        **arguments(task),
    )
    color = tflite.read_model_info(path).padding_color
    for padded, values in zip(parts.with_padding(read_inputs, color)(), read_inputs()):
        np.testing.assert_array_equal(padded["image"][0, :28], values["image"][0, :28])
        np.testing.assert_array_equal(padded["image"][0, 28:], np.tile(color, (36, 64, 1)))
    with open(path, "rb") as file:
        (operators,) = tflite_graph.read_operators(file.read())
    assert sum(o.is_int8 for o in operators if o.kind == "CONV_2D") > 10
    outputs, expected = (run(p, make_image(40, 90)) for p in (path, network_path))
    logits = outputs["semantic_logits"], expected["semantic_logits"]
    assert np.corrcoef(*map(np.ravel, logits))[0, 1] > 0.98


@pytest.mark.parametrize("part, names", [("network", HEADS), ("semantic", {"semantic_logits"})])
def test_onnx_file_of_a_part(make_image, tmp_path, part, names):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    path = str(tmp_path / "model_net.onnx")
    size = (49, 65)  # no multiple of a stride
    task, network = deeplab = build("panoptic_deeplab", {"model": {"input_size": list(size)}})
    given = {**arguments(task, "BGR"), "input_size": size}
    assert onnx_export.export_onnx(network, onnx_path=path, part=part, **given) == path
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    info = ModelInfo.from_bytes(
        session.get_modelmeta().custom_metadata_map[FILE_NAME].encode(), source=path
    )
    assert info.part == part and info.padding_color == (90.0, 110.0, 120.0)
    images = [make_image(30, 65), make_image(49, 20)]
    padded = [lite.fit_and_pad(image, size, color=info.padding_color)[0] for image in images]
    outputs = dict(
        zip([x.name for x in session.get_outputs()], session.run(None, {"image": np.stack(padded)}))
    )
    assert set(outputs) == names
    for i, image in enumerate(images):
        expected = heads(deeplab, image, "BGR", size)
        for key in names:
            np.testing.assert_allclose(outputs[key][i], expected[key][0], atol=1e-4, err_msg=key)
    with pytest.raises(ValueError, match="It is a part of a model"):
        Predictor(path)


def test_onnx_file_of_other_values_is_not_written(deeplab, tmp_path, monkeypatch):
    for package in ("onnxruntime", "tf2onnx"):
        pytest.importorskip(package, reason="needs the extra onnx")
    task, network = deeplab
    true = onnx_runner.run_content

    def wrong(*args, **kwargs):
        return {key: 1.001 * value for key, value in true(*args, **kwargs).items()}

    monkeypatch.setattr(onnx_runner, "run_content", wrong)
    path = str(tmp_path / "model_net.onnx")
    with pytest.raises(ValueError, match="semantic_logits differs by 0.001 .relative L2"):
        onnx_export.export_onnx(network, onnx_path=path, part="semantic", **arguments(task))
    assert not tmp_path.joinpath("model_net.onnx").exists()


def test_semantic_file_names_its_channels(deeplab, make_image, tmp_path):
    task, network = deeplab
    path = tflite.export_tflite(
        network, tflite_path=str(tmp_path / "m"), part="semantic", **arguments(task)
    )
    pixels = make_image(*SIZE)
    outputs, expected = run(path, pixels), heads(deeplab, pixels)["semantic_logits"]
    assert set(outputs) == {"semantic_logits"}
    np.testing.assert_allclose(outputs["semantic_logits"], expected, atol=1e-4)
    with zipfile.ZipFile(path) as archive:
        names = archive.read(tflite_metadata.LABELS).decode().splitlines()
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    assert names == [category.name for category in task.dataset_info.categories]
    assert tflite.read_model_info(path).part == "semantic"


def test_networks_in_two_pieces_are_refused():
    _, network = build("panoptic_fpn")
    with pytest.raises(ValueError, match="it cannot be exported without post-processing"):
        parts.cut_network(network, "network", num_categories=10)
    with pytest.raises(ValueError, match="needs semantic logits of 10 channels"):
        parts.cut_network(network, "semantic", num_categories=10)


def test_semantic_branch_of_panoptic_fpn_is_a_part():
    _, network = build("panoptic_fpn", {"model": {"semantic": {"thing_classes": "all"}}})
    part = parts.cut_network(network, "semantic", num_categories=10)
    assert part.output["semantic_logits"].shape == (None, 16, 16, 10)


def test_unknown_part_is_refused(network, export_arguments, tmp_path):
    with pytest.raises(ValueError, match="one of whole, network, semantic, got 'head'"):
        tflite.export_tflite(
            network, tflite_path=str(tmp_path / "m"), part="head", **export_arguments
        )
