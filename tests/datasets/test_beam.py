"""Conversion by Apache Beam: the files of the ordinary one, interrupted or not, and its errors."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets import beam, converter, manifest

ROOT = pathlib.Path(__file__).parents[2]
NUM_IMAGES, NUM_SHARDS = 10, 3


@pytest.fixture(scope="module")
def pool():
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    return beam.require_pool()


def _shape(label, *points):
    return {"label": label, "points": points, "shape_type": "polygon"}


@pytest.fixture
def drawn(tmp_path):
    """A folder of LabelMe files: sky, and cars over it; image 4 has no shape."""
    folder, rng = tmp_path / "drawn", np.random.default_rng(0)
    folder.mkdir()
    for number in range(NUM_IMAGES):
        height, width = 20 + number, 24
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        x, y = rng.integers(0, 12, 2).tolist()
        shapes = [
            _shape("sky", (0, 0), (width, 0), (width, 9), (0, 9)),
            _shape("car", (x, y), (x + 9, y + 2), (x + 3, y + 7)),
        ]
        content = {"imagePath": f"{number}.png", "imageHeight": height, "imageWidth": width}
        content["shapes"] = [] if number == 4 else shapes
        (folder / f"{number}.json").write_text(json.dumps(content))
    return folder


def _convert(source, output_dir, *beam_options, by_beam=True, **options):
    workers = {"beam_options": beam_options} if by_beam else {"num_processes": 1}
    return converter.convert_dataset(
        "labelme",
        str(output_dir),
        source=str(source),
        stuff="sky",
        num_shards=NUM_SHARDS,
        **workers,
        **options,
    )


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("options", [{}, {"unlabelled_policy": "skip", "split": "a:0.7,b:0.3"}])
def test_files_are_those_of_the_ordinary_conversion(pool, drawn, tmp_path, options):
    expected = _convert(drawn, tmp_path / "expected", by_beam=False, **options)
    assert _convert(drawn, tmp_path / "out", **options) == expected
    assert _contents(tmp_path / "out") == _contents(tmp_path / "expected")
    assert sum(s.num_records for m in expected for s in m.shards) == NUM_IMAGES - bool(options)


def test_an_interrupted_conversion_goes_on(pool, drawn, tmp_path, monkeypatch):
    add = manifest.Progress.add

    def add_and_stop(progress, shard):
        add(progress, shard)
        raise KeyboardInterrupt

    output_dir = tmp_path / "out"
    monkeypatch.setattr(manifest.Progress, "add", add_and_stop)
    with pytest.raises(KeyboardInterrupt):
        _convert(drawn, output_dir)
    monkeypatch.undo()
    _, line = (output_dir / "train.progress.jsonl").read_text().splitlines()
    kept = output_dir / json.loads(line)["name"]
    inode = kept.stat().st_ino
    (output_dir / ".train.beam-left").mkdir()
    _convert(drawn, output_dir)
    assert kept.stat().st_ino == inode
    _convert(drawn, tmp_path / "expected", by_beam=False)
    assert _contents(output_dir) == _contents(tmp_path / "expected")


def test_the_ordinary_conversion_goes_on_after_it(pool, drawn, tmp_path):
    _convert(drawn, tmp_path / "out")
    expected = _contents(tmp_path / "out")
    (tmp_path / "out" / "train.manifest.json").unlink()
    (tmp_path / "out" / ".train.beam-left").mkdir()
    _convert(drawn, tmp_path / "out", by_beam=False)
    assert _contents(tmp_path / "out") == expected


def _cut_image(drawn):
    path = drawn / "7.png"
    path.write_bytes(path.read_bytes()[:200])


def _change_size(drawn):
    Image.new("RGB", (5, 5)).save(drawn / "2.png")


def _damage_mask(drawn):
    content = json.loads((drawn / "3.json").read_text())
    content["shapes"][1] = {"label": "car", "points": [[0, 0], [9, 9]], "shape_type": "mask"}
    content["shapes"][1]["mask"] = "no mask"
    (drawn / "3.json").write_text(json.dumps(content))


@pytest.mark.parametrize("damage", [_cut_image, _change_size, _damage_mask])
def test_errors_are_those_of_the_ordinary_conversion(pool, drawn, tmp_path, damage):
    damage(drawn)
    errors = []
    for by_beam in (False, True):
        with pytest.raises(ValueError, match="drawn/") as raised:
            _convert(drawn, tmp_path / f"out_{by_beam}", by_beam=by_beam)
        errors.append((type(raised.value), str(raised.value)))
        assert not list((tmp_path / f"out_{by_beam}").glob(".*"))
    assert errors[0] == errors[1]


def test_a_full_disk_is_named(pool, drawn, tmp_path, monkeypatch):
    def write(task):
        raise OSError(28, f"cannot write {task.path}: No space left on device")

    monkeypatch.setattr(converter, "_write_shard", write)
    with pytest.raises(OSError, match="cannot write .*train-0000.*No space left") as raised:
        _convert(drawn, tmp_path / "out")
    assert raised.value.errno == 28


@pytest.mark.parametrize(
    "option, message",
    [
        ("runner=NoSuchRunner", "Unexpected pipeline runner: NoSuchRunner"),
        ("--runner=no.such.Runner", "No module named 'no'"),
        ("direct_num_workers=two", "argument --direct_num_workers: invalid int value: 'two'$"),
        ("direct_num_worker=2", "Beam has no option 'direct_num_worker'"),
    ],
)
def test_wrong_options_are_found_before_the_work(pool, drawn, tmp_path, option, message, capfd):
    with pytest.raises(ValueError, match=f"^beam_options: {message}"):
        _convert(drawn / "nothing is read", tmp_path / "out", option)
    assert not (tmp_path / "out").exists() and "usage" not in capfd.readouterr().err


def test_options_of_a_job_server_may_be_unknown(pool):
    options = pool.parse_options(["runner=FlinkRunner", "parallelism=2"])
    assert options.get_all_options()["runner"] == "FlinkRunner"


def test_processes_and_beam_exclude_each_other(drawn, tmp_path):
    with pytest.raises(ValueError, match="num_processes .*direct_num_workers"):
        _convert(drawn, tmp_path / "out", num_processes=2)


def _double(number):
    return 2 * number


def _fail_to_start():
    raise RuntimeError("no such device")


def _start():
    return _double


def test_a_job_that_fails_is_named(pool, tmp_path):
    with pytest.raises(OSError, match="the job of Apache Beam failed: .*no such device"):
        list(pool.map_unordered(_fail_to_start, [1, 2], str(tmp_path), "job", []))
    assert list(tmp_path.iterdir()) == []


def test_results_that_never_come_are_missed(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_LOOKS_AFTER_THE_END", 1)
    monkeypatch.setattr(pool._Work, "process", lambda work, element: None)
    with pytest.raises(OSError, match="2 of its results are missing"):
        list(pool.map_unordered(_start, [1, 2], str(tmp_path), "job", []))


def test_without_its_folder_a_worker_fails(pool, tmp_path):
    with pytest.raises(OSError, match="gone: a worker does not see this folder"):
        pool._Work(str(tmp_path / "gone"), _start).process(0)


@pytest.mark.slow
def test_workers_may_be_processes(pool, tmp_path):
    options = ["direct_num_workers=2", "direct_running_mode=multi_processing"]
    start = functools.partial(functools.partial, int)  # What another process can import.
    results = pool.map_unordered(start, ["1", "2", "3"], str(tmp_path), "job", options)
    assert sorted(results) == [1, 2, 3]


def test_without_beam_one_line_says_what_to_install(drawn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "panoptic_tf.datasets.beam_pool", raising=False)
    monkeypatch.delattr("panoptic_tf.datasets.beam_pool", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'panoptic-tf\[beam\]'"):
        _convert(drawn, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["convert", "predict"])
def test_help_imports_none_of_it(command):
    code = (
        f"import sys; from panoptic_tf.experiments import {command}; "
        "print(sorted({'tensorflow', 'apache_beam'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"
