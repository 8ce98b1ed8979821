"""The client against a server of the same two APIs, and against tensorflow_model_server."""

import io
import json
import os
import subprocess
import sys
import threading
import zlib
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

pytest.importorskip("tensorflow_serving")

import prediction_server  # noqa: E402
from prediction_server import DROP, MODEL, Server  # noqa: E402

from panoptic_tf.serving import prediction  # noqa: E402
from panoptic_tf.serving.client import (  # noqa: E402
    Client,
    RequestError,
    RetryPolicy,
    ServerError,
    messages,
    request_files,
    responses,
    retries,
)
from panoptic_tf.serving.predictor import PanopticResult, Predictor  # noqa: E402

BINARY_VARIABLE = "PANOPTIC_TF_MODEL_SERVER"
QUICK = RetryPolicy(max_attempts=4, first_seconds=0.01, max_seconds=0.05)
KINDS = [f"{api} {name}" for api in ("grpc", "rest") for name in ("image_bytes", "panoptic_png")]


@pytest.fixture(scope="module")
def local(saved_model_dir):
    server = Server(os.path.join(saved_model_dir, "1"))
    yield server
    server.close()


@pytest.fixture(scope="module", params=["local", "tensorflow_model_server"])
def served(request, saved_model_dir, tmp_path_factory):
    """{api: address} of the local server, and of the program if the variable names it."""
    if request.param == "local":
        local = request.getfixturevalue("local")
        yield {"grpc": local.grpc, "rest": local.rest}
        return
    binary = os.environ.get(BINARY_VARIABLE)
    if not binary:
        pytest.skip(f"{BINARY_VARIABLE} names no tensorflow_model_server")
    work_dir = tmp_path_factory.mktemp("model_server")
    with prediction_server.model_server(binary, saved_model_dir, work_dir) as (grpc, rest):
        yield {"grpc": grpc, "rest": rest}


@pytest.fixture
def flaky():
    """A server whose answers are made here; `outputs` may be changed."""
    server = Server(answer=lambda signature, images: server.outputs)
    server.outputs = good_outputs()
    yield server
    server.close()


@pytest.fixture(scope="module")
def predictor(saved_model_dir):
    return Predictor(saved_model_dir)


@pytest.fixture
def connect(dataset_info):
    clients = []

    def connect(address, **options):
        clients.append(Client(address, dataset_info=dataset_info, **{"retry": QUICK, **options}))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def good_outputs(height=4, width=6):
    """Of one image: a red thing (category 1) left of green (category 2)."""
    category = np.full([1, 32, 48], 0, np.int32)
    category[0, :height, :width] = 2
    category[0, :height, :2] = 1
    return {
        "valid": np.array([True]),
        "category_mask": category,
        "instance_mask": (category == 1).astype(np.int32),
        "image_size": np.array([[height, width]], np.int32),
        "num_segments": np.array([2], np.int32),
        "segment_category": np.array([[1, 2, 0]], np.int32),
        "segment_instance": np.array([[1, 0, 0]], np.int32),
        "segment_score": np.array([[0.5, 0.25, 0.0]], np.float32),
        "segment_area": np.array([[8, 16, 0]], np.int32),
    }


def good_detections():
    """Two, one of which is used."""
    return {
        "num_detections": np.array([1], np.int32),
        "detection_categories": np.array([[1, 0]], np.int32),
        "detection_scores": np.array([[0.9, 0.0]], np.float32),
        "detection_boxes": np.array([[[0, 0, 2, 3], [0, 0, 0, 0]]], np.float32),
        "detection_masks": np.ones([1, 2, 2, 2], np.float32),
    }


def photo(height=4, width=6):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def assert_same(result, expected):
    np.testing.assert_array_equal(result.category_mask, expected.category_mask)
    np.testing.assert_array_equal(result.instance_mask, expected.instance_mask)
    assert [s.id for s in result.segments] == [s.id for s in expected.segments]
    for ours, theirs in zip(result.segments, expected.segments):
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
        assert (ours.name, ours.area, ours.bbox) == (theirs.name, theirs.area, theirs.bbox)


