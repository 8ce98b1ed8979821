"""`panoptic_png`: areas that are counted before the resize, and the limit of its own."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets.coco_format import rgb_to_id
from panoptic_tf.serving import id_map
from panoptic_tf.serving.export import export_saved_model
from panoptic_tf.structures import Prediction


def draw_prediction(rng, size, num_segments):
    """Rows of both kinds over a mask of 6 x 8, of which `size` is the image's."""
    category = np.concatenate([[1, 1, 2, 3], rng.integers(4, 9, num_segments - 4)])
    instance = np.array([1, 2, 0, 0, *range(3, num_segments - 1)])
    rows = rng.integers(0, num_segments + 1, (6, 8))
    rows[size[0] :], rows[:, size[1] :] = 0, 0
    return rows, {
        Prediction.CATEGORY_MASK: np.append(0, category)[rows],
        Prediction.INSTANCE_MASK: np.append(0, instance)[rows],
        Prediction.SEGMENT_CATEGORY: category,
        Prediction.SEGMENT_INSTANCE: instance,
        Prediction.SEGMENT_SCORE: np.ones(num_segments, np.float32),
        Prediction.SEGMENT_AREA: np.bincount(rows.ravel(), minlength=num_segments + 1)[1:],
        Prediction.NUM_SEGMENTS: np.array(num_segments),
        Prediction.IMAGE_SIZE: np.array(size),
    }


def test_ids_and_areas_equal_plain_loops():
    """Both larger and smaller than the answer, and more than 255 segments."""
    rng = np.random.default_rng(0)
    frames = [((6, 8), (6, 8)), ((5, 3), (17, 11)), ((6, 7), (4, 5)), ((1, 1), (3, 2))]
    drawn = [draw_prediction(rng, answered, 300) for answered, _ in frames]
    batch = {
        key: tf.constant(np.stack([p[key] for _, p in drawn]).astype(value.dtype))
        for key, value in drawn[0][1].items()
    }
    batch = {k: tf.cast(v, tf.int32) if v.dtype == tf.int64 else v for k, v in batch.items()}
    sizes = [original for _, original in frames]
    pngs, areas = id_map.encode_id_maps(batch, tf.constant(sizes, tf.int32))
    for i, ((height, width), (tall, wide)) in enumerate(frames):
        expected = np.zeros([tall, wide], int)
        for y in range(tall):
            for x in range(wide):
                source = int((y + 0.5) * height / tall), int((x + 0.5) * width / wide)
                expected[y, x] = drawn[i][0][source]
        np.testing.assert_array_equal(rgb_to_id(tf.io.decode_png(pngs[i]).numpy()), expected)
        counted = np.bincount(expected.ravel(), minlength=301)[1:]
        np.testing.assert_array_equal(areas[i], counted)


@pytest.mark.parametrize("limit, is_read", [(599, [True, False]), (10**9, [True, True])])
def test_png_has_a_limit_of_its_own(
    limit, is_read, network, export_arguments, make_image, encode, tmp_path
):
    path = export_saved_model(
        network, export_dir=str(tmp_path), max_png_pixels=limit, max_pixels=700, **export_arguments
    )
    signatures = tf.saved_model.load(path).signatures
    images = tf.constant([encode(make_image(*size)) for size in ((20, 29), (20, 30), (20, 36))])
    valid = signatures["image_bytes"](image_bytes=images)["valid"]
    assert valid.numpy().tolist() == [True, True, False]
    answer = signatures["panoptic_png"](image_bytes=images)
    assert answer["valid"].numpy().tolist() == [*is_read, False]
    is_empty = [png == b"" for png in answer["panoptic_png_bytes"].numpy()]
    assert is_empty == [not one for one in (*is_read, False)]
