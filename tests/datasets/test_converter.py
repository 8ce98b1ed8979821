"""Conversion: sharding, atomicity, resumption, refusals."""

import hashlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets import converter, manifest, record, segments
from panoptic_tf.datasets.dataset_info import DatasetInfo

ROOT = pathlib.Path(__file__).parents[2]


def _convert(coco, output_dir, **options):
    options = {"num_processes": 1, "num_shards": 3, **options}
    return converter.convert_dataset("coco_panoptic", str(output_dir), **coco.paths, **options)[0]


def _read(path):
    return [
        {key: value.numpy() for key, value in record.decode_example(serialized).items()}
        for serialized in tf.data.TFRecordDataset(str(path))
    ]


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_and_manifest(make_coco, tmp_path):
    coco = make_coco(6)
    written = _convert(coco, tmp_path / "out", split="val")
    names = [f"val-0000{i}-of-00003.tfrecord" for i in range(3)]
    files = ["dataset_info.json", *names, "val.manifest.json"]
    assert sorted(os.listdir(tmp_path / "out")) == files
    info = DatasetInfo.load(str(tmp_path / "out" / "dataset_info.json"))
    assert info.dataset_ids == (0, 3, 7, 200)
    content = json.loads((tmp_path / "out" / "val.manifest.json").read_text())
    assert content["num_records"] == 6 and content["split"] == "val"
    assert content["source"]["panoptic_json"] == coco.paths["panoptic_json"]
    json_bytes = (coco.folder / "panoptic.json").read_bytes()
    assert content["fingerprint"]["source_sha256"] == hashlib.sha256(json_bytes).hexdigest()
    for shard, name in zip(written.shards, names):
        shard_bytes = (tmp_path / "out" / name).read_bytes()
        assert shard.sha256 == hashlib.sha256(shard_bytes).hexdigest()
        assert shard.num_records == len(_read(tmp_path / "out" / name))


def test_records_hold_what_the_files_hold(make_coco, tmp_path):
    coco = make_coco(5)
    _convert(coco, tmp_path / "out")
    seen = []
    for index in range(3):
        for example in _read(tmp_path / "out" / manifest.shard_name("train", index, 3)):
            image_id = json.loads(example["image_id"])
            assert converter.shard_of(image_id, 3) == index
            seen.append(image_id)
            image_file = coco.folder / "images" / f"{image_id}.jpg"
            assert example["image_bytes"] == image_file.read_bytes()
            ids = np.concatenate([[0], example["segment_ids"]])
            np.testing.assert_array_equal(ids[example["id_map"]], coco.ids(image_id))
            table = coco.content["annotations"][image_id]["segments_info"]
            assert example["segment_ids"].tolist() == [s["id"] for s in table]
            assert example["segment_categories"].tolist() == [3, 1, 2]
            assert example["segment_is_crowd"].tolist() == [False, False, True]
            assert example["segment_boxes"].tolist() == [s["bbox"] for s in table]
            assert not example["has_instances"]
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_an_image_keeps_its_shard():
    # Stable across versions of Python and of this package: records would move otherwise.
    assert [converter.shard_of(i, 1000) for i in (142238, "142238", "frankfurt_000000")] == SHARDS


SHARDS = [
    int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % 1000
    for text in (b"142238", b'"142238"', b'"frankfurt_000000"')
]


def test_number_of_shards_follows_the_number_of_images(make_coco, tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "_IMAGES_PER_SHARD", 4)
    assert len(_convert(make_coco(5), tmp_path / "out", num_shards=None).shards) == 2


KILLED = """
import sys, time
from panoptic_tf.datasets import converter

encode = converter.encode

def stop_at_image_7(image, *arguments):
    if image.image_id == 7:
        print("reached", flush=True)
        time.sleep(600)
    return encode(image, *arguments)

converter.encode = stop_at_image_7
if __name__ == "__main__":
    json_file, png_dir, image_dir, output_dir, num_processes = sys.argv[1:]
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=json_file, panoptic_dir=png_dir, image_dir=image_dir,
        output_dir=output_dir, num_shards=4, num_processes=int(num_processes))
"""


