"""Scoring an exported model on records, and the binaries around it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets import importers
from panoptic_tf.datasets.coco_format import Segment, read_id_map
from panoptic_tf.datasets.record import Instance, encode_example
from panoptic_tf.datasets.rle import encode_rle
from panoptic_tf.datasets.segments import masks_to_rows
from panoptic_tf.evaluation.records import count_records, evaluate_records
from panoptic_tf.serving.prediction import common_folder, find_images, predict_files
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.serving.writers import masks
from panoptic_tf.structures import GroundTruth


@pytest.fixture(scope="module")
def predictor(tflite_path):
    return Predictor(tflite_path)


@pytest.fixture(scope="module")
def records(predictor, dataset_info, make_image, encode, tmp_path_factory):
    """Three images of different sizes, annotated with what the model says of them."""
    folder = tmp_path_factory.mktemp("records")
    path = str(folder / "val-00000-of-00001.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for number, size in enumerate([(32, 48), (20, 30), (64, 80)]):
            image = make_image(*size, seed=number)
            result = predictor(image)
            rows, categories, _ = masks_to_rows(result.category_mask, result.instance_mask)
            table = [
                Segment(id=i + 1, category_id=dataset_info.dataset_ids[c])
                for i, c in enumerate(categories)
            ]
            writer.write(
                encode_example(
                    image_bytes=encode(image),
                    image_id=f"image_{number}",
                    file_name=f"image_{number}.png",
                    rows=rows,
                    segment_table=table,
                    contiguous_ids=dataset_info.contiguous_ids(),
                )
            )
    dataset_info.save(str(folder / "dataset_info.json"))
    return str(folder / "val-*")


@pytest.mark.parametrize("kind", ["saved_model_dir", "tflite_path"])
def test_its_own_answers_score_full_marks(kind, records, request):
    seen = []
    metrics, latency = evaluate_records(
        Predictor(request.getfixturevalue(kind)), records, on_example=seen.append
    )
    assert metrics["PQ"] == metrics["PQ_things"] == metrics["PQ_stuff"] == pytest.approx(100.0)
    assert metrics["AP"] == pytest.approx(100.0)
    assert 0 < metrics["mIoU"] < 100  # of the semantic mask, before the merge
    assert [example.image_id for example in seen] == ["image_0", "image_1", "image_2"]
    for example in seen:
        assert example.prediction["category_mask"].shape == example.image.shape[:2]
    assert 0 < latency["median"] <= latency["p90"]


def test_instances_of_the_records_are_the_truth_of_ap(
    predictor, dataset_info, make_image, encode, tmp_path
):
    """The first image has an instance that the model does not find, the second none of its own."""
    path = str(tmp_path / "val-00000-of-00001.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for number in range(2):
            result = predictor(make_image(32, 48, seed=number))
            rows, categories, _ = masks_to_rows(result.category_mask, result.instance_mask)
            table = [
                Segment(id=i + 1, category_id=dataset_info.dataset_ids[c])
                for i, c in enumerate(categories)
            ]
            whole = Instance(encode_rle(np.ones((32, 48))), category=1)
            writer.write(
                encode_example(
                    image_bytes=encode(make_image(32, 48, seed=number)),
                    image_id=number,
                    file_name=f"{number}.png",
                    rows=rows,
                    segment_table=table,
                    contiguous_ids=dataset_info.contiguous_ids(),
                    instances=None if number else [whole],
                )
            )
    seen = []
    without, _ = evaluate_records(predictor, path)
    own, _ = evaluate_records(predictor, path, with_instances=True, on_example=seen.append)
    assert without["AP"] == pytest.approx(100)
    assert own["PQ"] == pytest.approx(100) and 0 < own["AP"] < 90
    held = [set(GroundTruth.INSTANCE_KEYS) & set(example.ground_truth) for example in seen]
    assert held == [set(GroundTruth.INSTANCE_KEYS), set()]


def test_max_examples(predictor, records):
    seen = []
    evaluate_records(predictor, records, max_examples=2, on_example=seen.append)
    assert len(seen) == count_records(records, 2) == 2
    assert count_records(records) == 3


def test_an_image_above_max_pixels_is_left_out_and_counted(tflite_path, records, caplog):
    seen = []
    small = Predictor(tflite_path, max_pixels=32 * 48)
    with caplog.at_level("WARNING"):
        metrics, _ = evaluate_records(small, records, on_example=seen.append)
    assert [example.image_id for example in seen] == ["image_0", "image_1"]
    assert metrics["PQ"] == pytest.approx(100) and metrics["skipped_images"] == 1
    (message,) = caplog.messages
    assert "1 images have more than 1,536 pixels and are left out: image_2.png (64 x 80)" in message
    assert "val-*" in message and "--max_pixels" in message
    with pytest.raises(ValueError, match=r"val-\*' hold no image of at most 599 pixels"):
        evaluate_records(Predictor(tflite_path, max_pixels=599), records)


def test_a_record_of_a_huge_image_is_left_out_before_it_is_decoded(
    predictor, dataset_info, make_image, encode, tmp_path, caplog
):
    """Its header says more than its bytes hold."""
    image, huge = encode(make_image(8, 8)), bytearray(encode(make_image(8, 8)))
    huge[16:24] = (40_000).to_bytes(4, "big") * 2
    path = str(tmp_path / "val-0")
    with tf.io.TFRecordWriter(path) as writer:
        for number, content in enumerate((image, bytes(huge))):
            writer.write(
                encode_example(
                    image_bytes=content,
                    image_id=number,
                    file_name=f"{number}.png",
                    rows=np.ones((8, 8), np.int32),
                    segment_table=[Segment(id=1, category_id=7)],
                    contiguous_ids=dataset_info.contiguous_ids(),
                )
            )
    with caplog.at_level("WARNING"):
        metrics, _ = evaluate_records(predictor, path)
    assert metrics["skipped_images"] == 1
    assert "1.png (40000 x 40000)" in caplog.messages[0]


def test_records_of_another_data_set(predictor, records, dataset_info, tmp_path):
    (tmp_path / "val-0").write_bytes(
        open(records.replace("*", "00000-of-00001.tfrecord"), "rb").read()
    )
    other = type(dataset_info).from_coco([{"id": 1, "name": "cat"}], name="pets")
    other.save(str(tmp_path / "dataset_info.json"))
    with pytest.raises(ValueError, match=r"dataset_info.json has 1 categories .* 3 .*'cat'"):
        evaluate_records(predictor, str(tmp_path / "val-*"))


def test_no_records(predictor, tmp_path):
    with pytest.raises(ValueError, match="no file matches input_path"):
        evaluate_records(predictor, str(tmp_path / "val-*"))
    (tmp_path / "val-0").write_bytes(b"")
    with pytest.raises(ValueError, match="hold no record"):
        evaluate_records(predictor, str(tmp_path / "val-*"))


def _run(*arguments):
    """A binary in a process of its own, as flags are defined once per process."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_evaluate_tflite_writes_metrics(tflite_path, records, tmp_path):
    done = _run(
        "panoptic_tf.export.evaluate_tflite",
        f"--tflite_path={tflite_path}",
        f"--input_path={records}",
        f"--output_dir={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["PQ"] == pytest.approx(100.0)
    assert metrics["size_bytes"] == os.path.getsize(tflite_path)
    assert metrics["latency_ms_p90"] >= metrics["latency_ms"] > 0
    assert len(metrics["per_category"]) == 3


@pytest.fixture
def photos(make_image, encode, tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.png").write_bytes(encode(make_image(20, 30)))
    (folder / "b.jpg").write_bytes(b"not an image")
    (folder / "c.jpg").write_bytes(encode(make_image(50, 70, seed=1), "JPEG"))
    (folder / "more" / "a.jpg").write_bytes(encode(make_image(10, 12, seed=2), "JPEG"))
    return folder


def test_a_bad_image_is_named_and_the_others_are_done(predictor, photos, tmp_path):
    output = tmp_path / "out"
    failures = predict_files(predictor, find_images([str(photos / "**")]), str(output))
    assert len(failures) == 1
    assert failures[0].startswith(f"{photos / 'b.jpg'} is not an image")
    content = json.loads((output / "predictions.json").read_text())
    assert [a["image_id"] for a in content["annotations"]] == ["a", "c", "more/a"]
    assert [i["file_name"] for i in content["images"]] == ["a.png", "c.jpg", "more/a.jpg"]
    sizes = {"a": (20, 30), "c": (50, 70), "more/a": (10, 12)}
    for annotation in content["annotations"]:
        name = annotation["image_id"]
        ids = read_id_map(str(output / "predictions" / annotation["file_name"]))
        assert ids.shape == sizes[name]
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids).tolist())
        assert all(0 < s["score"] <= 1 for s in annotation["segments_info"])
        with Image.open(output / "overlays" / f"{name}.jpg") as overlay:
            assert overlay.size[::-1] == sizes[name]


