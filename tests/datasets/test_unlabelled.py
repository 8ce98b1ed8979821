"""What is unlabelled is void, or a stuff category of its own."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets import converter, manifest, record, segments, unlabelled
from panoptic_tf.datasets.coco_format import Segment
from panoptic_tf.datasets.coco_writer import CocoPanopticWriter
from panoptic_tf.datasets.dataset_info import DatasetInfo

THINGS = DatasetInfo.from_coco([{"id": 4, "name": "car"}, {"id": 9, "name": "bus"}], name="things")
MIXED = DatasetInfo.from_coco(
    [{"id": 4, "name": "car"}, {"id": 9, "name": "road", "isthing": 0}], name="mixed"
)


@pytest.mark.parametrize(
    "policy, info, adds",
    [
        ("auto", THINGS, True),
        ("auto", MIXED, False),
        ("background", THINGS, True),
        ("background", MIXED, True),
        ("void", THINGS, False),
        ("skip", THINGS, True),
        ("skip", MIXED, False),
        ("void", MIXED, False),
    ],
)
def test_things_only_have_background_unless_void_is_meant(policy, info, adds):
    resolved = unlabelled.resolve(policy, info)
    assert resolved.categories[:2] == info.categories
    assert resolved.unlabelled_id == (10 if adds else None)
    assert resolved.num_categories == 2 + adds
    assert resolved.annotated() == info
    if adds:
        added = resolved.categories[2]
        assert (added.id, added.dataset_id, added.name) == (3, 10, "background")
        assert not added.is_thing


def test_auto_says_what_it_does(caplog):
    unlabelled.resolve("auto", THINGS)
    (line,) = caplog.messages
    assert "'background' (id 10)" in line and "--unlabelled=void" in line
    caplog.clear()
    for policy, info in (("auto", MIXED), ("background", THINGS), ("void", THINGS)):
        unlabelled.resolve(policy, info)
    assert not caplog.messages


def test_a_name_in_use_is_not_taken():
    info = DatasetInfo.from_coco([{"id": 1, "name": "background"}], name="x")
    assert unlabelled.resolve("auto", info).names == ("void", "background", "unlabelled")


def test_unknown_policy():
    with pytest.raises(
        ValueError, match="unlabelled must be one of auto, background, void, skip, got"
    ):
        unlabelled.resolve("ignore", THINGS)


def test_void_pixels_become_one_segment():
    rows = np.array([[0, 1, 1, 0], [2, 2, 0, 0]], np.int32)
    filled, table = unlabelled.fill(rows, (Segment(1, 4), Segment(3, 9)), 10)
    np.testing.assert_array_equal(filled, [[3, 1, 1, 3], [2, 2, 3, 3]])
    assert filled.dtype == np.int32
    assert table[:2] == (Segment(1, 4), Segment(3, 9))
    assert table[2] == Segment(2, 10, False, 4, (0, 0, 4, 2))


def test_an_image_without_void_stays():
    rows, table = np.ones((2, 3), np.int32), (Segment(7, 4),)
    filled, same = unlabelled.fill(rows, table, 10)
    assert filled is rows and same is table


@pytest.mark.parametrize("wrong", [4, 11, "10", [10], 9.5])
def test_dataset_info_round_trip(tmp_path, wrong):
    path = tmp_path / "dataset_info.json"
    info = unlabelled.resolve("background", THINGS)
    info.save(str(path))
    assert DatasetInfo.load(str(path)) == info
    path.write_text(json.dumps({**info.to_json(), "unlabelled_id": wrong}))
    with pytest.raises(ValueError, match="unlabelled_id must be the id of a stuff category"):
        DatasetInfo.load(str(path))


def _records(folder):
    (path,) = folder.glob("*.tfrecord")
    return [record.decode_example(x) for x in tf.data.TFRecordDataset(str(path))]


def test_records_of_things_only_have_a_segment_of_background(make_coco, tmp_path):
    coco = make_coco(3)
    coco.content["categories"] = [dict(c, isthing=1) for c in coco.content["categories"]]
    coco.save()

    def convert(name, **options):
        folder = tmp_path / name
        converter.convert_dataset(
            "coco_panoptic",
            output_dir=str(folder),
            num_shards=1,
            num_processes=1,
            **coco.paths,
            **options,
        )
        return folder

    folders = {policy: convert(policy, unlabelled_policy=policy) for policy in ("auto", "void")}
    infos = {p: DatasetInfo.load(str(f / "dataset_info.json")) for p, f in folders.items()}
    assert infos["auto"].annotated().categories == infos["void"].categories
    for filled, void in zip(_records(folders["auto"]), _records(folders["void"])):
        is_void = void["id_map"].numpy() == 0
        assert is_void.any()
        count = len(void["segment_ids"])
        np.testing.assert_array_equal(
            filled["id_map"], np.where(is_void, count + 1, void["id_map"])
        )
        assert filled["segment_categories"].numpy()[-1] == infos["auto"].num_categories
    fingerprints = {
        policy: manifest.Manifest.load(str(folder / "train.manifest.json")).fingerprint
        for policy, folder in folders.items()
    }
    assert fingerprints["auto"].pop("unlabelled") == "background"
    assert fingerprints["auto"] == fingerprints["void"]
    with pytest.raises(ValueError, match="Choose another output_dir"):
        convert("auto", unlabelled_policy="void")


@pytest.fixture
def half_labelled(make_coco):
    """Six images of things, of which 0 and 3 have no label."""
    coco = make_coco(6)
    coco.content["categories"] = [dict(c, isthing=1) for c in coco.content["categories"]]
    for position in (0, 3):
        coco.content["annotations"][position]["segments_info"] = []
        coco.save_ids(position, 0 * coco.ids(position))
    return coco.save()


def _skip(coco, folder, **options):
    (written,) = converter.convert_dataset(
        "coco_panoptic",
        str(folder),
        num_shards=2,
        num_processes=1,
        unlabelled_policy="skip",
        **{**coco.paths, **options},
    )
    return written


def test_images_without_a_label_are_skipped_and_counted(half_labelled, tmp_path, caplog):
    folder = tmp_path / "out"
    written = _skip(half_labelled, folder)
    ids = [
        json.loads(record.decode_example(serialized)["image_id"].numpy())
        for path in sorted(folder.glob("*.tfrecord"))
        for serialized in tf.data.TFRecordDataset(str(path))
    ]
    assert sorted(ids) == [1, 2, 4, 5]
    assert sum(shard.num_records for shard in written.shards) == 4
    assert written.source["num_skipped"] == 2 and written.fingerprint["skip_unlabelled"] is True
    assert [m for m in caplog.messages if "2 images have no labelled pixel and are left" in m]
    # The others are as by `auto`.
    assert DatasetInfo.load(str(folder / "dataset_info.json")).names[-1] == "background"
    # Done once more from the second shard on: the counts are those of all shards.
    (folder / "train.manifest.json").unlink()
    progress = manifest.Progress(str(folder), "train")
    progress.start(written.fingerprint, written.shards[:1])
    assert _skip(half_labelled, folder) == written


def test_data_without_any_label_leave_nothing_behind(half_labelled, tmp_path):
    for position in range(6):
        half_labelled.content["annotations"][position]["segments_info"] = []
        half_labelled.save_ids(position, 0 * half_labelled.ids(position))
    with pytest.raises(ValueError, match="out: no image of the split 'train' has a labelled pixel"):
        _skip(half_labelled.save(), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_written_files_have_the_categories_of_the_annotations(tmp_path):
    info = unlabelled.resolve("background", THINGS)
    categories, instances = np.array([[3, 1], [3, 2]]), np.array([[0, 1], [0, 2]])
    with CocoPanopticWriter(str(tmp_path), info) as writer:
        writer.add(5, "a", categories, instances)
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert [c["id"] for c in content["categories"]] == [4, 9]
    (annotation,) = content["annotations"]
    assert [s["category_id"] for s in annotation["segments_info"]] == [4, 9]
    ids = segments.rgb_to_id(np.asarray(Image.open(tmp_path / "predictions" / "a.png")))
    assert ids[:, 0].tolist() == [0, 0] and 0 not in ids[:, 1]
