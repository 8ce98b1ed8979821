"""Writing the COCO panoptic format: what is written, and what no array may hold."""

import json

import numpy as np
import pytest

from panoptic_tf.datasets import coco_format
from panoptic_tf.datasets.coco_format import Segment
from panoptic_tf.datasets.dataset_info import DatasetInfo

INFO = DatasetInfo.from_coco(
    [
        {"id": 3, "name": "cat", "isthing": 1},
        {"id": 7, "name": "dog", "isthing": 1},
        {"id": 200, "name": "grass", "isthing": 0},
    ],
    name="pets",
)
CATEGORY_MASK = np.array([[1, 1, 0], [3, 1, 2]])
INSTANCE_MASK = np.array([[4, 4, 0], [0, 6, 9]])
CROWD = CATEGORY_MASK == 2


def _write(folder):
    with coco_format.CocoPanopticWriter(str(folder), INFO) as writer:
        writer.add(
            "a_1",
            "a_1",
            CATEGORY_MASK,
            INSTANCE_MASK,
            scores={(1, 4): 0.5, (3, 0): 0.25},
            crowd=CROWD,
        )
        writer.add(5, "b/5", 0 * CATEGORY_MASK, 0 * CATEGORY_MASK, image_file="b/5.png")
    return {
        "panoptic_json": str(folder / "predictions.json"),
        "panoptic_dir": str(folder / "predictions"),
    }


def test_writer_round_trip(tmp_path):
    info, annotations = coco_format.read_panoptic_json(**_write(tmp_path), name="pets")
    assert info == INFO
    first, second = annotations
    assert first.segments == (
        Segment(1, 3, area=2, bbox=(0, 0, 2, 1), score=0.5),
        Segment(2, 3, area=1, bbox=(1, 1, 1, 1)),
        Segment(3, 7, is_crowd=True, area=1, bbox=(2, 1, 1, 1)),
        Segment(4, 200, area=1, bbox=(0, 1, 1, 1), score=0.25),
    )
    np.testing.assert_array_equal(coco_format.read_id_map(first.png_file), [[1, 1, 0], [4, 2, 3]])
    assert (second.image_id, second.file_name, second.segments) == (5, "b/5.png", ())
    content = json.loads((tmp_path / "predictions.json").read_text())
    scores = [s.get("score") for s in content["annotations"][0]["segments_info"]]
    assert scores == [0.5, None, None, 0.25]


def test_writer_refuses(tmp_path):
    writer = coco_format.CocoPanopticWriter(str(tmp_path), INFO)
    writer.add(1, "1", CATEGORY_MASK, INSTANCE_MASK)
    with pytest.raises(ValueError, match="image_id 1 was added before"):
        writer.add(1, "1", CATEGORY_MASK, INSTANCE_MASK)
    with pytest.raises(ValueError, match=r"image_id 2: masks must be \[H, W\] and alike"):
        writer.add(2, "2", CATEGORY_MASK, INSTANCE_MASK[:1])
    with pytest.raises(ValueError, match=r"image_id 2: category_mask must hold 0\.\.3, got 0\.\.6"):
        writer.add(2, "2", 2 * CATEGORY_MASK, INSTANCE_MASK)
    with pytest.raises(ValueError, match="file_stem must stay inside"):
        writer.add(2, "../2", CATEGORY_MASK, INSTANCE_MASK)
    assert not (tmp_path / "predictions.json").exists()


def test_failed_writer_leaves_no_json(tmp_path):
    with pytest.raises(RuntimeError):
        with coco_format.CocoPanopticWriter(str(tmp_path), INFO) as writer:
            writer.add(1, "1", CATEGORY_MASK, INSTANCE_MASK)
            raise RuntimeError
    assert not (tmp_path / "predictions.json").exists()


def _written(folder, instance_mask, category_mask=CATEGORY_MASK, **options):
    """Segments and id map of one image."""
    with coco_format.CocoPanopticWriter(str(folder), INFO) as writer:
        writer.add(1, "1", category_mask, instance_mask, **options)
    _, (annotation,) = coco_format.read_panoptic_json(
        str(folder / "predictions.json"), panoptic_dir=str(folder / "predictions")
    )
    return annotation.segments, coco_format.read_id_map(annotation.png_file)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([0, 2**32, 2**32 + 1, 2**40]),
        np.array([0, 2**31, 2**32 - 1, 2**33], np.int64),
        np.array([0, 5, 2**63, 2**64 - 1], np.uint64),
        np.array([0, 1, 2, 255], np.uint8),
        np.array([0.0, 4.0, 6.0, 9.0]),
        np.array([0, 0.5, 1, 2], np.float16) * 2,
    ],
)
def test_instance_ids_of_any_width_are_told_apart(tmp_path, ids):
    instance_mask = ids[[[1, 1, 0], [0, 2, 3]]]
    scores = {(1, ids[1].item()): 0.5}
    found, id_map = _written(tmp_path, instance_mask, scores=scores)
    assert [(s.category_id, s.area) for s in found] == [(3, 2), (3, 1), (7, 1), (200, 1)]
    np.testing.assert_array_equal(id_map, [[1, 1, 0], [4, 2, 3]])
    content = json.loads((tmp_path / "predictions.json").read_text())
    listed = content["annotations"][0]["segments_info"]
    assert [s.get("score") for s in listed] == [0.5, None, None, None]