def test_convert_reads_photographs_of_several_folders(predictor, photos, tmp_path):
    (photos / "b.jpg").unlink()
    output = tmp_path / "out"
    inputs = [str(photos / "c.jpg"), str(photos / "more"), str(photos / "a.png")]
    formats = ["coco_panoptic", "coco_instances", "semantic_masks", "instance_masks", "labelme"]
    folder = common_folder(inputs)
    paths = find_images(inputs)
    assert not predict_files(predictor, paths, str(output), image_dir=folder, formats=formats)
    semantic = {
        "source": str(output / "semantic_masks"),
        "categories": str(output / "semantic_masks" / "categories.json"),
    }
    sizes = {"a.png": (20, 30), "c.jpg": (50, 70), "more/a.jpg": (10, 12)}
    for name, options in {
        "coco_panoptic": {"panoptic_json": str(output / "predictions.json")},
        "coco_instances": {"source": str(output / "coco_instances.json")},
        "semantic_masks": semantic,
        "semantic_and_instance_masks": {**semantic, "instance_dir": str(output / "instance_masks")},
        "labelme": {"source": str(output / "labelme")},
    }.items():
        source = importers.read(name, image_dir=str(photos), **options)
        assert {i.file_name: source.read(i).rows.shape for i in source.images} == sizes, name
    with pytest.raises(ValueError, match="c.jpg' is not in the folder of all images"):
        predict_files(predictor, paths, str(tmp_path / "x"), image_dir=str(photos / "more"))


