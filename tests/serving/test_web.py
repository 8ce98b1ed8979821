"""The page that runs a model in the browser: its folder, its arithmetic, and it itself in Chromium.

The arithmetic needs `node`; what runs in a browser needs PANOPTIC_TF_CHROMIUM, a Chromium, and
PANOPTIC_TF_LITERTJS, the folder `node_modules/@litertjs`. Without them those tests are skipped.
"""

import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
import tensorflow as tf
from chromium import Chromium
from PIL import Image, ImageOps, PngImagePlugin
from small_systems import (
    ROWS,
    draw_sample,
    export_arguments,
    make_batch,
    row_task,
    step_in_graph,
)

from panoptic_tf.datasets import shapes
from panoptic_tf.inputs import geometry
from panoptic_tf.serving import tflite, web
from panoptic_tf.serving.predictor import PanopticResult, Predictor
from panoptic_tf.visualization.overlay import instance_color

PAGE = pathlib.Path(web.__file__).parent / "web_page"


# The folder.


@pytest.fixture
def runtime_dir(tmp_path):
    """What npm installs, in short."""
    folder = tmp_path / "@litertjs"
    contents = {
        "core/package.json": '{"version": "2.0.1"}',
        "core/dist/index.js": 'import { createWasmLib } from "@litertjs/wasm-utils";\n',
        "wasm-utils/dist/index.js": "export const createWasmLib = 0;\n",
        "core/wasm/litert_wasm_internal.js": "loader",
        "core/wasm/litert_wasm_internal.wasm": "wasm",
        "core/wasm/litert_wasm_compat_internal.js": "other loader",
        "core/wasm/litert_wasm_compat_internal.wasm": "other wasm",
        "core/wasm/litert_wasm_threaded_internal.wasm": "not needed",
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_folder_is_complete(tflite_path, runtime_dir, tmp_path):
    site = tmp_path / "site"
    assert web.export_web(tflite_path, str(site), runtime_dir=str(runtime_dir)) == str(site)
    names = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    runtime = ["litert.js", "wasm-utils.js"]
    runtime += [
        f"litert_wasm{kind}_internal.{e}" for kind in ("", "_compat") for e in ("js", "wasm")
    ]
    assert names == {
        *web.PAGE_FILES,
        "model.json",
        "model.tflite",
        *(f"runtime/{name}" for name in runtime),
    }
    assert set(web.PAGE_FILES) == {path.name for path in PAGE.iterdir()}
    assert (site / "model.tflite").read_bytes() == pathlib.Path(tflite_path).read_bytes()
    assert 'from "./wasm-utils.js";' in (site / "runtime/litert.js").read_text()
    described = json.loads((site / "model.json").read_text())
    assert described["input_size"] == [32, 48]
    assert described["runtime"] == "@litertjs/core 2.0.1"
    red, green, _ = described["categories"]
    assert (red["name"], red["is_thing"], green["is_thing"]) == ("red", True, False)
    assert red["colors"][:2] == [[255, 0, 0], list(instance_color((255, 0, 0), 1))]
    assert green["colors"] == [[0, 255, 0]]
    # A second export replaces the first.
    web.export_web(tflite_path, str(site), runtime_dir=str(runtime_dir))


def test_page_asks_nothing_of_other_hosts():
    text = {name: (PAGE / name).read_text() for name in web.PAGE_FILES}
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text["index.html"])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert "unsafe-inline" not in policy and "'unsafe-eval'" not in policy
    for name, content in text.items():
        assert "//" not in re.sub(r"(?m)//? .*$|/\*|\*/", "", content), f"{name} names a host"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", content)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("core/dist/index.js", None, "no such file; expected a file of @litertjs/core"),
        ("core/dist/index.js", "export {}", "does not import @litertjs/wasm-utils"),
        ("core/package.json", "[]", "'version' must be a string"),
        ("core/wasm/litert_wasm_internal.wasm", None, "npm install @litertjs/core"),
    ],
)
def test_another_runtime_is_refused(tflite_path, runtime_dir, tmp_path, name, content, message):
    (runtime_dir / name).unlink()
    if content is not None:
        (runtime_dir / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        web.export_web(tflite_path, str(tmp_path / "site"), runtime_dir=str(runtime_dir))
    assert not (tmp_path / "site").exists()


def test_model_without_masks_is_refused(network, export_arguments, runtime_dir, tmp_path):
    mean = tf.keras.layers.Lambda(
        lambda x: tf.reduce_mean(x["image"], [1, 2, 3]) + x["image_info"][:, 0, 0]
    )
    detector = tf.keras.Model(network.input, {"scores": mean(network.input)})
    path = tflite.export_tflite(detector, tflite_path=str(tmp_path / "m"), **export_arguments)
    with pytest.raises(ValueError, match="category_mask or semantic_mask, this model has scores"):
        web.export_web(path, str(tmp_path / "site"), runtime_dir=str(runtime_dir))


def test_output_that_is_a_file(tflite_path, runtime_dir):
    with pytest.raises(ValueError, match="package.json is not a folder"):
        web.export_web(
            tflite_path, str(runtime_dir / "core/package.json"), runtime_dir=str(runtime_dir)
        )


# The arithmetic, in Node.


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Runs JavaScript with the functions of panoptic.js; returns what it prints as JSON."""
    executable = shutil.which("node")
    if executable is None:
        pytest.skip("there is no node")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(PAGE / "panoptic.js", folder / "panoptic.mjs")

    def run(code, **values):
        (folder / "values.json").write_text(json.dumps(values))
        start = (
            'import * as panoptic from "./panoptic.mjs"; import fs from "node:fs";'
            'const values = JSON.parse(fs.readFileSync("values.json"));'
        )
        (folder / "main.mjs").write_text(start + code)
        result = subprocess.run(
            [executable, "main.mjs"], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


def _rgba(image):
    """Flat, as a canvas gives it."""
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]).ravel().tolist()


# Scaled up and down, by hardly anything, a half pixel to round (45 x 64 -> 22.5), one row, equal.
SIZES = [(32, 48), (75, 200), (31, 47), (5, 7), (45, 64), (1, 300), (97, 3)]


def test_images_are_scaled_as_the_package_does(node, make_image):
    images = [make_image(*size, seed=i) for i, size in enumerate(SIZES)]
    found = node(
        "console.log(JSON.stringify(values.images.map((pixels, i) => {"
        " const { image, imageInfo } = panoptic.fitAndPad(pixels, values.sizes[i], [32, 48]);"
        " return [Array.from(image), Array.from(imageInfo)]; })));",
        images=[_rgba(image) for image in images],
        sizes=SIZES,
    )
    for image, (pixels, image_info) in zip(images, found):
        expected, expected_info = geometry.fit_and_pad(tf.constant(image), (32, 48))
        np.testing.assert_array_equal(np.reshape(image_info, [4, 2]), expected_info)
        np.testing.assert_array_equal(np.reshape(pixels, [32, 48, 3]), expected)


def _describe(result):
    """Segments of a `PanopticResult` as the page has them, without their ranks."""
    return [
        dict(id=s.id, category=s.category_id, instance=s.instance_id, area=s.area, box=list(s.bbox))
        for s in result.segments
    ]


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_segments_are_those_of_the_package(node, tflite_path, dataset_info, make_image, kind):
    runner = tflite.TFLiteRunner(tflite_path)
    images = [make_image(*size, seed=i) for i, size in enumerate(SIZES)]
    answers = []
    for image in images:
        outputs = runner(*(v.numpy() for v in geometry.fit_and_pad(tf.constant(image), (32, 48))))
        if kind == "semantic":
            outputs = {key: outputs[key] for key in ("semantic_mask", "image_size")}
        answers.append(outputs)
    found = node(
        "console.log(JSON.stringify(values.answers.map((outputs, i) => {"
        " const { ids, segments } = panoptic.toResult(outputs, values.sizes[i]);"
        " return [Array.from(ids), segments]; })));",
        answers=[
            {key: {"data": v.ravel().tolist(), "shape": v.shape} for key, v in answer.items()}
            for answer in answers
        ],
        sizes=SIZES,
    )
    predictor = Predictor(tflite_path)
    for image, outputs, (ids, segments) in zip(images, answers, found):
        predictor._model = lambda _, outputs=outputs: {key: v[0] for key, v in outputs.items()}
        expected = PanopticResult(image, predictor.predict_arrays(image), dataset_info)
        np.testing.assert_array_equal(np.reshape(ids, image.shape[:2]), expected.id_map)
        ranks = [segment.pop("rank") for segment in segments]
        assert min(ranks) == 0
        scores = [segment.pop("score") for segment in segments]
        assert scores == pytest.approx([segment.score for segment in expected.segments])
        assert segments == _describe(expected)


def test_ranks_follow_the_first_pixels_and_void_has_no_instance(node):
    # Two things of category 1, instance 2 above instance 1, stuff 2, and void with an instance.
    category = [[1, 1, 2], [0, 2, 1]]
    instance = [[2, 2, 0], [3, 0, 1]]
    result = node(
        "const mask = (rows) => ({ data: Int32Array.from(rows.flat()), shape: [1, 2, 3] });"
        "const { ids, segments } = panoptic.toResult({ category_mask: mask(values.category),"
        " instance_mask: mask(values.instance), image_size: { data: [2, 3] } }, [2, 3]);"
        "const colors = [null, [1, 2, 3], [4, 5, 6], [7, 8, 9]];"
        "const painted = [0, 3].map((id) => Array.from(panoptic.paint(ids, [2, 3], colors, id)));"
        "console.log(JSON.stringify([Array.from(ids), segments, painted]));",
        category=category,
        instance=instance,
    )
    ids, segments, (painted, highlighted) = result
    assert ids == [2, 2, 3, 0, 3, 1]
    assert [(s["instance"], s["rank"], s["area"]) for s in segments] == [
        (1, 1, 1),
        (2, 0, 2),
        (0, 0, 2),
    ]
    # Borders, to the right of and below another segment, are white; the rest has its colour.
    colors = [tuple(painted[i : i + 3]) for i in range(0, 24, 4)]
    white = (255, 255, 255)
    assert colors == [(4, 5, 6), (4, 5, 6), white, white, white, white]
    opacities = np.array([painted[3::4], highlighted[3::4]])
    assert (opacities[1] < opacities[0]).tolist() == [True, True, False, True, False, True]


# In Chromium.


class _Server(http.server.ThreadingHTTPServer):
    """Serves a folder and remembers what was asked for."""

    def __init__(self, folder):
        self.paths = []
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


def _from_environment(name):
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set")
    return value


@pytest.fixture(scope="module")
def litertjs():
    return _from_environment("PANOPTIC_TF_LITERTJS")


@pytest.fixture(scope="module")
def browser(litertjs, tmp_path_factory):
    executable = _from_environment("PANOPTIC_TF_CHROMIUM")
    started = Chromium(executable, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


class Page:
    """The page in the browser."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.open(f"{url}index.html")
        self.wait_for_status("Ready.")

    @property
    def status(self):
        return self.browser.evaluate("document.getElementById('status').textContent")

    def wait_for_status(self, text):
        shown = "document.getElementById('status').textContent"
        self.browser.wait_for(f"{shown}.includes({json.dumps(text)})")

    def predict(self, path):
        """(id map, segments) of the photograph in a file."""
        self.browser.evaluate(
            "void (globalThis.answer = new Promise((resolve) => document.addEventListener("
            "'panoptic-result', ({ detail }) => resolve(detail), { once: true })))"
        )
        self.browser.choose("#file", path)
        detail = self.browser.evaluate(
            "answer.then(({ ids, size, segments }) => ({ ids: Array.from(ids), size, segments }))"
        )
        return np.reshape(detail["ids"], detail["size"]), detail["segments"]


@pytest.fixture(scope="module")
def server(tflite_path, litertjs, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    web.export_web(tflite_path, str(site), runtime_dir=litertjs)
    with _Server(site) as started:
        yield started
        started.shutdown()


@pytest.fixture
def page(browser, server):
    return Page(browser, server.url)


def assert_as_predictor(page, path, predictor, image=None):
    """The page answers a file as the predictor does, or as it answers the file's `image`."""
    ids, segments = page.predict(path)
    expected = predictor(path if image is None else image)
    assert ids.shape == expected.image_size
    assert np.mean(ids == expected.id_map) >= 0.999
    assert [s["name"] for s in segments] == [s.name for s in expected.segments]
    for found, wanted in zip(segments, expected.segments):
        assert found["score"] == pytest.approx(wanted.score, abs=1e-3)
        assert found["area"] == pytest.approx(wanted.area, abs=0.001 * ids.size)


@pytest.mark.parametrize("size", [(32, 48), (333, 101), (20, 30)])
def test_page_predicts_as_the_package(page, tflite_path, make_image, tmp_path, size):
    path = tmp_path / "photo.png"
    Image.fromarray(make_image(*size)).save(path)
    assert_as_predictor(page, path, Predictor(tflite_path))


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
def test_orientation_is_applied(page, tflite_path, make_image, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(make_image(60, 100)).save(path, exif=exif, quality=95)
    # Browsers decode JPEG as Pillow does, TensorFlow with a faster, coarser transform.
    with Image.open(path) as picture:
        assert_as_predictor(page, path, Predictor(tflite_path), ImageOps.exif_transpose(picture))


def test_profile_of_colors_is_not_applied(page, tflite_path, make_image, tmp_path):
    path = tmp_path / "photo.png"
    note = PngImagePlugin.PngInfo()
    note.add(b"gAMA", (250_000).to_bytes(4, "big"))
    Image.fromarray(make_image(40, 50) // 2).save(path, pnginfo=note)
    assert_as_predictor(page, path, Predictor(tflite_path))


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.system)
def trained_path(request, browser, tmp_path_factory):
    """The .tflite file of a system after some steps on four images."""
    tf.keras.utils.set_random_seed(1)
    task = row_task(request.param)
    model = task.build_model()
    optimizer = tf.keras.optimizers.legacy.Adam(1e-2)
    batch = make_batch(task, [draw_sample(seed) for seed in range(4)])
    metrics = task.build_metrics(training=True)
    step = step_in_graph(task, model, optimizer, metrics)
    for _ in range(60):
        step(*batch)
    return tflite.export_tflite(
        model.inference_network,
        tflite_path=str(tmp_path_factory.mktemp("trained") / "model.tflite"),
        **export_arguments(task),
    )


@pytest.mark.slow
def test_page_predicts_with_every_system(trained_path, browser, litertjs, tmp_path):
    image = Image.fromarray(shapes.generate_image(5, 1, 64).image)
    photos = {"small.png": image, "large.png": image.resize((300, 200), Image.BICUBIC)}
    web.export_web(trained_path, str(tmp_path / "site"), runtime_dir=litertjs)
    with _Server(tmp_path / "site") as server:
        page = Page(browser, server.url)
        for name, photo in photos.items():
            photo.save(tmp_path / name)
            _, segments = page.predict(tmp_path / name)
            assert len(segments) > 1
            assert_as_predictor(page, tmp_path / name, Predictor(trained_path))
        server.shutdown()


def test_table_and_highlight(page, make_image, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(make_image(64, 96)).save(path)
    _, segments = page.predict(path)
    evaluate = page.browser.evaluate
    rows = evaluate("[...document.querySelectorAll('#rows tr')].map((row) => row.innerText)")
    assert [row.split("\t")[0] for row in rows] == [s["name"] for s in segments]
    assert rows[0].split("\t")[1:4] == [
        "thing",
        f"{segments[0]['score']:.3f}",
        f"{segments[0]['area']:,}",
    ]
    assert page.status.startswith(f"{len(segments)} segments in ")
    opacity = (
        "(() => { const c = document.getElementById('overlay'); return c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 === 3)"
        ".reduce((sum, value) => sum + value) })()"
    )
    before = evaluate(opacity)
    evaluate("void document.querySelector('#rows tr').focus()")
    assert evaluate("document.querySelector('#rows tr').className") == "highlighted"
    assert evaluate(opacity) < 0.6 * before
    evaluate("void document.querySelector('#rows tr').blur()")
    assert evaluate(opacity) == before
    # Pointing at the picture marks the row of the segment there.
    evaluate(
        "(() => { const o = document.getElementById('overlay');"
        " const b = o.getBoundingClientRect();"
        " o.dispatchEvent(new PointerEvent('pointermove',"
        " { clientX: b.left + 1, clientY: b.top + 1 })); })()"
    )
    assert evaluate("document.querySelectorAll('tr.highlighted').length") == 1


def test_file_that_is_no_image(page, tmp_path):
    path = tmp_path / "<b>notes.txt"
    path.write_text("no image")
    page.browser.choose("#file", path)
    page.wait_for_status("<b>notes.txt is not an image that this browser reads.")
    assert page.browser.evaluate("document.querySelectorAll('#rows tr').length") == 0


def test_dropped_photograph_is_taken(page, make_image, encode):
    content = list(encode(make_image(20, 30)))
    page.browser.evaluate(
        "(() => { const data = new DataTransfer();"
        f" data.items.add(new File([new Uint8Array({content})], 'photo.png'));"
        " document.dispatchEvent(new DragEvent('drop', { dataTransfer: data })); })()"
    )
    page.wait_for_status("segments in")
    assert page.browser.evaluate("document.getElementById('photo').width") == 30


def test_nothing_leaves_the_browser(page, server, make_image, tmp_path):
    """Neither the page nor its worker may ask another host; while predicting they ask nobody."""
    path = tmp_path / "photo.png"
    Image.fromarray(make_image(30, 40)).save(path)
    asked = len(server.paths)
    page.predict(path)
    assert server.paths[asked:] == []
    with _Server(tmp_path) as other:
        worker = (
            f"fetch('{other.url}').then(() => postMessage('sent'), () => postMessage('refused'))"
        )
        outcomes = page.browser.evaluate(
            f"Promise.all([fetch('{other.url}').then(() => 'sent', () => 'refused'),"
            " new Promise((resolve) => { const worker = new Worker(URL.createObjectURL("
            f'new Blob([{json.dumps(worker)}], {{ type: "text/javascript" }})));'
            " worker.onmessage = ({ data }) => resolve(data); })])"
        )
        other.shutdown()
    assert outcomes == ["refused", "refused"]
    assert other.paths == []


def test_name_of_a_category_is_text(browser, tflite_path, litertjs, tmp_path):
    site = tmp_path / "site"
    web.export_web(tflite_path, str(site), runtime_dir=litertjs)
    described = json.loads((site / "model.json").read_text())
    name = "<img src=x onerror='document.title=1'>"
    described["dataset"] = described["categories"][0]["name"] = name
    (site / "model.json").write_text(json.dumps(described))
    Image.new("RGB", (48, 32), (200, 10, 10)).save(tmp_path / "red.png")
    with _Server(site) as server:
        _, segments = Page(browser, server.url).predict(tmp_path / "red.png")
        server.shutdown()
    assert segments[0]["name"] == name
    assert browser.evaluate("document.querySelector('#rows td').textContent") == name
    assert name in browser.evaluate("document.getElementById('about').textContent")
    assert browser.evaluate("document.querySelectorAll('img').length") == 0


def test_missing_model_is_said(browser, litertjs, tflite_path, tmp_path):
    web.export_web(tflite_path, str(tmp_path), runtime_dir=litertjs)
    (tmp_path / "model.tflite").unlink()
    with _Server(tmp_path) as server:
        browser.open(f"{server.url}index.html")
        browser.wait_for(
            "document.getElementById('status').textContent.includes('model.tflite: 404')"
        )
        server.shutdown()
