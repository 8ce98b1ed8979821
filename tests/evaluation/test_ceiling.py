"""The ceiling leaves out what an evaluation leaves out."""

import pytest
import tensorflow as tf
from small_systems import ROWS, get_params, get_task, write_records

from panoptic_tf.datasets import record
from panoptic_tf.evaluation import ceiling
from panoptic_tf.training import runner


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Patterns of four records, and of the same with a second one that holds no image."""
    folder = tmp_path_factory.mktemp("shapes")
    whole = write_records(folder)
    (path,) = tf.io.gfile.glob(whole)
    contents = [r.numpy() for r in tf.data.TFRecordDataset(path)]
    example = tf.train.Example.FromString(contents[1])
    example.features.feature[record.Field.IMAGE].bytes_list.value[:] = [b"\x89PNG"]
    contents[1] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(folder / "bad-00000-of-00001")) as writer:
        for content in contents:
            writer.write(content)
    return whole, str(folder / "bad-*")


def task_of(path, **evaluation):
    params = get_params(ROWS[0].experiment, ROWS[0].overrides, {"evaluation": evaluation})
    params.override({"task": {"validation_data": {"input_path": path}}})
    return params, get_task(params)


def test_bad_records_are_skipped_or_named(damaged):
    whole, bad = damaged
    params, task = task_of(bad)
    expected = ceiling.evaluate_ceiling(task, whole)
    assert expected["PQ"] > 50
    found = ceiling.evaluate_ceiling(task, bad, max_bad_records=1)
    assert 0 < found["true_segments"] < expected["true_segments"]
    with pytest.raises(ValueError, match="bad-00000-of-00001: record 1, image_id"):
        with runner.naming_bad_records(params, task, "eval"):
            ceiling.evaluate_ceiling(task, bad)


def test_large_images_are_left_out(damaged):
    whole, _ = damaged
    _, task = task_of(whole, max_pixels=64 * 64)
    assert ceiling.evaluate_ceiling(task, whole)["true_segments"]
    _, task = task_of(whole, max_pixels=64 * 64 - 1)
    assert not ceiling.evaluate_ceiling(task, whole)["true_segments"]
