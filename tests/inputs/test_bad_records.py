"""Records that cannot be decoded are named, and skipped up to a number."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets import record, rle
from panoptic_tf.inputs import pipeline
from panoptic_tf.inputs.failures import explain_failure

SIZE = (24, 32)
NUM_RECORDS, BAD = 6, 3
COMMON = dict(
    thing_ids=(1, 2),
    num_categories=3,
    network_size=SIZE,
    normalization=pipeline.Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
)


def targets(sample):
    labels = {"number": tf.strings.to_number(sample.image_id, tf.int32)}
    if sample.instances is not None:
        labels["area"] = tf.reduce_sum(tf.cast(sample.instances.masks, tf.int32))
    return {}, labels


def training(path, **options):
    return pipeline.build_training_dataset(
        input_path=path,
        augmentation=pipeline.Augmentation(),
        target_generator=targets,
        **{**COMMON, "batch_size": 1, "shuffle_buffer_size": 4, **options},
    )


def evaluation(path, **options):
    return pipeline.build_evaluation_dataset(
        input_path=path, **{**COMMON, "batch_size": 1, **options}
    )


def numbers(dataset):
    return [int(labels["number" if "number" in labels else "image_id"][0]) for _, labels in dataset]


def change(serialized, **values):
    """A record with other values of some fields, None to leave one out."""
    example = tf.train.Example.FromString(serialized)
    for name, value in values.items():
        field = example.features.feature[getattr(record.Field, name)]
        if value is None:
            del example.features.feature[getattr(record.Field, name)]
        elif isinstance(value[0], bytes):
            field.bytes_list.value[:] = value
        else:
            field.int64_list.value[:] = value
    return example.SerializeToString()


def damaged_image(draw):
    serialized = draw(BAD, 20, 24)
    image = tf.train.Example.FromString(serialized).features.feature[record.Field.IMAGE]
    return change(serialized, IMAGE=[image.bytes_list.value[0][:-12]])  # Without IEND.


KINDS = {
    "image cut": (damaged_image, "Invalid PNG data"),
    "no image": (lambda draw: change(draw(BAD, 20, 24), IMAGE=None), "image/encoded"),
    "a text for an image": (lambda draw: change(draw(BAD, 20, 24), IMAGE=[b"text"]), "image"),
    "id map is no PNG": (lambda draw: change(draw(BAD, 20, 24), ROWS=[b"rows"]), "PNG"),
    "another size": (lambda draw: change(draw(BAD, 20, 24), HEIGHT=[21]), "height and width"),
    "unknown segment": (
        lambda draw: change(
            draw(BAD, 20, 24),
            SEGMENT_IDS=[1],
            SEGMENT_CATEGORIES=[1],
            SEGMENT_IS_CROWD=[0],
            SEGMENT_BOXES=[0, 0, 1, 1],
        ),
        "a segment that is not listed",
    ),
    "unequal columns": (
        lambda draw: change(draw(BAD, 20, 24), SEGMENT_CATEGORIES=[1, 2]),
        "columns of the segments",
    ),
    "category 0": (
        lambda draw: change(draw(BAD, 20, 24), SEGMENT_CATEGORIES=[3, 0, 2]),
        "category id below 1",
    ),
    "category 4 of 3": (
        lambda draw: change(draw(BAD, 20, 24), SEGMENT_CATEGORIES=[3, 4, 2]),
        "category id over 3",
    ),
    "no example": (lambda draw: b"\x01 is no Example", "parse"),
}


def write(folder, write_records, draw_record, bad):
    """Two shards; record 0 of the second is bad. Returns their pattern."""
    records = [bad if n == BAD else draw_record(n, 20, 24) for n in range(NUM_RECORDS)]
    write_records(folder / "train-00000-of-00002.tfrecord", records[:BAD])
    write_records(folder / "train-00001-of-00002.tfrecord", records[BAD:])
    return str(folder / "train-*")


@pytest.fixture
def with_bad(tmp_path, write_records, draw_record):
    return write(tmp_path, write_records, draw_record, damaged_image(draw_record))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_record_is_named(tmp_path, write_records, draw_record, kind):
    make, reason = KINDS[kind]
    path = write(tmp_path, write_records, draw_record, make(draw_record))
    with pytest.raises(tf.errors.InvalidArgumentError) as failed:
        numbers(evaluation(path))
    text = explain_failure(
        failed.value, input_path=path, num_categories=3, settings="task.validation_data."
    )
    assert text.startswith(f"{tmp_path}/train-00001-of-00002.tfrecord: record 0"), text
    assert reason in text and "task.validation_data.max_bad_records" in text, text
    assert "\n" not in text and "{{" not in text and len(text) < 500
    if kind != "no example":
        assert f"image_id {BAD}, '{BAD}.png'" in text


@pytest.mark.parametrize("cache", [False, True])
def test_training_skips_and_warns_once(with_bad, cache, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        dataset = training(with_bad, cache=cache, max_bad_records=1, seed=1)
        seen = numbers(dataset.take(4 * (NUM_RECORDS - 1)))
    assert sorted(seen[: NUM_RECORDS - 1]) == [0, 1, 2, 4, 5]
    assert set(seen) == {0, 1, 2, 4, 5}
    (warning,) = [r.getMessage() for r in caplog.records if "Skipped" in r.getMessage()]
    assert "record 0" in warning and "Skipped: 1 of 1" in warning


def test_evaluation_skips_in_every_pass(with_bad):
    dataset = evaluation(with_bad, max_bad_records=1)
    assert numbers(dataset) == numbers(dataset) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("build", [training, evaluation])
def test_one_bad_record_too_many(tmp_path, write_records, draw_record, build):
    bad = damaged_image(draw_record)
    write_records(tmp_path / "some", [draw_record(0, 20, 24), bad, bad])
    path = str(tmp_path / "some")
    with pytest.raises(tf.errors.OpError) as failed:
        list(build(path, max_bad_records=1, settings="task.x.").take(20))
    text = explain_failure(failed.value, input_path=path)
    assert "1 were skipped before" in text and "raise task.x.max_bad_records" in text
    assert "\n" not in text
    assert numbers(build(path, max_bad_records=2).take(1)) == [0]


@pytest.mark.parametrize("build", [training, evaluation])
def test_nothing_but_bad_records_does_not_go_on_for_ever(
    tmp_path, write_records, draw_record, build
):
    write_records(tmp_path / "bad", [damaged_image(draw_record)] * 3)
    with pytest.raises(tf.errors.OpError, match="Not one of the 3 records can be used"):
        list(build(str(tmp_path / "bad"), max_bad_records=100).take(1))


@pytest.mark.parametrize("build", [training, evaluation])
def test_run_lengths_that_do_not_fill_the_image(tmp_path, write_records, encode_record, build):
    def encode(number, counts):
        own = [record.Instance(counts, category=1, is_crowd=False)]
        rows = np.ones((20, 24), np.int32)
        image = np.zeros((20, 24, 3), np.uint8)
        return encode_record(number, image, rows, [30], instances=own)

    whole = rle.encode_rle(np.ones((20, 24)))
    write_records(tmp_path / "some", [encode(0, whole), encode(1, b"11")])
    path = str(tmp_path / "some")
    assert len(numbers(build(path).take(2))) == 2  # Nothing reads them.
    with pytest.raises(tf.errors.OpError) as failed:
        list(build(path, with_instances=True).take(4))
    text = explain_failure(failed.value, input_path=path, with_instances=True)
    assert "record 1, image_id 1, '1.png'" in text and "run lengths" in text
    skipping = build(path, with_instances=True, max_bad_records=1)
    assert set(numbers(skipping.take(3))) == {0}


def test_skipping_changes_nothing_of_good_records(twelve_records):
    batches = [
        list(training(twelve_records, seed=5, max_bad_records=n, batch_size=3).take(6))
        for n in (0, 2)
    ]
    for (features, labels), (others, other_labels) in zip(*batches):
        np.testing.assert_array_equal(labels["number"], other_labels["number"])
        for key in features:
            np.testing.assert_array_equal(features[key], others[key])


def test_a_flipped_byte_names_the_record(with_bad, tmp_path):
    path = tmp_path / "train-00000-of-00002.tfrecord"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError) as failed:
        list(evaluation(with_bad, max_bad_records=9))
    text = explain_failure(failed.value, input_path=with_bad)
    assert "train-00000-of-00002.tfrecord: record 1 is damaged" in text


def test_files_are_found_once(tmp_path, write_records, draw_record):
    write_records(tmp_path / "train-a", [draw_record(1, 20, 24)])
    pattern = str(tmp_path / "train-*")
    dataset = evaluation(pattern)
    # What comes later is not read, what is written anew is.
    write_records(tmp_path / "train-b", [draw_record(2, 20, 24)])
    assert numbers(dataset) == [1]
    write_records(tmp_path / "train-a", [draw_record(3, 20, 24)])
    assert numbers(dataset) == [3]
    (tmp_path / "train-a").unlink()
    with pytest.raises(tf.errors.NotFoundError, match="train-a"):
        numbers(dataset)


def test_an_error_of_something_else_is_not_explained(twelve_records):
    error = tf.errors.InvalidArgumentError(None, None, "a matrix is not square")
    assert explain_failure(error, input_path=twelve_records) is None