def test_bool_masks(tmp_path):
    is_cat = CATEGORY_MASK == 1
    found, _ = _written(tmp_path, is_cat, category_mask=is_cat)
    assert [(s.category_id, s.area) for s in found] == [(3, 3)]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_crowd_of_zeros_and_ones(tmp_path, dtype):
    found, _ = _written(tmp_path, INSTANCE_MASK, crowd=CROWD.astype(dtype))
    assert [s.is_crowd for s in found] == [False, False, True, False]


NAN = float("nan")
WRONG_ARRAYS = {
    "category -1": ("category_mask", CATEGORY_MASK - 1, r"category_mask must hold 0\.\.3, got -1"),
    "category beyond": ("category_mask", CATEGORY_MASK + 2**40, "category_mask must hold 0"),
    "category of 64 bits": (
        "category_mask",
        np.full((2, 3), 2**64 - 1, np.uint64),
        "category_mask must hold .* got 18446744073709551615",
    ),
    "category of a fraction": (
        "category_mask",
        CATEGORY_MASK + 0.5,
        r"category_mask must hold integers, got 1\.5",
    ),
    "category NaN": ("category_mask", CATEGORY_MASK * NAN, "category_mask must hold .* got nan"),
    "instance -1": (
        "instance_mask",
        np.where(INSTANCE_MASK, INSTANCE_MASK, -1),
        "image_id 5: instance_mask must hold .*, got -1",
    ),
    "instance of a fraction": ("instance_mask", INSTANCE_MASK / 8, "instance_mask .* got 0.5"),
    "instance NaN": ("instance_mask", INSTANCE_MASK + NAN, "instance_mask must hold .* got nan"),
    "instance infinity": ("instance_mask", INSTANCE_MASK + np.inf, "instance_mask .* got inf"),
    "instance beyond": ("instance_mask", INSTANCE_MASK + 2.0**64, "instance_mask .* got 1.8"),
    "instance text": ("instance_mask", INSTANCE_MASK.astype(str), "instance_mask must .* <U"),
    "instance object": ("instance_mask", INSTANCE_MASK.astype(object), "instance_mask .* object"),
    "crowd 2": ("crowd", 2 * CROWD, r"image_id 5: crowd must hold 0 and 1, got 0\.\.2"),
    "crowd -1": ("crowd", CROWD - 1, "crowd must hold 0 and 1, got -1"),
    "crowd NaN": ("crowd", CROWD * NAN, "crowd must hold .* got nan"),
    "score NaN": ("scores", {(1, 4): NAN}, r"scores\[\(1, 4\)\] must be finite, got nan"),
    "image id": ("image_id", 1.0, "image_id must be an integer or a non-empty text, got 1.0"),
    "image id bool": ("image_id", True, "image_id must be .* got True"),
    "file stem twice": ("file_stem", "first", "file_stem 'first' was added before"),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_arrays_are_named_and_write_nothing(tmp_path, case):
    name, value, message = WRONG_ARRAYS[case]
    arguments = {
        "image_id": 5,
        "file_stem": "5",
        "category_mask": CATEGORY_MASK,
        "instance_mask": INSTANCE_MASK,
    }
    with coco_format.CocoPanopticWriter(str(tmp_path), INFO) as writer:
        writer.add("first", "first", CATEGORY_MASK, INSTANCE_MASK)
        with pytest.raises(ValueError, match=message):
            writer.add(**{**arguments, name: value})
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert [a["image_id"] for a in content["annotations"]] == ["first"]
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["first.png"]


def test_numpy_image_ids_are_written_as_numbers(tmp_path):
    with coco_format.CocoPanopticWriter(str(tmp_path), INFO) as writer:
        writer.add(np.int64(7), "7", CATEGORY_MASK, INSTANCE_MASK)
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert content["images"][0]["id"] == content["annotations"][0]["image_id"] == 7
