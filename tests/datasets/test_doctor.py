"""The doctor finds what is wrong, all of it, and counts what is there."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets import converter, doctor, manifest, record
from panoptic_tf.metrics.panoptic_quality import PanopticQuality


def _examine_coco(coco, **changes):
    paths = {**coco.paths, **changes}
    return doctor.examine_coco_panoptic(**paths, build_quality=PanopticQuality)


def _examine_records(folder, pattern="train-*"):
    return doctor.examine_records(input_path=str(folder / pattern), build_quality=PanopticQuality)


@pytest.fixture
def converted(make_coco, tmp_path):
    """A data set, and the folder of its two shards."""
    coco = make_coco(6)
    output_dir = tmp_path / "out"
    converter.convert_dataset(
        "coco_panoptic", output_dir=str(output_dir), num_shards=2, num_processes=1, **coco.paths
    )
    return coco, output_dir


def test_a_sound_data_set(converted):
    coco, folder = converted
    for report in (_examine_coco(coco), _examine_records(folder)):
        assert report["problems"] == [] and report["notes"] == []
        assert report["ground_truth_PQ"] == 100
        assert report["num_images"] == 6 and report["num_segments"] == 18
        ids = [coco.ids(i) for i in range(6)]
        pixels = sum(i.size for i in ids)
        void, crowd = (sum((i == value).sum() for i in ids) for value in (0, 9))
        assert report["void_share"] == pytest.approx(void / pixels)
        assert report["crowd_share"] == pytest.approx(crowd / pixels)
        dog = report["per_category"][1]
        assert dog == {
            "id": 7,
            "name": "dog",
            "is_thing": True,
            "images": 6,
            "segments": 6,
            "crowds": 6,
            "pixels": crowd,
            "pixel_share": pytest.approx(crowd / pixels),
        }
        json.dumps(report, allow_nan=False)


def test_all_problems_are_collected(make_coco):
    coco = make_coco(7)
    annotations = coco.content["annotations"]
    annotations[0]["segments_info"][0]["category_id"] = 5
    annotations[1]["segments_info"][0]["area"] += 1
    annotations[2]["segments_info"][1]["bbox"][2] += 1
    del annotations[3]["segments_info"][2]
    (coco.folder / "images" / "4.jpg").write_bytes(b"")
    coco.save_ids(5, coco.ids(5)[:, 1:])
    report = _examine_coco(coco.save())
    expected = [
        "annotations[0].segments_info[0].category_id 5 is not among",
        "1.png: image_id 1: segment id 70000: area must be 185, got 186.",
        "2.png: image_id 2: segment id 300: bbox must be",
        "3.png: image_id 3: segments_info lacks 1 segment id(s) (9) of the PNG.",
        "images/4.jpg: cannot be decoded",
        "panoptic/5.png: image_id 5 must be 25 x 17",
    ]
    assert len(report["problems"]) == len(expected), report["problems"]
    for problem, text in zip(report["problems"], expected):
        assert text in problem
    # What cannot be read or does not fit is not counted.
    assert report["num_images"] == 3 and report["ground_truth_PQ"] == 100


def test_images_are_optional(make_coco):
    coco = make_coco(2)
    (coco.folder / "images" / "0.jpg").unlink()
    assert len(_examine_coco(coco)["problems"]) == 1
    assert _examine_coco(coco, image_dir=None)["problems"] == []


def test_all_void_things_only_stuff_only(make_coco):
    coco = make_coco(2)
    for position in range(2):
        coco.content["annotations"][position]["segments_info"] = []
        coco.save_ids(position, 0 * coco.ids(position))
    report = _examine_coco(coco.save())
    assert report["problems"] == [] and report["ground_truth_PQ"] is None
    assert "2 images have no annotated pixel." in report["notes"]
    assert "3 categories have no segment: cat, dog, grass." in report["notes"]
    for is_thing, note in enumerate(["No category is a thing", "No category is stuff"]):
        coco = make_coco(2, name=note)
        for category in (categories := [dict(c) for c in coco.content["categories"]]):
            category["isthing"] = is_thing
        coco.content["categories"] = categories
        report = _examine_coco(coco.save())
        assert report["ground_truth_PQ"] == 100 and report["notes"][0].startswith(note)


def test_stuff_in_pieces_is_noted(make_coco):
    coco = make_coco(1)
    coco.content["annotations"][0]["segments_info"][1]["category_id"] = 200
    assert "1 images have several segments of one stuff" in _examine_coco(coco.save())["notes"][1]


def test_a_metric_that_does_not_reach_100_is_a_problem(make_coco):
    class Broken(PanopticQuality):
        def update(self, category_mask, instance_mask, crowd_mask, *prediction):
            shifted = [np.roll(mask, 3, axis=0) for mask in prediction]
            return super().update(category_mask, instance_mask, crowd_mask, *shifted)

    report = doctor.examine_coco_panoptic(**make_coco(2).paths, build_quality=Broken)
    assert any("'cat': the ground truth scores PQ" in p for p in report["problems"])


def test_a_record_cut_in_half(converted):
    coco, folder = converted
    name = manifest.shard_name("train", 0, 2)
    ids = [i for i in range(6) if converter.shard_of(i, 2) == 0]
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-100])
    problems = _examine_records(folder)["problems"]
    last = len(ids) - 1
    assert len(problems) == 3, problems
    assert f"{name}: sha256 is" in problems[0]
    assert f"{name}: record {last}: cannot be read" in problems[1]
    assert f"{name}: {last} records can be read, the manifest says {last + 1}." in problems[2]


def test_shards_and_manifest_disagree(converted):
    _, folder = converted
    first, second = (folder / manifest.shard_name("train", i, 2) for i in range(2))
    (folder / "train-00002-of-00003.tfrecord").write_bytes(first.read_bytes())
    second.unlink()
    problems = "\n".join(_examine_records(folder)["problems"])
    assert f"{second}: the manifest lists this shard, the file is missing." in problems
    assert "train-00002-of-00003.tfrecord: not among the shards of" in problems
    assert "train-00002-of-00003.tfrecord: record 0: image_id" in problems
    assert "the same image as" in problems
    (folder / "train.manifest.json").unlink()
    problems = _examine_records(folder)["problems"]
    assert "train.manifest.json: No such file" in problems[0]


def test_no_shard_or_no_categories(converted):
    _, folder = converted
    with pytest.raises(ValueError, match="val-.*matches no file"):
        _examine_records(folder, "val-*")
    (folder / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match="dataset_info.json: No such file"):
        _examine_records(folder)


def _set(field, values, kind="int64_list"):
    def change(example):
        feature = getattr(example.features.feature[field], kind)
        feature.value[:] = values

    return change


def _set_instances(counts, category):
    def change(example):
        _set(record.Field.INSTANCE_RLES, [counts], "bytes_list")(example)
        _set(record.Field.INSTANCE_CATEGORIES, [category])(example)
        _set(record.Field.INSTANCE_IS_CROWD, [0])(example)

    return change


WRONG_RECORDS = {
    "category": (
        _set(record.Field.SEGMENT_CATEGORIES, [1, 2, 4]),
        "segment_categories must be 1..3",
    ),
    "table": (_set(record.Field.SEGMENT_IS_CROWD, [0]), "segment_is_crowd has 1 entries"),
    "rows": (_set(record.Field.ROWS, [b"no png"], "bytes_list"), "cannot be decoded"),
    "image": (
        _set(record.Field.IMAGE, [b"no jpeg"], "bytes_list"),
        "image_bytes: cannot be decoded",
    ),
    "image id": (_set(record.Field.IMAGE_ID, [b"{"], "bytes_list"), "record 0: "),
    "height": (_set(record.Field.HEIGHT, [5]), "height x width is (5, 17)"),
    "ids": (_set(record.Field.SEGMENT_IDS, [4, 4, 5]), "segment_ids has an id twice"),
    "area": (_set(record.Field.SEGMENT_AREAS, [1, 1, 1]), "segment id 70000: area must be"),
    "box": (_set(record.Field.SEGMENT_BOXES, [1] * 11), "cannot be decoded"),
    "instance": (_set_instances(b"0", 1), "run lengths must fill"),
    "instance of stuff": (_set_instances(b"0", 3), "instance_categories must be things, got 'gra"),
    "instance table": (
        _set(record.Field.INSTANCE_RLES, [b"0"], "bytes_list"),
        "instance_categories has 0 entries, instance_rles 1",
    ),
    "absent": (lambda e: e.features.feature.pop(record.Field.ROWS), "cannot be decoded"),
}


@pytest.mark.parametrize("case", WRONG_RECORDS)
def test_wrong_records(converted, case):
    change, message = WRONG_RECORDS[case]
    _, folder = converted
    path = str(folder / manifest.shard_name("train", 0, 2))
    serialized = next(iter(tf.data.TFRecordDataset(path))).numpy()
    example = tf.train.Example.FromString(serialized)
    change(example)
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(example.SerializeToString())
    problems = _examine_records(folder)["problems"]
    assert any(f"{path}: record 0: " in p and message in p for p in problems), problems


def test_coco_sample(reference_data, tmp_path):
    sample = reference_data / "coco_sample"
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=str(sample / "panoptic_examples.json"),
        panoptic_dir=str(sample / "panoptic"),
        image_dir=str(sample / "images"),
        output_dir=str(tmp_path),
        num_processes=1,
    )
    report = _examine_records(tmp_path)
    assert report["problems"] == [] and report["ground_truth_PQ"] == 100
    assert (report["num_images"], report["num_segments"], report["num_crowds"]) == (2, 50, 3)
    assert len(report["per_category"]) == 133


@pytest.mark.slow
def test_commands(make_coco, tmp_path):
    """The two binaries as a user calls them: shards, a table, and a status that says it all."""
    coco = make_coco(3)
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))

    def run(binary, *flags):
        return subprocess.run(
            [sys.executable, os.path.join(root, "experiments", binary), *flags],
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
        )

    paths = [f"--{name}={path}" for name, path in coco.paths.items()]
    instances = [
        {"id": i, "image_id": i, "category_id": 3, "segmentation": [[1, 1, 9, 1, 5, 7]]}
        for i in range(2)
    ]
    output = run(
        "convert.py",
        "--format=coco_panoptic",
        *paths,
        f"--instances_json={coco.save_instances(instances)}",
        f"--output_dir={tmp_path}/out",
    )
    assert output.returncode == 0, output.stderr
    assert "3 images and 2 overlapping instances in 1 shards" in output.stdout
    report_path = tmp_path / "report.json"
    shards = f"--input_path={tmp_path}/out/train-*"
    output = run("doctor.py", shards, f"--output_json={report_path}")
    assert output.returncode == 0 and output.stdout.endswith("\n0 problems\n"), output.stderr
    assert "\ninstances 2 that may overlap\n" in output.stdout
    assert json.loads(report_path.read_text())["ground_truth_PQ"] == 100
    coco.content["annotations"][0]["segments_info"][0]["area"] += 1
    coco.save()
    output = run("doctor.py", *paths)
    assert output.returncode == 1 and "area must be" in output.stdout
    output = run(
        "doctor.py", *paths, f"--fix_to={tmp_path}/fixed", f"--output_html={tmp_path}/a.html"
    )
    assert output.returncode == 0, output.stdout + output.stderr
    assert "\n1 changes; the copy is --panoptic_json=" in output.stdout
    assert "data:image/jpeg" in (tmp_path / "a.html").read_text()
    output = run("inspect_.py", shards, f"--output_dir={tmp_path}/my look")
    assert output.returncode == 0, output.stderr
    assert output.stdout.startswith("3 images, 1 worth a look, 0 problems: ")  # A tiny cat.
    report = json.loads((tmp_path / "my look" / "data.json").read_text())
    assert report["histograms"]["segments_of_an_image"]
    page = (tmp_path / "my look" / "index.html").read_text()
    assert "data:image/jpeg" in page
    assert f"&#x27;--output_dir={tmp_path}/my look&#x27;</dd>" in page  # as a shell takes it
