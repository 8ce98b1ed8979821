"""The SavedModel: what goes in, what comes out, and what a bad image does to its neighbours."""

import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets.coco_format import rgb_to_id
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.serving import export, warmup
from panoptic_tf.serving.export import export_saved_model
from panoptic_tf.serving.tflite import export_tflite
from panoptic_tf.structures import Prediction


@pytest.fixture(scope="module")
def signatures(saved_model_dir):
    loaded = tf.saved_model.load(os.path.join(saved_model_dir, "1"))
    run = dict(loaded.signatures)
    run["keep"] = loaded
    return run


def call(signature, **inputs):
    outputs = signature(**{key: tf.constant(value) for key, value in inputs.items()})
    return {key: value.numpy() for key, value in outputs.items()}


def png_header(width, height):
    """A PNG that promises height x width pixels and holds next to none."""

    def chunk(kind, body):
        content = kind + body
        return struct.pack(">I", len(body)) + content + struct.pack(">I", zlib.crc32(content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + data


@pytest.fixture
def traced(monkeypatch):
    """The images of every function that is traced: each normalises its own."""
    found, normalize_image = [], normalize.normalize_image

    def note(image, *args, **kwargs):
        found.append(image)
        return normalize_image(image, *args, **kwargs)

    monkeypatch.setattr(normalize, "normalize_image", note)
    return found


def test_every_function_is_traced_once(network, export_arguments, tmp_path, traced):
    """TensorFlow would trace them again to save them, and keep both."""
    export_saved_model(network, export_dir=str(tmp_path), **export_arguments)
    assert len(traced) == 3
    traced.clear()
    export_tflite(network, tflite_path=str(tmp_path / "model.tflite"), **export_arguments)
    assert len(traced) == 1


def test_mixed_sizes_equal_python(signatures, network, export_arguments, make_image, encode):
    sizes = [(32, 48), (20, 30), (100, 40), (16, 96), (1, 1)]
    images = [make_image(*size, seed=i) for i, size in enumerate(sizes)]
    outputs = call(signatures["serving_default"], image_bytes=[encode(i) for i in images])
    assert set(outputs) == {*Prediction.PANOPTIC_KEYS, Prediction.SEMANTIC_MASK, "valid"}
    assert outputs["valid"].all()
    for row, image in enumerate(images):
        fitted, info = geometry.fit_and_pad(tf.constant(image), export_arguments["input_size"])
        normalized = normalize.normalize_image(
            fitted, info, mean=(120.0, 110.0, 100.0), std=(50.0, 60.0, 70.0)
        )
        expected = network({"image": normalized[None], "image_info": info[None]})
        for key, value in expected.items():
            np.testing.assert_allclose(outputs[key][row], value[0], atol=1e-5, err_msg=key)
    # Larger than 32 x 48: answered at the scale that fits.
    np.testing.assert_array_equal(
        outputs["image_size"], [(32, 48), (20, 30), (32, 13), (8, 48), (1, 1)]
    )


def test_batch_equals_singles(signatures, make_image, encode):
    contents = [encode(make_image(20 + 5 * i, 40 - 3 * i, seed=i)) for i in range(3)]
    together = call(signatures["serving_default"], image_bytes=contents)
    assert together["category_mask"].max() == 3
    for row, content in enumerate(contents):
        alone = call(signatures["serving_default"], image_bytes=[content])
        for key, value in alone.items():
            np.testing.assert_allclose(value[0], together[key][row], atol=1e-6, err_msg=key)


def test_image_tensor_equals_image_bytes(signatures, make_image, encode):
    images = np.stack([make_image(24, 60, seed=i) for i in range(2)])
    tensors = call(signatures["image_tensor"], image_tensor=images)
    contents = call(signatures["image_bytes"], image_bytes=[encode(i) for i in images])
    assert set(tensors) == set(contents)
    for key, value in tensors.items():
        np.testing.assert_array_equal(value, contents[key], err_msg=key)


@pytest.mark.parametrize("size", [(32, 48), (7, 90), (90, 7), (24, 60), (1, 1), (479, 640)])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_is_fitted_as_its_images_are(make_image, size, count):
    """To the last bit, and in a graph that does not know the sizes."""
    images = np.zeros([count, *size, 3], np.uint8)
    for i in range(count):
        images[i] = make_image(*size, seed=i)
    fit = tf.function(
        lambda x: geometry.fit_and_pad(x, (32, 48)),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    fitted, image_info = fit(images)
    assert fitted.shape == (count, 32, 48, 3) and image_info.shape == (count, 4, 2)
    for i in range(count):
        expected = geometry.fit_and_pad(tf.constant(images[i]), (32, 48))
        np.testing.assert_array_equal(fitted[i], expected[0])
        np.testing.assert_array_equal(image_info[i], expected[1])


def test_png_in_all_its_forms(signatures, make_image, encode):
    image = make_image(24, 30)
    gray16 = (np.arange(24 * 30, dtype=np.uint16) * 80).reshape(24, 30)
    contents = [
        encode(image),
        encode(image, mode="RGBA"),
        encode(image, mode="L"),
        encode(image, mode="LA"),
        encode(image, mode="P"),
        encode(image, mode="1"),
        encode(gray16),
        encode(image, "JPEG", quality=95),
        encode(image, "JPEG", progressive=True, quality=95),
        encode(image, "JPEG", mode="L"),
        encode(image, "JPEG", mode="CMYK"),
    ]
    outputs = call(signatures["serving_default"], image_bytes=contents)
    assert outputs["valid"].all()
    assert (outputs["image_size"] == (24, 30)).all()
    categories = outputs["category_mask"]
    np.testing.assert_array_equal(categories[1], categories[0])  # opaque alpha
    np.testing.assert_array_equal(categories[3], categories[2])
    assert (categories[7] == categories[0]).mean() > 0.95  # JPEG is lossy


def test_bad_images_leave_the_batch_alone(signatures, make_image, encode):
    image = make_image(32, 48)
    png, jpeg = encode(image), encode(image, "JPEG")
    bad = {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"this is not an image, not even a little",
        "gif": encode(image, "GIF", mode="P"),
        "bmp": encode(image, "BMP"),
        "png signature": png[:8],
        "png cut in its header": png[:20],
        "png cut in its pixels": png[: len(png) // 2],
        "png with a flipped byte": png[:200] + bytes([png[200] ^ 1]) + png[201:],
        "jpeg signature": jpeg[:4],
        "jpeg cut in its pixels": jpeg[: len(jpeg) // 2],
        "jpeg then garbage": jpeg[:3] + b"garbage" * 20,
        "over the cap": encode(make_image(400, 300)),
        "bomb": png_header(60_000, 60_000),
        "sides beyond 31 bits": png_header(2**32 - 1, 2**32 - 1),
        "no width": png_header(0, 10),
    }
    contents = [png, *bad.values(), jpeg]
    outputs = call(signatures["serving_default"], image_bytes=contents)
    valid = outputs["valid"]
    assert valid[0] and valid[-1]
    assert not any(valid[1:-1]), [name for name, v in zip(bad, valid[1:-1]) if v]
    for key in (*Prediction.PANOPTIC_KEYS, Prediction.SEMANTIC_MASK):
        assert not outputs[key][1:-1].any(), key
        alone = call(signatures["serving_default"], image_bytes=[png])
        np.testing.assert_allclose(outputs[key][0], alone[key][0], atol=1e-6, err_msg=key)


def test_only_bad_images_and_no_image(signatures):
    outputs = call(signatures["serving_default"], image_bytes=[b"x", b"y"])
    assert outputs["valid"].tolist() == [False, False]
    empty = signatures["serving_default"](image_bytes=tf.zeros([0], tf.string))
    assert {value.shape[0] for value in empty.values()} == {0}


def test_panoptic_png_has_the_original_size(signatures, make_image, encode):
    images = [make_image(20, 30, seed=1), make_image(130, 101, seed=2)]
    contents = [encode(images[0]), b"no image", encode(images[1])]
    outputs = call(signatures["panoptic_png"], image_bytes=contents)
    masks = call(signatures["image_bytes"], image_bytes=contents)
    assert outputs["valid"].tolist() == [True, False, True]
    assert outputs["panoptic_png_bytes"][1] == b""
    np.testing.assert_array_equal(outputs["image_size"], [(20, 30), (0, 0), (130, 101)])
    for row, size in ((0, (20, 30)), (2, (130, 101))):
        rgb = tf.io.decode_png(outputs["panoptic_png_bytes"][row]).numpy()
        ids = rgb_to_id(rgb)
        assert ids.shape == size
        count = outputs["num_segments"][row]
        np.testing.assert_array_equal(outputs["segment_id"][row, :count], np.arange(1, count + 1))
        areas = np.bincount(ids.ravel(), minlength=outputs["segment_area"].shape[1] + 1)[1:]
        np.testing.assert_array_equal(outputs["segment_area"][row], areas)
        # Category of every pixel through the table equals the mask, pixel centers kept.
        category_of_id = np.concatenate([[0], outputs["segment_category"][row]])
        height, width = masks["image_size"][row]
        rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
        columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
        expected = masks["category_mask"][row][rows[:, None], columns[None]]
        np.testing.assert_array_equal(category_of_id[ids], expected)


def test_server_side_batching(signatures, make_image, encode):
    """Every output has the batch first: what a server splits by."""

    @tf.nondifferentiable_batch_function(1, 8, 1, allowed_batch_sizes=[8])
    def batched(image_bytes):
        outputs = signatures["serving_default"](image_bytes=image_bytes)
        return [outputs[key] for key in sorted(outputs)]

    content = encode(make_image(20, 30))
    results = batched(tf.constant([content, content]))
    assert {int(result.shape[0]) for result in results} == {2}


def test_assets_and_layout(saved_model_dir, dataset_info):
    version = os.path.join(saved_model_dir, "1")
    assert sorted(os.listdir(saved_model_dir)) == ["1"]
    assert DatasetInfo.load(os.path.join(version, "assets", "dataset_info.json")) == dataset_info
    assert os.path.getsize(os.path.join(version, "saved_model.pb")) > 0


def test_versions_count_up_and_existing_ones_stay(network, export_arguments, tmp_path):
    for name in ("3", "10", "notes"):
        (tmp_path / name).mkdir()
    path = export_saved_model(
        network, export_dir=str(tmp_path), input_type="image_tensor", **export_arguments
    )
    assert path == str(tmp_path / "11")
    signature = tf.saved_model.load(path).signatures["serving_default"]
    assert "image_tensor" in signature.structured_input_signature[1]
    with pytest.raises(ValueError, match=r"11 exists"):
        export_saved_model(network, export_dir=str(tmp_path), version=11, **export_arguments)


def test_a_failed_export_leaves_nothing(network, export_arguments, tmp_path, monkeypatch):
    def fail(module, folder, **_):
        with open(os.path.join(folder, "saved_model.pb"), "wb") as file:
            file.write(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(export.tf.saved_model, "save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        export_saved_model(network, export_dir=str(tmp_path), **export_arguments)
    assert os.listdir(tmp_path) == []


def test_unknown_input_type_is_refused(network, export_arguments, tmp_path):
    with pytest.raises(ValueError, match=r"input_type must be one of .*'tf_example'"):
        export_saved_model(
            network, export_dir=str(tmp_path / "new"), input_type="tf_example", **export_arguments
        )
    assert not (tmp_path / "new").exists()


def test_semantic_only_network_has_no_panoptic_signature(network, export_arguments, tmp_path):
    semantic = tf.keras.Model(
        network.input, {key: network.output[key] for key in ("semantic_mask", "image_size")}
    )
    path = export_saved_model(semantic, export_dir=str(tmp_path), **export_arguments)
    signatures = tf.saved_model.load(path).signatures
    assert set(signatures) == {"serving_default", "image_bytes", "image_tensor"}
    assert set(signatures["serving_default"].structured_outputs) == {
        "semantic_mask",
        "image_size",
        "valid",
    }


def test_warmup_requests(tmp_path, encode):
    pytest.importorskip("tensorflow_serving")
    from tensorflow_serving.apis import prediction_log_pb2

    assert warmup.write_requests(
        str(tmp_path), "image_bytes", input_size=(8, 12), batch_sizes=(1, 4)
    )
    path = tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    records = [bytes(r) for r in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    inputs = [log.predict_log.request.inputs["image_bytes"] for log in logs]
    assert [len(tensor.string_val) for tensor in inputs] == [1, 4]
    assert tf.io.decode_png(inputs[1].string_val[0]).shape == (8, 12, 3)


def test_no_warmup_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_serving.apis", None)
    assert not warmup.write_requests(
        str(tmp_path), "image_bytes", input_size=(8, 12), batch_sizes=(1,)
    )
    assert os.listdir(tmp_path) == []
