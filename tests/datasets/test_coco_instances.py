"""COCO instances beside panoptic annotations: every kind of mask, what does not fit, conversion."""

import itertools
import json
import logging

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as mask_api

from panoptic_tf.datasets import (
    coco_format,
    coco_instances,
    converter,
    doctor,
    manifest,
    record,
    rle,
)
from panoptic_tf.metrics.panoptic_quality import PanopticQuality

CAT, DOG, GRASS = 3, 7, 200
"""The data set's own ids of the contiguous categories 1, 2 and 3."""


def annotation(number, image_id, segmentation, category_id=CAT, **fields):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        **fields,
    }


def read(coco, annotations, **options):
    info, panoptic = coco_format.read_panoptic_json(
        coco.paths["panoptic_json"], panoptic_dir=coco.paths["panoptic_dir"]
    )
    path = coco.save_instances(annotations, **options)
    return coco_instances.add_instances(panoptic, path, info)


def decode(instance):
    """The mask of an instance, [20, 17]."""
    return mask_api.decode({"size": [20, 17], "counts": instance.rle})


def square(top, left, bottom, right, shape=(20, 17)):
    mask = np.zeros(shape, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def polygon(top, left, bottom, right):
    return [left, top, right, top, right, bottom, left, bottom]


def runs(mask):
    """Uncompressed `counts`: runs by column, the first of zeros."""
    groups = [(value, len(list(same))) for value, same in itertools.groupby(mask.T.reshape(-1))]
    lengths = [length for _, length in groups]
    return lengths if not groups[0][0] else [0, *lengths]


def test_every_kind_of_segmentation(make_coco):
    whole, other = square(2, 3, 9, 12), square(4, 0, 20, 17)
    first = square(0, 0, 3, 17)
    coco = make_coco(2)
    annotations = [
        annotation(11, 0, [polygon(2, 3, 9, 12)]),
        annotation(12, 0, {"size": [20, 17], "counts": runs(other)}, DOG, iscrowd=1),
        annotation(13, 0, {"size": [20, 17], "counts": rle.encode_rle(first).decode()}),
        # The parts of one instance, one of them given twice.
        annotation(14, 0, [polygon(2, 3, 9, 12), polygon(12, 1, 15, 5), polygon(2, 3, 9, 12)]),
        annotation("a", 0, {"size": [20, 17], "counts": runs(first)}, DOG, iscrowd=0),
    ]
    with_instances, empty = read(coco, annotations)
    expected = [whole, other, first, whole | square(12, 1, 15, 5), first]
    assert len(with_instances.instances) == len(expected)
    for instance, mask in zip(with_instances.instances, expected):
        np.testing.assert_array_equal(decode(instance), mask)
    assert [i.category for i in with_instances.instances] == [1, 2, 1, 1, 2]
    assert [i.is_crowd for i in with_instances.instances] == [False, True, False, False, False]
    assert empty.instances == ()  # the file lists the image, and no instance of it


def test_area_and_box_of_the_file_are_not_read(make_coco):
    lies = {"area": "large", "bbox": [[1]]}
    one, _ = read(make_coco(2), [annotation(1, 0, [polygon(2, 3, 9, 12)], **lies)])
    assert decode(one.instances[0]).sum() == 7 * 9


def test_a_polygon_without_a_pixel_and_one_beyond_the_border(make_coco):
    one, _ = read(
        make_coco(2),
        [annotation(1, 0, [[3, 3, 3, 3, 3, 3]]), annotation(2, 0, [polygon(15, 10, 22, 20.5)])],
    )
    masks = [decode(i) for i in one.instances]
    assert masks[0].sum() == 0
    np.testing.assert_array_equal(masks[1], square(15, 10, 20, 17))


def test_images_of_one_file_only_are_counted(make_coco, caplog):
    coco = make_coco(3)
    images = coco.content["images"][:2] + [{"id": 77, "height": 5, "width": 5}]
    annotations = [annotation(i, i, [polygon(2, 3, 9, 12)]) for i in range(2)]
    # What is not used is not looked at: the category of the foreign image is none of ours.
    annotations += [annotation(5, 77, None, category_id=9999)]
    with caplog.at_level(logging.WARNING):
        one, other, without = read(coco, annotations, images=images)
    assert len(one.instances) == len(other.instances) == 1
    assert without.instances is None
    assert "instances.json: 1 instances are of images without panoptic annotation" in caplog.text
    assert "instances.json: 1 images of the panoptic file are not among its" in caplog.text


SQUARE = [polygon(2, 3, 9, 12)]
GOOD = {"size": [20, 17], "counts": [340]}
BAD = {
    "unknown category": (
        annotation(5, 0, SQUARE, 4),
        r"annotation id 5: category_id 4 is not among the categories of the panoptic file",
    ),
    "no category": (annotation(5, 0, SQUARE, None), "annotation id 5: category_id None is not"),
    "stuff": (
        annotation(5, 0, SQUARE, GRASS),
        r"annotation id 5: category_id 200 \('grass'\) is stuff in the panoptic file",
    ),
    "size of run lengths": (
        annotation(5, 0, {**GOOD, "size": [17, 20]}),
        r"annotation id 5: segmentation.size must be \[20, 17\], .*, got \[17, 20\]",
    ),
    "no size": (annotation(5, 0, {"counts": [340]}), r"segmentation.size must be .*, got None"),
    "short runs": (
        annotation(5, 0, {**GOOD, "counts": [300, 39]}),
        r"segmentation.counts: run lengths must fill 20 x 17 = 340 pixels, got 339",
    ),
    "negative runs": (
        annotation(5, 0, {**GOOD, "counts": [350, -10]}),
        r"annotation id 5: segmentation.counts: run lengths must fill",
    ),
    "runs of fractions": (
        annotation(5, 0, {**GOOD, "counts": [340.5]}),
        r"segmentation.counts must be COCO run-length text or a list of integers, got \[340.5\]",
    ),
    "huge runs": (annotation(5, 0, {**GOOD, "counts": [2**70]}), "counts must be COCO run-length"),
    "short text": (
        annotation(5, 0, {**GOOD, "counts": "0"}),
        r"annotation id 5: segmentation.counts: run lengths must fill 20 x 17",
    ),
    "no text": (annotation(5, 0, {**GOOD, "counts": "~"}), "counts: not COCO run-length text"),
    "not ASCII": (annotation(5, 0, {**GOOD, "counts": "\u00e4"}), r"segmentation.counts: .*ascii"),
    "no counts": (annotation(5, 0, {"size": [20, 17]}), "counts must be .*, got None"),
    "odd polygon": (
        annotation(5, 0, [SQUARE[0], [1, 2, 3, 4, 5, 6, 7]]),
        r"annotation id 5: segmentation\[1\] must be .* even number .*, got 7 of them",
    ),
    # Of four numbers pycocotools would make a box.
    "short polygon": (annotation(5, 0, [[1, 2, 3, 4]]), r"segmentation\[0\].*got 4 of them"),
    "flat polygon": (annotation(5, 0, SQUARE[0]), r"segmentation\[0\] must be .*, got 3\."),
    "text in a polygon": (annotation(5, 0, [[1, 2, 3, 4, 5, "6"]]), r"got \[1, 2, 3, 4, 5, '6'\]"),
    "far polygon": (
        annotation(5, 0, [[1, 2, 3, 4, 5, 1e9]]),
        r"coordinates must lie in or near the image, within -20..40 pixels, got 1000000000.0",
    ),
    "no number": (annotation(5, 0, [[1, 2, 3, 4, 5, float("nan")]]), "in or near the image.*nan"),
    "no polygon": (annotation(5, 0, []), r"segmentation must be a list of polygons.*, got \[\]"),
    "no segmentation": (annotation(5, 0, None), "id 5: segmentation must be a list .*, got None"),
    "crowd": (annotation(5, 0, SQUARE, iscrowd=2), "annotation id 5: iscrowd must be 0 or 1"),
    "image": (annotation(5, 9, SQUARE), "annotation id 5: image_id 9 is not among 'images'"),
    "image id": (annotation(5, [], SQUARE), "annotation id 5: image_id must be an integer or"),
    "id": (annotation(None, 0, SQUARE), r"annotations\[1\].id must be an integer or a non-empty"),
    "id twice": (annotation(1, 0, SQUARE), r"annotations\[1\].id 1 is used twice"),
    "no object": (7, r"annotations\[1\] must be an object, got int"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(make_coco, case):
    wrong, message = BAD[case]
    with pytest.raises(ValueError, match=r"instances\.json: .*" + message):
        read(make_coco(1), [annotation(1, 0, SQUARE), wrong])


def test_the_file_of_other_images_or_of_another_kind(make_coco):
    coco = make_coco(1)
    with pytest.raises(ValueError, match="none of its 1 'images' has a panoptic annotation"):
        read(coco, [], images=[{"id": "0", "height": 20, "width": 17}])
    with pytest.raises(ValueError, match=r"images\[0\]: image_id 0 must be 20 x 17 .*got 17 x 20"):
        read(coco, [], images=[{"id": 0, "height": 17, "width": 20}])
    info, panoptic = coco_format.read_panoptic_json(
        coco.paths["panoptic_json"], panoptic_dir=coco.paths["panoptic_dir"]
    )
    with pytest.raises(ValueError, match="expected a COCO instances JSON file, got a list"):
        (coco.folder / "instances.json").write_text("[]")
        coco_instances.add_instances(panoptic, str(coco.folder / "instances.json"), info)
    with pytest.raises(ValueError, match="No such file .*; expected a COCO instances JSON file"):
        coco_instances.add_instances(panoptic, str(coco.folder / "none.json"), info)


def test_categories_of_the_file_must_have_the_same_names(make_coco):
    coco = make_coco(1)
    path = coco.folder / "instances.json"
    info, panoptic = coco_format.read_panoptic_json(**coco.paths)
    categories = [
        {"id": DOG, "name": "dog"},
        {"id": 5000, "name": "cow"},
        {"id": CAT, "name": "cat"},
    ]

    def read_with(categories):
        annotations = [annotation(1, 0, SQUARE)]
        content = {"images": coco.content["images"], "annotations": annotations}
        path.write_text(json.dumps({**content, "categories": categories}))
        return coco_instances.add_instances(panoptic, str(path), info)

    # In any order, further ones, or without a claim.
    for same in (categories, categories[::-1], [], None, "cat", [7, {"id": CAT}, {"name": "cat"}]):
        (one,) = read_with(same)
        assert [i.category for i in one.instances] == [1]
    swapped = [{"id": DOG, "name": "cat"}, {"id": CAT, "name": "dog"}]
    with pytest.raises(ValueError, match=r"instances.json: category id 7 is 'cat', and 'dog' in"):
        read_with(swapped)
    with pytest.raises(ValueError, match=r"category id 3 is 'Cat', and 'cat' in the categories of"):
        read_with([{"id": CAT, "name": "Cat"}])


def test_all_that_is_wrong_is_listed_at_once(make_coco, caplog):
    coco = make_coco(1)
    wrong = [
        annotation(106, 0, [[1, 2, 3, 4]]),
        annotation("a", 0, []),
        annotation(108, 0, [SQUARE[0], [1, 2, 3, 4]]),
        annotation(109, 0, None),
        7,
    ]
    empty = [annotation(110, 0, [[3, 3] * 3]), annotation(111, 0, {**GOOD, "counts": [340]})]
    annotations = [annotation(1, 0, SQUARE), *wrong, *empty]
    with pytest.raises(ValueError) as error:
        read(coco, annotations)
    message = str(error.value)
    assert "annotation id 106: segmentation[0] must be x, y" in message and "\n" not in message
    assert "4 more of its annotations are wrong (id 'a', id 108, id 109, annotations[5])" in message
    note = "2 instances have no pixel and can never be found: id 110, id 111."
    assert any(note in line for line in caplog.messages)
    report = doctor.examine_coco_panoptic(
        **coco.paths,
        instances_json=str(coco.folder / "instances.json"),
        build_quality=PanopticQuality,
    )
    assert len(report["problems"]) == len(wrong) and note in report["notes"]
    names = ("id 106", "id 'a'", "id 108", "id 109", "annotations[5]")
    for name, problem in zip(names, report["problems"]):
        assert f"instances.json: annotation{'s' * name.startswith('ann')}" in problem
        assert name in problem
    assert report["num_instances"] == 3 and report["images_with_instances"] == 1


def test_a_thousand_wrong_annotations_are_one_line(make_coco):
    with pytest.raises(ValueError, match="999 more of its annotations") as error:
        read(make_coco(1), [annotation(i, 0, None) for i in range(1000)])
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "item",
    [
        annotation(True, 0, SQUARE),
        annotation(5, True, SQUARE),
        annotation(5, 0, SQUARE, 3.0),
        annotation(5, 0, SQUARE, 2**70),
        annotation(5, 0, SQUARE, "3"),
        annotation(5, 0, SQUARE, [3]),
        annotation(5, 0, [[1e300, 1, 2, 3, 4, 5]]),
        annotation(5, 0, [[2**2000, 1, 2, 3, 4, 5]]),
        annotation(5, 0, [[True, 1, 2, 3, 4, 5]]),
        annotation(5, 0, [{"a": 1}]),
        annotation(5, 0, {"size": "x" * 10**5, "counts": []}),
        annotation(5, 0, {**GOOD, "counts": "0" * 10**5}),
        annotation(5, 0, {**GOOD, "counts": "\ud800"}),
        annotation(5, 0, SQUARE, iscrowd="no"),
    ],
)
def test_hostile_annotations_end_in_one_short_line(make_coco, item):
    with pytest.raises(ValueError, match=r"instances\.json: annotation") as error:
        read(make_coco(1), [item])
    assert len(str(error.value)) <= 500 and str(error.value).isprintable()


def test_null_crowd_flag(make_coco):
    (one,) = read(make_coco(1), [annotation(1, 0, SQUARE, iscrowd=None)])
    assert not one.instances[0].is_crowd


# Conversion


def convert(coco, output_dir, instances_json=None, **options):
    return converter.convert_dataset(
        "coco_panoptic",
        output_dir=str(output_dir),
        instances_json=instances_json,
        num_processes=1,
        num_shards=2,
        **coco.paths,
        **options,
    )[0]


def examples(folder):
    paths = [str(path) for path in sorted(folder.glob("train-*"))]
    decoded = tf.data.TFRecordDataset(paths).map(record.decode_example).as_numpy_iterator()
    return {json.loads(example["image_id"]): example for example in decoded}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def coco(make_coco):
    return make_coco(4)


@pytest.fixture
def instances_json(coco):
    """Two overlapping instances of each of the first three images; the fourth is not listed."""
    annotations = [
        annotation(2 * i + j, i, [polygon(2 + j, 3, 9, 12 + j)], iscrowd=j)
        for i, j in itertools.product(range(3), range(2))
    ]
    return coco.save_instances(annotations[:4], images=coco.content["images"][:3])


def test_records_manifest_and_doctor(coco, instances_json, tmp_path):
    written = convert(coco, tmp_path / "out", instances_json)
    seen = examples(tmp_path / "out")
    assert [bool(seen[i]["has_instances"]) for i in range(4)] == [True, True, True, False]
    assert [len(seen[i]["instance_rles"]) for i in range(4)] == [2, 2, 0, 0]
    masks = record.decode_instance_masks(
        seen[1]["instance_rles"], seen[1]["height"], seen[1]["width"]
    )
    np.testing.assert_array_equal(
        masks, [square(2, 3, 9, 12, (21, 17)), square(3, 3, 9, 13, (21, 17))]
    )
    assert seen[1]["instance_categories"].tolist() == [1, 1]
    assert seen[1]["instance_is_crowd"].tolist() == [False, True]
    path = manifest.manifest_path(str(tmp_path / "out"), "train")
    loaded = manifest.Manifest.load(path)
    assert loaded.source == written.source
    assert (loaded.source["instances_json"], loaded.source["num_instances"]) == (instances_json, 4)
    assert loaded.fingerprint["instances_sha256"] == manifest.sha256_of_file(instances_json)
    report = doctor.examine_records(
        input_path=str(tmp_path / "out" / "train-*"), build_quality=PanopticQuality
    )
    assert report["problems"] == []
    assert (report["num_instances"], report["images_with_instances"]) == (4, 3)
    assert any("1 images have no overlapping instances" in note for note in report["notes"])


def test_without_instances_nothing_speaks_of_them(coco, tmp_path):
    written = convert(coco, tmp_path / "out")
    assert not any("instances" in key for key in (*written.fingerprint, *written.source))
    assert not any(e["has_instances"] for e in examples(tmp_path / "out").values())


def test_other_instances_are_another_conversion(coco, instances_json, tmp_path):
    convert(coco, tmp_path / "out", instances_json)
    before = contents(tmp_path / "out")
    convert(coco, tmp_path / "out", instances_json)
    assert contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match="other annotations or instances"):
        convert(coco, tmp_path / "out")
    other = coco.save_instances([annotation(1, 3, SQUARE)])
    with pytest.raises(ValueError, match="other annotations or instances"):
        convert(coco, tmp_path / "out", other)
    assert contents(tmp_path / "out") == before
    convert(coco, tmp_path / "out", other, overwrite=True)
    assert [len(examples(tmp_path / "out")[i]["instance_rles"]) for i in range(4)] == [0, 0, 0, 1]


def test_an_unfinished_conversion_of_other_instances_is_started_anew(
    coco, instances_json, tmp_path
):
    whole = coco.ids(3)
    coco.save_ids(3, whole + np.uint32(1))
    with pytest.raises(ValueError, match=r"3\.png"):
        convert(coco, tmp_path / "out", instances_json)
    assert list((tmp_path / "out").glob("train-*")), "the other shard was finished"
    coco.save_ids(3, whole)
    convert(coco, tmp_path / "out")
    convert(coco, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_the_instances_of_coco(reference_data, tmp_path):
    """Things of two images as COCO's detection format writes them: the segments of the PNGs."""
    sample = reference_data / "coco_sample"
    content = json.loads((sample / "panoptic_coco_detection_format.json").read_text())
    panoptic = json.loads((sample / "panoptic_examples.json").read_text())
    things = {c["id"] for c in panoptic["categories"] if c["isthing"]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in things]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=str(sample / "panoptic_examples.json"),
        panoptic_dir=str(sample / "panoptic"),
        image_dir=str(sample / "images"),
        instances_json=str(path),
        output_dir=str(tmp_path / "out"),
        num_processes=1,
    )
    num_instances = 0
    for example in examples(tmp_path / "out").values():
        masks = record.decode_instance_masks(
            example["instance_rles"], example["height"], example["width"]
        ).numpy()
        ids = [np.unique(example["id_map"][mask > 0]) for mask in masks]
        assert all(len(i) == 1 for i in ids)
        rows = np.concatenate(ids) - 1
        np.testing.assert_array_equal(masks.sum(axis=(1, 2)), example["segment_areas"][rows])
        for key in ("categories", "is_crowd"):
            np.testing.assert_array_equal(
                example[f"instance_{key}"], example[f"segment_{key}"][rows]
            )
        num_instances += len(masks)
    assert num_instances == 43
