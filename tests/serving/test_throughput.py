"""What is measured of a model: by every way into it, each in its process, of good images only."""

import dataclasses
import json
import os
import types

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.serving.throughput import calls, inputs, machine, measuring, table

NUMBERS = {
    "images_per_second",
    "cpu_ms_per_image",
    "latency_ms_p50",
    "latency_ms_p90",
    "latency_ms_p99",
    "first_request_seconds",
    "load_seconds",
    "peak_memory_bytes",
}
DRAWN = inputs.Images(size=(24, 40))


@pytest.fixture(scope="module")
def onnx_path(network, export_arguments, tmp_path_factory):
    for name in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx")
    from panoptic_tf.serving.onnx_export import export_onnx

    path = str(tmp_path_factory.mktemp("measured") / "model.onnx")
    return export_onnx(network, onnx_path=path, **export_arguments)


@pytest.fixture
def model(request):
    """The stand-in, exported in the form that the test names."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def photos(make_image, encode, tmp_path):
    """Files of several sizes and formats."""
    kinds = {"a.png": "PNG", "b.jpg": "JPEG"}
    for number, (name, kind) in enumerate(kinds.items()):
        (tmp_path / name).write_bytes(encode(make_image(20 + number, 30), kind))
    return [str(tmp_path / name) for name in kinds]


@pytest.mark.parametrize(
    "model, through",
    [
        ("saved_model_dir", calls.PREDICTOR),
        ("saved_model_dir", calls.SIGNATURE),
        ("saved_model_dir", calls.NETWORK),
        ("tflite_path", calls.PREDICTOR),
        ("tflite_path", calls.NETWORK),
        ("onnx_path", calls.PREDICTOR),
        ("onnx_path", calls.NETWORK),
    ],
    indirect=["model"],
)
def test_every_way_into_a_model(model, through, photos):
    images = inputs.given(photos, max_pixels=10_000)
    plan = measuring.Plan(model, images, num_requests=4, num_warmup_requests=1)
    row = measuring.measure(plan, measuring.Case(through, batch_size=3))
    assert row.keys() == {"requests", *NUMBERS} and row["requests"] == 4
    assert all(row[name] > 0 for name in NUMBERS)
    assert row["latency_ms_p50"] <= row["latency_ms_p90"] <= row["latency_ms_p99"]
    # One after the other, so that the requests fill the time.
    mean = 3 / row["images_per_second"]
    assert mean >= row["latency_ms_p50"] / 4e3 and row["peak_memory_bytes"] > 100e6


def test_what_is_timed(tflite_path, monkeypatch):
    """Known seconds: 2 warm-up requests after a first one, then 3 that are counted."""
    slept = iter([0.2, 0.1, 0.1, 0.02, 0.04, 0.06])
    now, seen = [0.0], []

    class Call:
        def prepare(self, images):
            return [image.name for image in images]

        def __call__(self, request):
            seen.append(request)
            now[0] += next(slept)

    def open_call(model, through, **options):
        now[0] += 7.0
        return Call()

    monkeypatch.setattr(calls, "open_call", open_call)
    clock = types.SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 2 * now[0])
    monkeypatch.setattr(measuring, "time", clock)
    plan = measuring.Plan(tflite_path, DRAWN, num_requests=3, num_warmup_requests=2)
    row = measuring.measure(plan, measuring.Case(calls.PREDICTOR, batch_size=3))
    expected = {
        "requests": 3,
        "load_seconds": 7.0,
        "first_request_seconds": 0.2,
        "images_per_second": 9 / 0.12,
        "cpu_ms_per_image": 240 / 9,
        "latency_ms_p50": 40.0,
        "latency_ms_p90": 56.0,
        "latency_ms_p99": 59.6,
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value), name
    # 8 drawn images in requests of 3: the third begins again with the first image.
    names = [f"drawn image {i}" for i in range(8)]
    wanted = [names[:3], names[3:6], [*names[6:], names[0]]]
    assert seen == [wanted[i] for i in (0, 0, 1, 0, 1, 2)]


def test_no_request_is_begun_after_the_seconds(tflite_path):
    plan = measuring.Plan(tflite_path, DRAWN, num_requests=50, seconds=0.0, num_warmup_requests=0)
    assert measuring.measure(plan, measuring.Case(calls.PREDICTOR))["requests"] == 1


def test_the_network_alone_is_given_images_of_its_size(saved_model_dir, photos):
    """32 x 48: 20 x 30 fills it, 21 x 30 becomes 32 x 46."""
    call = calls.open_call(saved_model_dir, calls.NETWORK, num_threads=None, max_pixels=10_000)
    request = call.prepare(inputs.read(inputs.given(photos, max_pixels=10_000)))
    assert request.dtype == np.uint8 and request.shape == [2, 32, 48, 3]
    pixels = request.numpy()
    assert pixels[0].min() > 0 and pixels[1, :, :46].min() > 0 and not pixels[1, :, 46:].any()


class _Here:
    """Stands for a pool of one process: works here, or dies."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, plan, case):
        if case.batch_size == 3:
            raise measuring.concurrent.futures.process.BrokenProcessPool
        return types.SimpleNamespace(result=lambda: function(plan, case))