@pytest.fixture
def kill_conversion(tmp_path):
    """Converts in a process of its own, and kills it in the middle of a shard."""

    def kill(coco, output_dir, num_processes):
        script = tmp_path / "convert_and_stop.py"
        script.write_text(KILLED)
        arguments = [*coco.paths.values(), str(output_dir), str(num_processes)]
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        try:
            assert process.stdout.readline() == b"reached\n"
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        # The pipe ends with the last worker that holds it, and workers sleep for 600 seconds.
        has_ended, _, _ = select.select([process.stdout], [], [], 120)
        assert has_ended, "workers outlived the process that started them"
        process.stdout.close()

    return kill


@pytest.mark.slow
def test_a_killed_pool_ends_leaves_no_whole_looking_shard_and_resumes(
    make_coco, tmp_path, kill_conversion
):
    coco, output_dir, fresh = make_coco(12), tmp_path / "out", tmp_path / "fresh"
    kill_conversion(coco, output_dir, num_processes=2)
    left = _contents(output_dir)
    stopped = manifest.shard_name("train", converter.shard_of(7, 4), 4)
    assert stopped not in left and "train.manifest.json" not in left
    assert any(name.startswith(f".{stopped}") for name in left), "the half-written file"
    _convert(coco, fresh, num_shards=4)
    expected = _contents(fresh)
    for name, content in left.items():
        if name.endswith(".tfrecord"):
            assert content == expected[name]
    _convert(coco, output_dir, num_shards=4, num_processes=2)
    assert _contents(output_dir) == expected


@pytest.fixture
def written_shards(monkeypatch):
    """Names of the shards that are written, in order."""
    names = []
    write_shard = converter._write_shard

    def write(task):
        names.append(os.path.basename(task.path))
        return write_shard(task)

    monkeypatch.setattr(converter, "_write_shard", write)
    return names


def test_a_rerun_keeps_what_is_whole(make_coco, tmp_path, written_shards):
    coco = make_coco(8)
    _convert(coco, tmp_path / "out")
    expected = _contents(tmp_path / "out")
    written_shards.clear()
    _convert(coco, tmp_path / "out")
    assert written_shards == []
    broken, missing = (manifest.shard_name("train", i, 3) for i in (0, 2))
    (tmp_path / "out" / broken).write_bytes(expected[broken][:-1])
    (tmp_path / "out" / missing).unlink()
    _convert(coco, tmp_path / "out")
    assert written_shards == [broken, missing]
    assert _contents(tmp_path / "out") == expected


def test_a_failed_run_resumes_after_the_repair(make_coco, tmp_path, written_shards):
    coco = make_coco(8)
    whole = coco.ids(7)
    coco.save_ids(7, whole + np.uint32(1))
    with pytest.raises(ValueError, match=r"7\.png"):
        _convert(coco, tmp_path / "out")
    failed = manifest.shard_name("train", converter.shard_of(7, 3), 3)
    finished = [name for name in written_shards if name != failed]
    names = os.listdir(tmp_path / "out")
    assert failed not in names and "train.manifest.json" not in names
    assert not [name for name in names if name.endswith(".tmp")]
    coco.save_ids(7, whole)
    written_shards.clear()
    _convert(coco, tmp_path / "out")
    assert failed in written_shards and not set(finished) & set(written_shards)
    assert "train.progress.jsonl" not in os.listdir(tmp_path / "out")


def test_an_unfinished_run_of_other_annotations_is_started_anew(make_coco, tmp_path):
    coco = make_coco(8)
    whole = coco.ids(7)
    coco.save_ids(7, whole + np.uint32(1))
    with pytest.raises(ValueError):
        _convert(coco, tmp_path / "out", num_shards=5)
    coco.save_ids(7, whole)
    _convert(coco, tmp_path / "out")
    _convert(coco, tmp_path / "fresh")
    assert _contents(tmp_path / "out") == _contents(tmp_path / "fresh")


def test_a_finished_conversion_of_other_annotations_is_not_replaced(make_coco, tmp_path):
    coco = make_coco(4)
    _convert(coco, tmp_path / "out")
    before = _contents(tmp_path / "out")
    with pytest.raises(ValueError, match="another number of shards. Choose another output_dir"):
        _convert(coco, tmp_path / "out", num_shards=2)
    assert _contents(tmp_path / "out") == before
    _convert(coco, tmp_path / "out", num_shards=2, overwrite=True)
    _convert(coco, tmp_path / "fresh", num_shards=2)
    assert _contents(tmp_path / "out") == _contents(tmp_path / "fresh")