# Right answers


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_predictor(kind, served, connect, predictor, make_image, encode):
    api, signature = kind.split()
    client = connect(served[api], signature=signature, version=1)
    turned = Image.Exif()
    turned[0x0112] = 6
    images = [
        encode(make_image(20, 30, seed=1)),
        encode(make_image(90, 70, seed=2), "JPEG", quality=95),  # larger than the output
        encode(make_image(20, 30, seed=3), "JPEG", exif=turned),
        encode(make_image(24, 30, seed=4), "WEBP", lossless=True),
        encode((np.arange(24 * 30, dtype=np.uint16) * 80).reshape(24, 30)),  # 16 bits
        make_image(32, 48, seed=5),
    ]
    for image in images:
        result, expected = client(image), predictor(image)
        assert_same(result, expected)
        assert result.image_size == expected.image_size
        assert result.plot().shape == expected.plot().shape
    assert len(expected.segments) > 1


def test_eight_clients_get_what_one_gets(local, connect, predictor, make_image, encode):
    images = [encode(make_image(16 + i, 40 - i, seed=i)) for i in range(8)]
    expected = [predictor(image) for image in images]
    clients = [connect(address) for address in (local.grpc, local.rest) * 4]
    start = threading.Barrier(8)

    def ask(i):
        start.wait()
        return [clients[i](images[(i + j) % 8]) for j in range(8)]

    local.batch_sizes.clear()
    with futures.ThreadPoolExecutor(8) as pool:
        for i, results in enumerate(pool.map(ask, range(8))):
            for j, result in enumerate(results):
                assert_same(result, expected[(i + j) % 8])
    assert max(local.batch_sizes) >= 4 and len(local.batch_sizes) < 64