def test_rows(saved_model_dir, monkeypatch):
    """A process that does not survive is a row of its own."""
    monkeypatch.setattr(measuring.concurrent.futures, "ProcessPoolExecutor", _Here)
    plan = measuring.Plan(saved_model_dir, DRAWN, num_requests=2, num_warmup_requests=0)
    report = measuring.run(plan, [measuring.Case(calls.SIGNATURE, b) for b in (2, 3)])
    first, second = report["rows"]
    about = {"through", "batch_size", "threads", "concurrency"}
    assert first.keys() == {*about, "requests", *NUMBERS}
    assert (first["through"], first["batch_size"], first["threads"]) == ("signature", 2, None)
    assert second.keys() == {*about, "error"} and "memory" in second["error"]
    assert report["size_bytes"] > 10_000 and report["model"] == saved_model_dir
    assert report["images"] == "8 of noise, 24x40, JPEG"
    assert json.loads(json.dumps(report)) == report
    lines = table.format_report(report).splitlines()
    heads, one, two = map(str.split, lines[-4:-1])
    assert heads[:3] == ["through", "batch", "threads"]
    assert one[:4] == ["signature", "2", "-", "1"] and "-" not in one[4:]
    assert two == ["signature", "3", "-", "1"] + 9 * ["-"]
    assert lines[-1].startswith("signature, batch 3, threads -: its process was ended")


def test_a_server(saved_model_dir, dataset_info, photos):
    pytest.importorskip("tensorflow_serving", reason="the server of the test needs it")
    import prediction_server

    server = prediction_server.Server(os.path.join(saved_model_dir, "1"))
    try:
        options = {"dataset_info": dataset_info, "model": prediction_server.MODEL}
        plan = measuring.Plan(
            server.grpc,
            inputs.given(photos, max_pixels=10_000),
            num_requests=6,
            client_options=options,
        )
        row = measuring.measure(plan, measuring.Case(calls.CLIENT, concurrency=3))
        assert row["requests"] == 6 and row["images_per_second"] > 0
        assert row["peak_memory_bytes"] is None and row["cpu_ms_per_image"] is None
        wrong = dataclasses.replace(plan, client_options={**options, "model": "another"})
        with pytest.raises(OSError, match="another"):
            measuring.measure(wrong, measuring.Case(calls.CLIENT))
    finally:
        server.close()


@pytest.mark.parametrize(
    "kind, arguments, expected",
    [
        ("tflite", {}, [("Predictor", 1, None, 1)]),
        (
            "tflite",
            {"batch_sizes": [1, 8], "decoded": True},
            [(way, b, None, 1) for way in ("Predictor", "network") for b in (1, 8)],
        ),
        (
            "saved_model",
            {"batch_sizes": [1, 8], "threads": [1, 2]},
            [
                (way, b, t, 1)
                for t in (1, 2)
                for way, b in (("Predictor", 1), ("signature", 1), ("signature", 8))
            ],
        ),
        (
            "address",
            {"concurrency": [1, 4]},
            [("client", 1, None, 1), ("client", 1, None, 4)],
        ),
    ],
)
def test_cases(kind, arguments, expected, saved_model_dir, tflite_path):
    models = {"saved_model": saved_model_dir, "tflite": tflite_path, "address": "grpc://host:1"}
    cases = measuring.list_cases(models[kind], **arguments)
    assert [(c.through, c.batch_size, c.threads, c.concurrency) for c in cases] == expected


@pytest.mark.parametrize(
    "model, arguments, words",
    [
        ("nowhere", {}, "nowhere: no such file or folder"),
        ("grpc://host:1", {"threads": [1]}, "--threads and --decoded are of models"),
        ("grpc://host:1", {"batch_sizes": [2]}, "batches requests itself"),
        ("grpc://host:1", {"decoded": True}, "--threads and --decoded are of models"),
        ("here", {"concurrency": [2]}, "--concurrency is of addresses"),
    ],
)
def test_cases_that_a_model_does_not_have(model, arguments, words, tflite_path):
    with pytest.raises(ValueError, match=words):
        measuring.list_cases(tflite_path if model == "here" else model, **arguments)


@pytest.mark.parametrize("through", [calls.PREDICTOR, calls.NETWORK])
def test_what_is_no_model(through, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="model.tflite is not a TFLite file"):
        measuring.measure(measuring.Plan(str(path), DRAWN), measuring.Case(through))


def test_images_that_cannot_be_measured(saved_model_dir, photos, encode, make_image, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(ValueError, match="bad.png is not an image"):
        inputs.given([*photos, str(bad)], max_pixels=10_000)
    with pytest.raises(ValueError, match="a.png has 20 x 30"):
        inputs.given(photos, max_pixels=100)
    # The Predictor reads WebP; the signature does not. The model's own limit is 100,000 pixels.
    webp, large = tmp_path / "c.webp", tmp_path / "d.png"
    webp.write_bytes(encode(make_image(20, 30), "WEBP"))
    large.write_bytes(encode(make_image(400, 300)))
    for path, words in ((webp, "c.webp is not an image.*WebP"), (large, "d.png has more pixels")):
        images = inputs.given([str(path)], max_pixels=1_000_000)
        plan = measuring.Plan(saved_model_dir, images)
        with pytest.raises(ValueError, match=words):
            measuring.measure(plan, measuring.Case(calls.SIGNATURE))


def test_the_first_files_of_many_are_taken(photos):
    images = inputs.given(photos * 50, max_pixels=10_000)
    assert images.paths == tuple(photos * 32) and images.description == "64 given"


def test_drawn_images():
    first, second = (inputs.read(inputs.Images(size=(31, 50))) for _ in range(2))
    assert first == second and len({image.content for image in first}) == 8
    with Image.open(inputs.io.BytesIO(first[0].content)) as image:
        assert image.format == "JPEG" and image.size == (50, 31)


def test_machine():
    described = machine.describe()
    assert described["cpu"] and described["cpus"] >= 1
    assert set(described["cpu_flags"]) <= machine.cpu_flags()
    assert "tensorflow" in described["versions"]
    assert np.ones(200_000_000, np.uint8).nbytes < machine.peak_memory() < 100e9