def test_two_splits_share_a_folder_and_its_categories(make_coco, tmp_path):
    coco, other = make_coco(3), make_coco(2, name="other")
    _convert(coco, tmp_path / "out", split="train")
    _convert(other, tmp_path / "out", split="val")
    assert len(list((tmp_path / "out").glob("*.manifest.json"))) == 2
    other.content["categories"] = other.content["categories"] + [{"id": 9, "name": "cow"}]
    other.save()
    with pytest.raises(ValueError, match="dataset_info.json.*other categories"):
        _convert(other, tmp_path / "out", split="val", overwrite=True)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _drop_segment(coco):
    del coco.content["annotations"][1]["segments_info"][1]


def _add_segment(coco):
    coco.content["annotations"][1]["segments_info"].append({"id": 12, "category_id": 3})


def _shrink_image(coco):
    Image.new("RGB", (17, 20)).save(coco.folder / "images" / "1.jpg")


def _many_segments(coco):
    coco.save_ids(1, np.arange(1, 257 * 257 + 1).reshape(257, 257))
    coco.content["images"][1].update(height=257, width=257)
    coco.content["annotations"][1]["segments_info"] = [
        {"id": i, "category_id": 3} for i in range(1, 257 * 257 + 1)
    ]
    Image.new("RGB", (257, 257)).save(coco.folder / "images" / "1.jpg")


def _set_category(coco):
    coco.content["annotations"][1]["segments_info"][1]["category_id"] = 77


def _escape(coco):
    coco.content["images"][1]["file_name"] = "../images/1.jpg"