def test_a_result_that_a_format_cannot_hold(predictor, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "_MOST_ID", -1)
    output = tmp_path / "out"
    formats = ["coco_panoptic", "instance_masks"]
    failures = predict_files(predictor, [str(photos / "a.png")], str(output), formats=formats)
    assert len(failures) == 1 and "a.png: the instance id" in failures[0]
    assert json.loads((output / "predictions.json").read_text())["images"] == []
    assert not os.listdir(output / "predictions")


def test_one_line_for_each_file_that_cannot_be_predicted(make_image, encode, tflite_path, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    good, large = encode(make_image(6, 9)), encode(make_image(20, 30))
    names = [b"a.png", b"big.png", b"empty.jpg", b"fifo.png", b"new\nline.png", b"not\xffutf.png"]
    for name in [*names, b"x" * 255, b"w.webp"]:
        path = os.path.join(os.fsencode(folder), name)
        if name == b"fifo.png":
            os.mkfifo(path)
            continue
        with open(path, "wb") as file:
            file.write({b"big.png": large, b"empty.jpg": b""}.get(name, good))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(make_image(6, 9)).save(folder / "turned.jpg", exif=exif)
    (folder / "w.webp").write_bytes(encode(make_image(6, 9), "WebP"))
    output = tmp_path / "out"
    small = Predictor(tflite_path, max_pixels=100)
    failures = predict_files(small, find_images([str(folder / "*")]), str(output))
    messages = {
        "big.png": "has 20 x 30 pixels (height x width); the limit is 100 pixels",
        "empty.jpg": "got an empty file",
        "fifo.png": "is a pipe or a device, not a file",
        r"new\nline.png": "not printable UTF-8",
        r"not\udcffutf.png": "not printable UTF-8",
        "x" * 255: "longer than 250 bytes",
    }
    assert len(failures) == len(messages)
    for name, message in messages.items():
        (text,) = [failure for failure in failures if name in failure]
        assert message in text and "\n" not in text
    content = json.loads((output / "predictions.json").read_text())
    assert [a["image_id"] for a in content["annotations"]] == ["a", "turned", "w"]
    # The results of a picture that EXIF data turn are of the turned picture.
    assert [(i["height"], i["width"]) for i in content["images"]] == [(6, 9), (9, 6), (6, 9)]


@pytest.mark.slow
def test_predict_exits_with_1_after_a_bad_image(saved_model_dir, photos, tmp_path):
    done = _run(
        "panoptic_tf.experiments.predict",
        f"--saved_model_dir={saved_model_dir}",
        f"--input={photos / '*'}",
        f"--output_dir={tmp_path / 'out'}",
        "--overlay_format=png",
        "--write=overlays,labelme",
        "--score_threshold=1",
        "--exif=ignore",
    )
    assert done.returncode == 1
    assert f"{photos / 'b.jpg'} is not an image" in done.stderr
    assert done.stderr.rstrip().endswith("1 of 3 images could not be read.")
    assert sorted(os.listdir(tmp_path / "out" / "overlays")) == ["a.png", "c.png"]
    assert sorted(os.listdir(tmp_path / "out")) == ["labelme", "overlays"]
    shapes = json.loads((tmp_path / "out" / "labelme" / "a.json").read_text())["shapes"]
    assert {shape["label"] for shape in shapes} == {"green"}  # the others are things


def test_find_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "odd[1].png").write_bytes(b"")
    assert find_images([str(tmp_path / "*.png"), str(tmp_path / "a.png")]) == [
        str(tmp_path / "a.png"),
        str(tmp_path / "odd[1].png"),
    ]
    # A file that does not exist is reported with the others; an odd name is no pattern.
    names = [str(tmp_path / "gone.png"), str(tmp_path / "odd[1].png")]
    assert find_images(names) == names
    with pytest.raises(ValueError, match="no file matches"):
        find_images([str(tmp_path / "*.jpg")])


def test_a_folder_stands_for_its_images(tmp_path):
    for name in ("b.JPG", "a.png", "c.webp", "notes.txt", "._a.png", "more/d.png", "more/e.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = [str(tmp_path / name) for name in ("a.png", "b.JPG", "c.webp")]
    assert find_images([str(tmp_path), f"{tmp_path}/a.png"]) == found
    assert find_images([f"{tmp_path}/**"]) == [*found, f"{tmp_path}/more/d.png"]
    with pytest.raises(ValueError, match=r"folder .*folder.png' holds no file .*\.jpg"):
        find_images([str(tmp_path / "folder.png")])