@pytest.fixture
def folder_of_photos(tmp_path, make_image, encode):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        kind = "JPEG" if name.endswith("jpg") else "PNG"
        (folder / name).write_bytes(encode(make_image(20 + i, 30, seed=i), kind))
    whole = (folder / "b.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[:-20])
    (folder / "huge.png").write_bytes(encode(make_image(400, 300)))  # above the model's limit
    return folder


def test_command_writes_what_predict_writes(
    local, saved_model_dir, predictor, folder_of_photos, tmp_path
):
    code = (
        "import sys; from panoptic_tf.experiments import cli\n"
        "try: cli.main(['request', *sys.argv[1:]])\n"
        "finally: assert 'tensorflow' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code]
        + [f"--address={local.grpc}", f"--input={folder_of_photos}/**"]
        + [f"--dataset_info={saved_model_dir}/1/assets/dataset_info.json"]
        + [f"--output_dir={tmp_path}/asked", "--write=overlays,coco_panoptic,coco_instances"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    said = result.stderr.splitlines()
    assert said[-1] == "2 of 5 images have no result.", result.stderr
    for name, line in zip(("cut.jpg", "huge.png"), said[-3:]):
        assert line.startswith(f"{folder_of_photos}/{name}: the server could not read it")
    paths = [str(folder_of_photos / name) for name in ("a.png", "b.jpg", "sub/c.png")]
    formats = ["coco_panoptic", "coco_instances"]
    prediction.predict_files(predictor, paths, str(tmp_path / "here"), formats=formats)
    for name in ("predictions.json", "coco_instances.json"):
        ours, theirs = (json.loads((tmp_path / d / name).read_text()) for d in ("asked", "here"))
        assert len(ours["annotations"]) == len(theirs["annotations"]) > 0
        assert _without_scores(ours) == _without_scores(theirs)
    for name in ("a", "b", "sub/c"):
        ours, theirs = (tmp_path / d / f"predictions/{name}.png" for d in ("asked", "here"))
        assert ours.read_bytes() == theirs.read_bytes()
        assert (tmp_path / f"asked/overlays/{name}.jpg").exists()


def _without_scores(value):
    if isinstance(value, dict):
        return {key: _without_scores(item) for key, item in value.items() if key != "score"}
    return [_without_scores(item) for item in value] if isinstance(value, list) else value


# Servers that fail


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_errors_that_may_pass_are_tried_again(api, flaky, connect):
    client = connect(getattr(flaky, api))
    flaky.faults += ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"]
    assert [s.name for s in client(photo()).segments] == ["red", "green"]
    assert flaky.calls == 4
    flaky.faults += ["UNAVAILABLE"] * 4
    with pytest.raises(RequestError, match=r"x\.png: .*localhost.*on purpose \(4 attempts\)"):
        client(photo(), name="x.png")
    assert flaky.calls == 8


@pytest.mark.parametrize("api", ["grpc", "rest"])
@pytest.mark.parametrize(
    "code, error",
    [
        ("INVALID_ARGUMENT", RequestError),
        ("INTERNAL", RequestError),
        ("NOT_FOUND", ServerError),
        ("UNAUTHENTICATED", ServerError),
    ],
)
def test_errors_that_stay_are_not_tried_again(api, code, error, flaky, connect):
    client = connect(getattr(flaky, api))
    flaky.faults.append(code)
    with pytest.raises(error, match="on purpose"):
        client(photo())
    assert flaky.calls == 1
    client(photo())  # The connection is still good.


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_model_and_version_that_are_not_there(api, flaky, connect):
    for options in ({"model": "other"}, {"version": 7}):
        with pytest.raises(ServerError, match="Servable not found"):
            connect(getattr(flaky, api), **options)(photo())
    assert flaky.calls == 2


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_deadline(api, flaky, connect):
    """Each attempt has its own, which the server waits for, however slow this machine is."""
    may_answer = threading.Event()
    flaky.faults += [may_answer] * 4
    try:
        with pytest.raises(RequestError, match=r"(DEADLINE_EXCEEDED|timed out).*\(4 attempts\)"):
            connect(getattr(flaky, api), timeout=0.3)(photo())
    finally:
        may_answer.set()


def test_dropped_connections_are_opened_again(flaky, connect):
    client = connect(flaky.rest)
    client(photo())
    flaky.faults += [DROP, DROP]
    client(photo())
    assert flaky.calls == 4


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_nobody_listens(api, connect, flaky):
    address = getattr(flaky, api)
    flaky.close()
    with pytest.raises(RequestError, match=r"\(4 attempts\)"):
        connect(address)(photo())


def test_a_server_that_starts_late(flaky, connect):
    port = int(flaky.grpc.rsplit(":", 1)[1])
    flaky.close()
    late = []

    class StartsTheServer(RetryPolicy):
        def delay(self, attempt, *others):
            if attempt == 2:
                late.append(Server(answer=lambda *_: good_outputs(), port=port))
            return super().delay(attempt, *others)

    client = connect(f"grpc://localhost:{port}", retry=StartsTheServer(10, 0.1, 1.0))
    assert len(client(photo()).segments) == 2
    late[0].close()


def test_a_picture_that_only_the_server_can_decode(flaky, connect, tmp_path):
    """Pillow fails with errors of its own; libpng passes over the one behind the pixels."""
    whole = photo()
    pixels = whole.index(b"IDAT") + 4
    length = int.from_bytes(whole[pixels - 8 : pixels - 4], "big")
    before, data, end = whole[: pixels - 8], whole[pixels : pixels + length], whole[-12:]
    struct_error = whole[:-12] + chunk(b"tRNS", b"123") + end
    syntax_error = before + chunk(b"IDAT", data[:4]) + chunk(b"\0\0\0\0", b"") + end
    paths = [tmp_path / f"{name}.png" for name in ("first", "struct", "syntax", "last")]
    for path, content in zip(paths, (whole, struct_error, syntax_error, whole)):
        path.write_bytes(content)
    failures = request_files(connect(flaky.grpc), [*map(str, paths)], str(tmp_path / "out"))
    assert [text.split(": its pixels cannot be")[0] for text in failures] == [*map(str, paths[1:3])]
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [each["image_id"] for each in written["annotations"]] == ["first", "last"]


def chunk(kind, data):
    checksum = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + checksum


def test_threads_end_though_the_client_does_not_close(flaky, connect, tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(photo())
    client = connect(flaky.rest)

    def fail():
        raise OSError("on purpose")

    before = set(threading.enumerate())
    with monkeypatch.context() as patched:
        patched.setattr(client, "close", fail)
        with pytest.raises(OSError, match="on purpose"):
            request_files(client, [str(path)], str(tmp_path / "out"), image_dir="/nowhere")
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("ThreadPoolExecutor")]


def test_many_files_of_which_some_fail(flaky, connect, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(30)]
    for path in paths:
        with open(path, "wb") as file:
            file.write(photo())
    client = connect(flaky.grpc, retry=RetryPolicy(max_attempts=1))
    flaky.faults += ["INVALID_ARGUMENT"] * 9
    failures = request_files(client, paths, str(tmp_path / "some"), concurrency=1)
    assert len(failures) == 9
    assert all(path in failure for path, failure in zip(paths, failures))
    with open(tmp_path / "some" / "predictions.json") as file:
        assert len(json.load(file)["annotations"]) == 21
    flaky.faults += ["UNAVAILABLE"] * 30
    before = flaky.calls
    with pytest.raises(ServerError, match="10 requests failed, one after another"):
        request_files(client, paths, str(tmp_path / "none"), concurrency=1)
    assert flaky.calls - before < 15


# Responses that are malformed


def changed(**outputs):
    return {key: value for key, value in {**good_outputs(), **outputs}.items() if value is not None}


MALFORMED = {
    "no valid": (changed(valid=None), "no output 'valid'"),
    "valid of numbers": (changed(valid=np.array([2])), "'valid' must be bool"),
    "two rows": (changed(image_size=np.ones([2, 2], np.int32)), "'image_size' must be .*batch 1"),
    "no masks": (changed(category_mask=None), "no prediction"),
    "no table": (changed(num_segments=None), "no prediction"),
    "a mask of floats": (
        changed(category_mask=np.zeros([1, 32, 48], np.float32)),
        "'category_mask' must be",
    ),
    "a flat mask": (changed(instance_mask=np.zeros([1, 9], np.int32)), "'instance_mask' must be"),
    "a small mask": (changed(instance_mask=np.zeros([1, 2, 2], np.int32)), "within the mask"),
    "no image size": (changed(image_size=None), "'image_size' must be"),
    "an empty image": (changed(image_size=np.zeros([1, 2], np.int32)), "image_size is"),
    "a large image": (changed(image_size=np.array([[99, 9]])), "within the mask"),
    "too many segments": (changed(num_segments=np.array([4])), "num_segments is 4"),
    "less than none": (changed(num_segments=np.array([-1])), "num_segments is -1"),
    "a short column": (changed(segment_score=np.ones([1, 2])), "num_segments is 2"),
    "another data set": (changed(segment_category=np.array([[1, 9, 0]])), "0..3 .*dataset_info"),
    "below void": (changed(category_mask=np.full([1, 32, 48], -1)), "must lie in 0..3"),
    "an instance below none": (changed(instance_mask=np.full([1, 32, 48], -1)), "largest id"),
    "no number": (changed(segment_score=np.full([1, 3], np.nan, np.float32)), "not finite"),
    "no PNG": (changed(panoptic_png_bytes=np.array([b"x"], object)), "not the PNG of the image"),
    "another PNG": (changed(panoptic_png_bytes=np.array([photo(3, 3)], object)), "of \\(3, 3\\)"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_outputs(name, flaky, connect):
    flaky.outputs, message = MALFORMED[name]
    for api in ("grpc", "rest"):
        with pytest.raises(ValueError, match=f"x\\.png: .*{message}"):
            connect(getattr(flaky, api))(photo(), name="x.png")
    assert flaky.calls == 2


def test_png_with_an_id_that_the_table_lacks(flaky, connect):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (4, 0, 0)).save(buffer, "PNG")
    flaky.outputs = changed(panoptic_png_bytes=np.array([buffer.getvalue()], object))
    with pytest.raises(ValueError, match="has the id 4, the table 3 rows"):
        connect(flaky.grpc)(photo())


@pytest.mark.parametrize(
    "api, content",
    [
        ("grpc", b"\xff\xff\xff"),
        ("grpc", b""),
        ("rest", b""),
        ("rest", b"<html>"),
        ("rest", b"[1]"),
        ("rest", b'{"outputs": []}'),
        ("rest", b'{"outputs": {"valid": "yes"}}'),
        ("rest", b'{"outputs": {"valid": [true], "image_size": [[1, 2], [3]]}}'),
        ("rest", b'{"outputs": {"panoptic_png_bytes": [{"b64": "*"}]}}'),
        ("rest", b'{"outputs": {"panoptic_png_bytes": [{"b64": 1}]}}'),
        ("rest", b'{"outputs":' + b"[" * 100_000),
    ],
)
def test_malformed_bytes(api, content, flaky, connect):
    flaky.faults.append(content)
    with pytest.raises(ValueError, match="(malformed response|no output 'valid')"):
        connect(getattr(flaky, api))(photo())
    assert flaky.calls == 1


def test_any_byte_of_a_response_may_be_wrong(dataset_info):
    """A random change gives a result or a ValueError, nothing else."""
    response = prediction_server.predict_pb2.PredictResponse()
    for key, value in {**good_outputs(2, 3), **good_detections()}.items():
        value = value[:, :2, :3] if key.endswith("_mask") else value
        response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
    content = response.SerializeToString()
    rng = np.random.default_rng(0)
    num_errors = 0
    for _ in range(2000):
        mutated = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            mutated[rng.integers(len(mutated))] = rng.integers(256)
        try:
            outputs = messages.decode_response(bytes(mutated), responses.KEYS)
            responses.is_valid(outputs)
            arrays = responses.read_prediction(outputs, (2, 3), 3)
            PanopticResult(np.zeros([2, 3, 3], np.uint8), arrays, dataset_info)
        except ValueError:
            num_errors += 1
    assert 500 < num_errors < 2000


# Messages, pauses, arguments


def test_messages_are_those_of_tensorflow_serving():
    content = messages.encode_request(
        b"\xff\0", model="m", version=3, signature="s", input_name="image_bytes"
    )
    request = prediction_server.predict_pb2.PredictRequest.FromString(content)
    assert (request.model_spec.name, request.model_spec.signature_name) == ("m", "s")
    assert request.model_spec.version.value == 3
    assert tf.make_ndarray(request.inputs["image_bytes"]).tolist() == [b"\xff\0"]
    newest = messages.encode_request(b"", model="m", version=None, signature="s", input_name="i")
    request = prediction_server.predict_pb2.PredictRequest.FromString(newest)
    assert not request.model_spec.HasField("version")


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.int32).reshape(1, 2, 3) - 2,
        np.array([[0.5, -1.0]], np.float32),
        np.array([2**40, -1]),
        np.array([[True, False]]),
        np.array([b"", b"\xff"], object),
        np.zeros([0, 4], np.int32),
        np.full([4, 4], 7, np.int32),
    ],
)
def test_tensors_in_both_forms(value):
    """As bytes, and as fields, where the last value may stand for the rest."""
    for as_fields in (False, True):
        response = prediction_server.predict_pb2.PredictResponse()
        tensor = tf.make_tensor_proto(value)
        if as_fields and value.dtype != object:
            field = {"i4": "int_val", "f4": "float_val", "i8": "int64_val", "b1": "bool_val"}
            tensor.tensor_content = b""
            name = field[value.dtype.str[1:]]
            tensor.ClearField(name)
            is_one = value.size and (value == value.flat[0]).all()
            getattr(tensor, name).extend(value.ravel()[: 1 if is_one else None].tolist())
        response.outputs["x"].CopyFrom(tensor)
        found = messages.decode_response(response.SerializeToString(), ["x"])["x"]
        assert found.shape == value.shape and found.tolist() == value.tolist()


def test_pauses_double_up_to_a_bound_and_vary_by_half():
    policy = RetryPolicy(max_attempts=9, first_seconds=0.5, max_seconds=4.0)
    assert [policy.delay(i, None, 1.0) for i in range(1, 6)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert [policy.delay(i, None, 0.0) for i in range(1, 4)] == [0.25, 0.5, 1.0]
    assert policy.delay(1, 3.0, 0.0) == 3.0 and policy.delay(1, 60.0, 0.0) == 4.0
    assert policy.delay(5000, None, 1.0) == 4.0


def test_pauses_between_attempts_and_an_end_to_them():
    slept = []

    def fail():
        raise retries.CallError("no", is_retriable=True, retry_after=0.3)

    with pytest.raises(retries.CallError, match=r"no \(3 attempts\)"):
        retries.call(fail, RetryPolicy(3, 0.1, 1.0), sleep=slept.append, draw=lambda: 1.0)
    assert slept == [0.3, 0.3]
    with pytest.raises(retries.CallError, match=r"no \(1 attempt\)"):
        retries.call(fail, QUICK, sleep=lambda seconds: True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"address": "localhost:8500"}, "address must be grpc://host:port"),
        ({"address": "grpc://localhost"}, "address must be grpc://host:port"),
        ({"address": "grpc://localhost:x"}, "address must be"),
        ({"address": "grpc://localhost:1/path"}, "has no path"),
        ({"address": "ftp://localhost:1"}, "address must be"),
        ({"address": "http://user@localhost:1"}, "address must be"),
        ({"address": "http://localhost:65536"}, "address must be .* the port in 1..65535, got"),
        ({"address": "grpc://localhost:65536"}, "address must be .* the port in 1..65535, got"),
        ({"address": "http://localhost:0"}, "address must be .* the port in 1..65535, got"),
        ({"address": "http://[::1"}, "address must be .*http://host:port"),
        ({"address": "http://a..b:1"}, "address must be .*http://host:port"),
        ({"address": "http://localhost:1/\xe9"}, "address must be ASCII"),
        ({"address": "http://local host:1"}, "address must be ASCII without spaces"),
        ({"address": "http://localhost:1/\n"}, "address must be ASCII"),
        ({"signature": "image_tensor"}, "signature must be one of image_bytes"),
        ({"timeout": 0.0}, "timeout must be above 0 and at most 86,400 seconds, got 0.0"),
        ({"timeout": float("inf")}, "timeout must be above 0 .*got inf"),
        ({"timeout": float("nan")}, "timeout must be above 0 .*got nan"),
        ({"timeout": 1e12}, "timeout must be above 0"),
        ({"connections": 0}, "connections must be at least 1, got 0"),
        ({"exif": "turn"}, "exif must be one of apply, ignore"),
        ({"model": ""}, "model must be printable text, got ''"),
        ({"model": "\udcff"}, "model must be printable text"),
        ({"dataset_info": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_wrong_arguments(options, message, dataset_info):
    given = {"address": "grpc://localhost:1", "dataset_info": dataset_info, **options}
    with pytest.raises(ValueError, match=message):
        Client(given.pop("address"), **given)


def test_wrong_policies():
    with pytest.raises(ValueError, match="max_attempts"):
        RetryPolicy(max_attempts=0)
    for first, most in ((3.0, 1.0), (0.1, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="first_seconds"):
            RetryPolicy(first_seconds=first, max_seconds=most)


def test_unreadable_images_are_not_sent(flaky, connect, tmp_path):
    client = connect(flaky.grpc, max_pixels=20)
    for content, message in ((b"text", "not an image"), (photo(), "limit is 20"), (b"", "empty")):
        with pytest.raises(ValueError, match=message):
            client(content)
    with pytest.raises(ValueError, match="no such file"):
        client(str(tmp_path / "none.jpg"))
    assert flaky.calls == 0


def test_rows_and_columns_of_the_rest_api(local, encode, make_image):
    """The command line of docs/serving.md sends rows; the client sends columns."""
    import base64
    import urllib.request

    instance = {"image_bytes": {"b64": base64.b64encode(encode(make_image(20, 30))).decode()}}
    body = {"signature_name": "panoptic_png", "instances": [instance, instance]}
    url = f"{local.rest}/v1/models/{MODEL}:predict"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        rows = json.load(response)["predictions"]
    assert len(rows) == 2 and rows[0] == rows[1]
    png = base64.b64decode(rows[0]["panoptic_png_bytes"]["b64"])
    assert tf.io.decode_png(png).shape == (20, 30, 3)
