"""The record is lossless, eagerly and inside tf.data."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from panoptic_tf.datasets import coco_format, record, rle, segments
from panoptic_tf.datasets.coco_format import Segment

CONTIGUOUS_IDS = {3: 1, 7: 2, 200: 3}


def _decode(serialized):
    example = record.decode_example(serialized)
    masks = record.decode_instance_masks(
        example["instance_rles"], example["height"], example["width"]
    )
    return {**example, "instance_masks": masks}


def _decode_both_ways(serialized):
    eager = {k: v.numpy() for k, v in _decode(serialized).items()}
    dataset = tf.data.Dataset.from_tensors(serialized).map(_decode)
    in_graph = next(dataset.as_numpy_iterator())
    for key, value in eager.items():
        np.testing.assert_array_equal(in_graph[key], value, err_msg=key)
    assert dataset.element_spec["id_map"].shape.rank == 2
    return eager


@st.composite
def _annotated_images(draw):
    table = draw(
        st.lists(
            st.builds(
                Segment,
                id=st.integers(1, segments.MAX_SEGMENT_ID),
                category_id=st.sampled_from(sorted(CONTIGUOUS_IDS)),
                is_crowd=st.booleans(),
                area=st.integers(0, 2**31 - 1),
                bbox=st.tuples(*[st.integers(0, 9999)] * 4),
            ),
            unique_by=lambda s: s.id,
            max_size=5,
        )
    )
    shape = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
    rows = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, len(table))))
    one = st.builds(
        record.Instance,
        rle=hnp.arrays(bool, rows.shape).map(rle.encode_rle),
        category=st.integers(1, 3),
        is_crowd=st.booleans(),
    )
    return {
        "image_bytes": draw(st.binary(max_size=9)),
        "image_id": draw(st.one_of(st.integers(), st.text(min_size=1))),
        "file_name": draw(st.text(alphabet=st.characters(codec="utf-8"))),
        "rows": rows,
        "segment_table": table,
        "instances": draw(st.one_of(st.none(), st.lists(one, max_size=3))),
    }


@settings(max_examples=10, deadline=None)
@given(_annotated_images())
def test_everything_comes_back(image):
    example = _decode_both_ways(record.encode_example(contiguous_ids=CONTIGUOUS_IDS, **image))
    table, instances = image["segment_table"], image["instances"]
    assert example["image_bytes"] == image["image_bytes"]
    assert json.loads(example["image_id"]) == image["image_id"]
    assert example["file_name"].decode() == image["file_name"]
    assert (example["height"], example["width"]) == image["rows"].shape
    np.testing.assert_array_equal(example["id_map"], image["rows"])
    assert example["segment_ids"].tolist() == [s.id for s in table]
    assert example["segment_categories"].tolist() == [CONTIGUOUS_IDS[s.category_id] for s in table]
    assert example["segment_is_crowd"].tolist() == [s.is_crowd for s in table]
    assert example["segment_areas"].tolist() == [s.area for s in table]
    assert example["segment_boxes"].tolist() == [list(s.bbox) for s in table]
    assert example["has_instances"] == (instances is not None)
    assert example["instance_rles"].tolist() == [i.rle for i in instances or []]
    assert example["instance_categories"].tolist() == [i.category for i in instances or []]
    assert example["instance_is_crowd"].tolist() == [i.is_crowd for i in instances or []]
    for mask, instance in zip(example["instance_masks"], instances or []):
        assert rle.encode_rle(mask) == instance.rle


def _encode(**changes):
    values = {
        "image_bytes": b"image",
        "image_id": "a_1",
        "file_name": "a/1.jpg",
        "rows": np.array([[1, 1, 0], [0, 1, 2]], np.int32),
        "segment_table": [Segment(9, 3), Segment(4, 200)],
        "contiguous_ids": CONTIGUOUS_IDS,
    }
    return record.encode_example(**{**values, **changes})


def test_dtypes_and_measured_areas_and_boxes():
    example = _decode(_encode())
    assert example["segment_areas"].numpy().tolist() == [3, 1]
    assert example["segment_boxes"].numpy().tolist() == [[0, 0, 2, 2], [2, 1, 1, 1]]
    dtypes = {key: value.dtype for key, value in example.items()}
    assert dtypes == {
        "image_bytes": tf.string,
        "image_id": tf.string,
        "file_name": tf.string,
        "height": tf.int32,
        "width": tf.int32,
        "id_map": tf.int32,
        "segment_ids": tf.int64,
        "segment_categories": tf.int32,
        "segment_is_crowd": tf.bool,
        "segment_areas": tf.int64,
        "segment_boxes": tf.int32,
        "has_instances": tf.bool,
        "instance_rles": tf.string,
        "instance_categories": tf.int32,
        "instance_is_crowd": tf.bool,
        "instance_masks": tf.uint8,
    }


def test_overlapping_instances_keep_their_overlap():
    first = np.array([[1, 1, 0], [1, 1, 0]])
    second = np.array([[0, 1, 1], [0, 1, 1]])
    instances = [
        record.Instance(rle.encode_rle(m), 1, i > 0) for i, m in enumerate([first, second])
    ]
    example = _decode_both_ways(_encode(instances=instances))
    np.testing.assert_array_equal(example["instance_masks"], [first, second])


def test_the_largest_number_of_segments_fits_and_one_more_does_not():
    most = record.MAX_SEGMENTS
    rows = np.arange(1, most + 2, dtype=np.int32).reshape(256, 256)
    table = [Segment(i, 3) for i in range(1, most + 2)]
    with pytest.raises(ValueError, match="image_id 'a_1': a record holds at most 65535 segments"):
        _encode(rows=rows, segment_table=table)
    rows = np.minimum(rows, most)
    example = _decode(_encode(rows=rows, segment_table=table[:most]))
    np.testing.assert_array_equal(example["id_map"].numpy(), rows)


def test_rows_beyond_the_table_are_refused():
    with pytest.raises(ValueError, match=r"rows must lie in 0\.\.1, got 0\.\.2"):
        _encode(segment_table=[coco_format.Segment(9, 3)])


def test_equal_arguments_give_equal_bytes():
    assert _encode() == _encode()


def test_the_id_map_is_an_ordinary_png():
    rows = np.array([[0, 1, 65535], [256, 255, 7]], np.int32)
    encoded = record._encode_png(rows)
    image = Image.open(io.BytesIO(encoded))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(image), rows)
    decoded = tf.io.decode_png(encoded, channels=1, dtype=tf.uint16)
    np.testing.assert_array_equal(decoded[..., 0], rows)
