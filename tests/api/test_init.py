"""From exported annotations to a configuration: what is made, again, and what is refused."""

import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_tf.api import own_data, settings
from panoptic_tf.training import recipe, runner


def draw(folder, *, num_images=12, label="cat"):
    """A LabelMe folder of images of 40x60 with a square and a band of sky each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(num_images):
        pixels = rng.integers(0, 255, [40, 60, 3], np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        shapes = [
            {"label": "sky", "points": [[0, 0], [60, 10]], "shape_type": "rectangle"},
            {"label": label, "points": [[5, 5], [25, 25]], "shape_type": "rectangle"},
        ]
        content = {
            "shapes": shapes,
            "imagePath": f"{number}.png",
            "imageHeight": 40,
            "imageWidth": 60,
        }
        (folder / f"{number}.json").write_text(json.dumps(content))
    return str(folder)


def count_images(text):
    """Of train and of val, as `init` says."""
    found = dict(re.findall(r"^(train|val): (\d+) images", text, re.MULTILINE))
    return [int(found[split]) for split in ("train", "val")]


def init(source, folder, **arguments):
    lines = []
    arguments = {"options": {"stuff": "sky"}, "log": lines.append, **arguments}
    return own_data.init(source, str(folder), **arguments), "\n".join(lines)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("exported") / "drawn")


@pytest.mark.parametrize("system", recipe.SYSTEMS)
def test_what_is_written_can_be_trained(exported, tmp_path, system):
    made, text = init(exported, tmp_path / "own", system=system)
    assert "recognised labelme: 12 JSON files" in text and "stuff: sky" in text
    found = settings.configure(config_file=made.config_file)
    assert found.experiment == f"{'mask2former' if system == 'mask_transformer' else system}_shapes"
    assert found.mode == "train_and_eval"
    assert found.model_dir == made.model_dir == str(tmp_path / "own" / "run")
    assert found.notes == []  # everything that depends on another value is given
    task = found.params.task
    assert task.model.input_size == [96, 128]  # 40x60, grown to 128
    for data, split in ((task.train_data, "train"), (task.validation_data, "val")):
        assert data.input_path == str(tmp_path / "own" / "records" / f"{split}-*")
    assert task.dataset_info == str(tmp_path / "own" / "records" / "dataset_info.json")
    counts = count_images(text)
    assert sum(counts) == 12 and min(counts) > 0
    built = runner.build_task(found.params).build_model()
    assert built.training_network.trainable_weights


@pytest.mark.parametrize("system", recipe.SYSTEMS)
def test_stuff_alone_can_be_trained(exported, tmp_path, system):
    made, _ = init(exported, tmp_path, system=system, options={"stuff": "sky,cat"})
    found = settings.configure(config_file=made.config_file)
    built = runner.build_task(found.params).build_model()
    assert built.training_network.trainable_weights


def test_again_it_changes_nothing(exported, tmp_path):
    made, _ = init(exported, tmp_path)
    before = {
        path: path.stat().st_mtime_ns
        for path in tmp_path.rglob("*.*")
        if "manifest" not in path.name
    }
    again, text = init(exported, tmp_path)
    assert again == made and "train.yaml is as it was" in text
    after = {
        path: path.stat().st_mtime_ns
        for path in tmp_path.rglob("*.*")
        if "manifest" not in path.name
    }
    assert after == before


def test_an_edited_file_is_kept(exported, tmp_path):
    made, _ = init(exported, tmp_path)
    with open(made.config_file, "a") as file:
        file.write("# mine\n")
    _, text = init(exported, tmp_path)
    assert "is kept; --overwrite replaces it" in text
    assert open(made.config_file).read().endswith("# mine\n")
    init(exported, tmp_path, overwrite=True)
    assert "# mine" not in open(made.config_file).read()


def test_an_interrupted_one_leaves_no_configuration_and_goes_on(exported, tmp_path, monkeypatch):
    def fail(**_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(own_data.doctor, "examine_records", fail)
        init(exported, tmp_path)
    assert not (tmp_path / "train.yaml").exists()
    made, _ = init(exported, tmp_path)
    assert os.path.exists(made.config_file)


def test_shares_and_size_are_as_said(exported, tmp_path):
    made, text = init(
        exported,
        tmp_path,
        split="val:0.5,train:0.5",
        flip_vertically=True,
        max_side=90,
        max_pixels=5000,
    )
    num_train, num_val = count_images(text)
    assert (num_train, num_val) == (6, 6)  # By a hash of the names; 0.8 of them are more.
    with tf.io.gfile.GFile(made.config_file) as file:
        assert f"passes over {num_train} images" in file.read()
    task = settings.configure(config_file=made.config_file).params.task
    assert task.train_data.augmentation.flip_vertically
    assert task.train_data.global_batch_size == 4  # A power of two, not more than there are.
    assert task.model.input_size == [64, 64]
    assert task.evaluation.max_pixels == 5000


def draw_coco(folder):
    """Two COCO files of two images each, `train` and `valid`, as some tools export them."""
    for number, split in enumerate(("train", "valid")):
        (folder / split).mkdir(parents=True)
        names = [f"{number}{i}.png" for i in range(2)]
        for name in names:
            Image.fromarray(np.zeros([40, 60, 3], np.uint8)).save(folder / split / name)
        images = [
            {"id": i, "file_name": name, "height": 40, "width": 60} for i, name in enumerate(names)
        ]
        mask = {"category_id": 1, "iscrowd": 0, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
        content = {
            "images": images,
            "annotations": [{"image_id": image["id"], **mask} for image in images],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    return str(folder)


def test_the_splits_of_the_annotations_are_used(tmp_path):
    made, text = init(draw_coco(tmp_path / "coco"), tmp_path / "own", options={"on_top": "later"})
    assert "train: 2 images" in text and "val: 2 images" in text
    assert made.recognition.splits["val"]["source"].endswith("valid/_annotations.coco.json")
    assert made.recognition.splits["val"]["on_top"] == "later"


def test_two_files_are_not_split_again(tmp_path):
    source = draw_coco(tmp_path / "coco")
    with pytest.raises(ValueError, match="has files of two splits.*Give one of them as source"):
        init(source, tmp_path / "own", options={}, split="train:0.5,val:0.5")
    with pytest.raises(ValueError, match="split_group=.*splits of their own .train, val."):
        init(source, tmp_path / "own", options={}, split_group="^(.)")
    made, text = init(
        source + "/train/_annotations.coco.json",
        tmp_path / "own",
        options={},
        split="train:0.5,val:0.5",
    )
    assert "train: 1 images" in text and made.recognition.splits == {}


@pytest.mark.parametrize("split", ["train", "train:0.5,test:0.5", "train:0.8,val:0.1,test:0.1"])
def test_other_splits_are_refused(exported, tmp_path, split):
    with pytest.raises(ValueError, match="split must be like train:0.8,val:0.2"):
        init(exported, tmp_path, split=split)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"max_side": 63}, "max_side must be at least 64 pixels, got 63"),
        ({"system": "yolo"}, "system must be one of panoptic_deeplab, .*got 'yolo'"),
        ({"output_dir": "gs://bucket/own"}, "output_dir must be a path of this machine, got 'gs:"),
        ({"source": "gs://bucket/drawn"}, "source must be a path of this machine, got 'gs:"),
    ],
)
def test_wrong_arguments_are_refused_first(exported, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        own_data.init(**{"source": exported, "output_dir": "own", **arguments})
    assert not list(tmp_path.iterdir())


def test_records_of_other_annotations_are_not_mixed(exported, tmp_path):
    init(exported, tmp_path / "own")
    other = draw(tmp_path / "other", label="dog")
    with pytest.raises(ValueError, match="other annotations|other categories"):
        init(other, tmp_path / "own")
    made, text = init(other, tmp_path / "own", overwrite=True)
    assert sum(count_images(text)) == 12
    info = json.loads((tmp_path / "own" / "records" / "dataset_info.json").read_text())
    assert [category["name"] for category in info["categories"]] == ["dog", "sky"]
    assert sorted(p.name for p in (tmp_path / "own" / "records").iterdir()) == [
        "dataset_info.json",
        "train-00000-of-00001.tfrecord",
        "train.manifest.json",
        "val-00000-of-00001.tfrecord",
        "val.manifest.json",
    ]


def test_splits_of_other_categories_are_replaced(tmp_path):
    source = draw_coco(tmp_path / "coco")
    init(source, tmp_path / "own", options={})
    for path in (tmp_path / "coco").rglob("*.json"):
        path.write_text(path.read_text().replace('"cat"', '"dog"'))
    _, text = init(source, tmp_path / "own", options={}, overwrite=True)
    assert count_images(text) == [2, 2]
    assert "dog" in (tmp_path / "own" / "records" / "dataset_info.json").read_text()


def test_overwriting_keeps_the_shards_of_the_same_annotations(exported, tmp_path):
    init(exported, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "records").glob("*.tfrecord")}
    init(exported, tmp_path, overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before and len(before) == 2


def test_this_process_keeps_its_gpus(exported, tmp_path, monkeypatch):
    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: hidden.append(1))
    init(exported, tmp_path)
    assert not hidden


def test_a_format_alone_takes_its_own_flags(exported, tmp_path):
    made, _ = init(exported, tmp_path, format_name="labelme")
    assert made.recognition.format == "labelme"
    with pytest.raises(ValueError, match="names"):
        init(exported + "/0.json", tmp_path / "yolo", format_name="yolo", options={})


def test_nothing_recognised_writes_nothing(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="no annotations were recognised"):
        init(str(tmp_path / "photos"), tmp_path / "own")
    assert not (tmp_path / "own").exists()
    with pytest.raises(ValueError, match="give source"):
        init(None, tmp_path / "own")


def test_weights_to_start_from_are_looked_at_first(exported, tmp_path):
    with pytest.raises(ValueError, match="nope.pth"):
        init(exported, tmp_path, init_checkpoint=str(tmp_path / "nope.pth"))
    assert not (tmp_path / "records").exists()


def test_problems_of_the_records_end_it(exported, tmp_path, monkeypatch):
    def examine_records(**_):
        report = {"num_images": 1, "per_category": [], "void_share": 0.0, "notes": ["look"]}
        return {**report, "problems": [f"problem {n}" for n in range(60)]}

    monkeypatch.setattr(own_data.doctor, "examine_records", examine_records)
    with pytest.raises(ValueError, match="60 problems:\nproblem 0\n") as caught:
        init(exported, tmp_path)
    assert "lists them all" in str(caught.value)
    assert "problem 49" in str(caught.value) and "problem 50" not in str(caught.value)
    assert not (tmp_path / "train.yaml").exists()