BAD_INPUT = {
    "truncated image": (
        lambda c: _truncate(c.folder / "images" / "1.jpg"),
        r"images/1\.jpg: cannot be decoded .*; expected a photograph",
    ),
    "no image": (
        lambda c: (c.folder / "images" / "1.jpg").write_text("no image"),
        r"images/1\.jpg: cannot be decoded",
    ),
    "missing image": (
        lambda c: (c.folder / "images" / "1.jpg").unlink(),
        r"images/1\.jpg: no such file, for image_id 1",
    ),
    "truncated PNG": (
        lambda c: _truncate(c.folder / "panoptic" / "1.png"),
        r"panoptic/1\.png: cannot be decoded .*; expected an RGB PNG of segment ids",
    ),
    "missing PNG": (
        lambda c: (c.folder / "panoptic" / "1.png").unlink(),
        r"panoptic/1\.png: no such file, for image_id 1",
    ),
    "image size": (_shrink_image, r"images/1\.jpg: image_id 1 must be 21 x 17 .*, got 20 x 17"),
    "PNG size": (
        lambda c: c.save_ids(1, c.ids(1).T),
        r"panoptic/1\.png: image_id 1 must be 21 x 17 .*, got 17 x 21",
    ),
    "id of the PNG": (
        _drop_segment,
        r"panoptic/1\.png: image_id 1: segments_info lacks 1 segment id\(s\) \(300\) of the PNG",
    ),
    "id of the JSON": (
        _add_segment,
        r"panoptic/1\.png: image_id 1: the PNG lacks 1 segment id\(s\) \(12\) of segments_info",
    ),
    "unknown category": (
        _set_category,
        r"panoptic\.json: annotations\[1\]\.segments_info\[1\]\.category_id 77 is not among",
    ),
    "file name": (_escape, r"panoptic\.json: images\[1\]\.file_name must stay inside"),
    "segments": (_many_segments, "image_id 1: a record holds at most 65535 segments, got 66049"),
    "nothing": (lambda c: c.content["annotations"].clear(), "'annotations' is empty"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named_and_leaves_nothing(make_coco, tmp_path, case):
    spoil, message = BAD_INPUT[case]
    coco = make_coco(2)
    spoil(coco)
    coco.save()
    with pytest.raises(ValueError, match=message):
        _convert(coco, tmp_path / "out", num_shards=1)
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_unwritable_output(make_coco, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/file/out/"):
        _convert(make_coco(1), tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "options,message", [({"split": "../a"}, "split must"), ({"num_shards": -1}, "num_shards must")]
)
def test_wrong_options(make_coco, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _convert(make_coco(1), tmp_path / "out", **options)


def _no_segment(coco):
    coco.content["annotations"][0]["segments_info"] = []
    coco.save_ids(0, 0 * coco.ids(0))


def _all_of_kind(is_thing):
    def change(coco):
        coco.content["categories"] = [dict(c, isthing=is_thing) for c in coco.content["categories"]]

    return change


@pytest.mark.parametrize("change", [_no_segment, _all_of_kind(0), _all_of_kind(1)])
def test_legal_extremes(make_coco, tmp_path, change):
    coco = make_coco(1)
    change(coco)
    _convert(coco.save(), tmp_path / "out", num_shards=1, unlabelled_policy="void")
    (example,) = _read(tmp_path / "out" / "train-00000-of-00001.tfrecord")
    num_segments = len(coco.content["annotations"][0]["segments_info"])
    assert len(example["segment_ids"]) == num_segments == example["id_map"].max()
    assert example["segment_boxes"].shape == (num_segments, 4)


@pytest.mark.parametrize("use_train_id", [False, True])
def test_cityscapes_as_its_scripts_write_it(tmp_path, use_train_id):
    """String ids, an image name that no file has, city folders, categories from 0 on."""
    stem, height, width = "aachen_000000_000019", 8, 12
    road, car = (0, 13) if use_train_id else (7, 26)
    # Road has the id 7, cars 26000 and 26001, a group of cars 26; the ego vehicle is void.
    id_map = np.full((height, width), 7, np.uint32)
    id_map[:3, :4], id_map[:3, 4:8], id_map[:3, 8:], id_map[-1:] = 26000, 26001, 26, 0
    segments_info = [
        {"id": 7, "category_id": road, "area": 48, "bbox": [0, 3, 12, 4], "iscrowd": 0},
        {"id": 26, "category_id": car, "area": 12, "bbox": [8, 0, 4, 3], "iscrowd": 1},
        {"id": 26000, "category_id": car, "area": 12, "bbox": [0, 0, 4, 3], "iscrowd": 0},
        {"id": 26001, "category_id": car, "area": 12, "bbox": [4, 0, 4, 3], "iscrowd": 0},
    ]
    png_dir, image_dir = tmp_path / "cityscapes_panoptic_train", tmp_path / "leftImg8bit" / "train"
    png_dir.mkdir()
    (image_dir / "aachen").mkdir(parents=True)
    Image.new("RGB", (width, height)).save(image_dir / "aachen" / f"{stem}_leftImg8bit.png")
    Image.fromarray(segments.id_to_rgb(id_map)).save(png_dir / f"{stem}_gtFine_panoptic.png")
    image = {
        "id": stem,
        "width": width,
        "height": height,
        "file_name": f"{stem}_gtFine_leftImg8bit.png",
    }
    annotation = {
        "image_id": stem,
        "file_name": f"{stem}_gtFine_panoptic.png",
        "segments_info": segments_info,
    }
    categories = [
        {
            "id": road,
            "name": "road",
            "color": [128, 64, 128],
            "supercategory": "flat",
            "isthing": 0,
        },
        {"id": car, "name": "car", "color": [0, 0, 142], "supercategory": "vehicle", "isthing": 1},
    ]
    content = {"images": [image], "annotations": [annotation], "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(content, sort_keys=True, indent=4))
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=str(tmp_path / "train.json"),
        panoptic_dir=str(png_dir),
        image_dir=str(image_dir),
        output_dir=str(tmp_path / "out"),
    )
    (example,) = _read(tmp_path / "out" / "train-00000-of-00001.tfrecord")
    assert json.loads(example["image_id"]) == stem
    assert example["segment_categories"].tolist() == [1, 2, 2, 2]
    assert example["segment_is_crowd"].tolist() == [False, True, False, False]
    np.testing.assert_array_equal(np.array([0, 7, 26, 26000, 26001])[example["id_map"]], id_map)
