"""Counts of categories and repeat factors against plain loops over the records."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets import record
from panoptic_tf.inputs import pipeline, repeat_factors
from panoptic_tf.inputs.category_counts import CategoryCounts, count_categories


@pytest.fixture
def uneven_records(tmp_path, encode_record, write_records):
    """Pattern of two files: of 20 images one has category 2, five have 1, all have 3."""
    image, rows = np.zeros([6, 8, 3], np.uint8), np.zeros([6, 8], np.int32)
    serialized = []
    for number in range(20):
        own, categories = rows.copy(), [30]
        own[3:] = 1
        if number < 5:
            categories += [10, 10]
            own[0, :4], own[1] = 2, 3
        if number == 7:
            categories.append(20)
            own[2, 0] = len(categories)
        serialized.append(encode_record(number, image, own, categories))
    for i in range(2):
        write_records(
            tmp_path / f"train-{i:05d}-of-00002.tfrecord", serialized[10 * i : 10 * i + 10]
        )
    return str(tmp_path / "train-*")


def paths_of(pattern):
    return sorted(tf.io.gfile.glob(pattern))


@pytest.mark.parametrize("max_examples", [0, 3])
def test_counts_are_those_of_the_pixels(uneven_records, twelve_records, max_examples):
    for pattern in (uneven_records, twelve_records):
        images, pixels = np.zeros([2, 4], int)
        records = tf.data.TFRecordDataset(paths_of(pattern)).take(max_examples or -1)
        count = 0
        for serialized in records:
            count += 1
            example = record.decode_example(serialized)
            table = np.array([0, *example["segment_categories"].numpy()])
            categories = table[example["id_map"].numpy()]
            for category in (1, 2, 3):
                images[category] += category in table
                pixels[category] += (categories == category).sum()
        found = count_categories(paths_of(pattern), num_categories=3, max_examples=max_examples)
        assert found.num_images == count
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.pixels, pixels)


def test_what_cannot_be_counted(tmp_path, draw_record, write_records):
    path = str(tmp_path / "train-00000-of-00001.tfrecord")
    write_records(path, [draw_record(1, 20, 20), b"nonsense", draw_record(2, 20, 20)])
    with pytest.raises(tf.errors.InvalidArgumentError):
        count_categories([path], num_categories=3)
    assert count_categories([path], num_categories=3, skip_bad_records=True).num_images == 2
    # Categories that the model does not have are left out.
    found = count_categories([path], num_categories=2, skip_bad_records=True)
    np.testing.assert_array_equal(found.images, [0, 2, 2])


def test_factors():
    # 100 images: shares 0.01, 0.25, 0.5 and none; t = 0.25: sqrt(25) = 5, 1, 1 and, absent, 1.
    counts = CategoryCounts(100, np.array([0, 1, 25, 50, 0]), np.zeros(5, int))
    found = repeat_factors.repeat_factors(counts, 0.25)
    np.testing.assert_allclose(found, [1, 5, 1, 1, 1])
    np.testing.assert_array_equal(repeat_factors.repeat_factors(counts, 0.0), np.ones(5))


def repeated(elements, factors, passes=1, seed=0):
    rows = tf.RaggedTensor.from_row_lengths(
        tf.constant([c for _, categories in elements for c in categories], tf.int64),
        [len(categories) for _, categories in elements],
    )
    numbers = tf.constant([number for number, _ in elements])
    dataset = tf.data.Dataset.from_tensor_slices((numbers, rows))
    dataset = dataset.map(lambda number, row: (number, row))
    result = repeat_factors.repeat_elements(
        dataset, np.array(factors, np.float32), lambda _, row: row, seed=seed
    )
    return [int(number) for number, _ in result.repeat(passes).as_numpy_iterator()]


def test_whole_factors_repeat_exactly():
    # The largest of an image's categories counts; none, void and unknown ones count 1.
    elements = [(0, [1]), (1, [1, 2]), (2, []), (3, [3, 2, 1]), (4, [9, -1, 0])]
    assert repeated(elements, [1, 1, 2, 3]) == [0, 1, 1, 2, 3, 3, 3, 4]


def test_fractions_are_rounded_anew_in_each_pass():
    elements = [(i, [1]) for i in range(10)]
    passes = 200
    found = repeated(elements, [1, 2.3], passes)
    counts = np.bincount(found)
    # 200 draws of 2 or 3 with mean 2.3: deviation sqrt(200 * 0.21) = 6.5.
    np.testing.assert_allclose(counts, 2.3 * passes, atol=4 * 6.5)
    assert found == repeated(elements, [1, 2.3], passes)
    assert found != repeated(elements, [1, 2.3], passes, seed=1)
    one, two = repeated(elements, [1, 2.3], 1), repeated(elements, [1, 2.3], 2)
    assert two[: len(one)] == one and two[len(one) :] != one


FACTORS = np.array([1, 1, 3, 1], np.float32)


def numbers_of(pattern, batches, **options):
    def targets(sample):
        return {}, {"number": tf.strings.to_number(sample.image_id, tf.int32)}

    settings = dict(
        input_path=pattern,
        thing_ids=(1, 2),
        network_size=(6, 8),
        normalization=pipeline.Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
        augmentation=pipeline.Augmentation(),
        target_generator=targets,
        batch_size=11,
        shuffle_buffer_size=30,
        factors=FACTORS,
        seed=5,
    )
    dataset = pipeline.build_training_dataset(**{**settings, **options})
    return [batch["number"].tolist() for _, batch in dataset.take(batches).as_numpy_iterator()]


@pytest.mark.parametrize("options", [{}, {"cache": True}, {"max_bad_records": 1}])
def test_a_pass_of_the_pipeline(uneven_records, options):
    # Image 7 alone has category 2: three times in a pass of 22 images, the others once.
    first = np.bincount(sum(numbers_of(uneven_records, 2, **options), []), minlength=20)
    np.testing.assert_array_equal(first, [3 if i == 7 else 1 for i in range(20)])


def assert_about(counts, passes):
    """Without a seed images overtake each other, those of the next pass too."""
    expected = [3 * passes if i == 7 else passes for i in range(20)]
    np.testing.assert_allclose(counts, expected, atol=3)


def test_passes_without_a_seed(uneven_records):
    found = numbers_of(uneven_records, 20, seed=None)
    assert_about(np.bincount(sum(found, []), minlength=20), passes=10)


def test_two_workers_together_are_one(uneven_records):
    whole = numbers_of(uneven_records, 4, batch_size=4)
    assert whole == numbers_of(uneven_records, 4, batch_size=4)
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, 2)
        part = numbers_of(uneven_records, 4, batch_size=2, input_context=context)
        assert part == [batch[2 * worker : 2 * worker + 2] for batch in whole]


def test_without_a_seed_workers_share_the_passes(uneven_records):
    seen = []
    for worker in range(2):  # A file each; image 7 is in the first.
        context = tf.distribute.InputContext(2, worker, 2)
        batch = 12 if worker == 0 else 10
        found = numbers_of(uneven_records, 10, batch_size=batch, seed=None, input_context=context)
        seen += sum(found, [])
    assert_about(np.bincount(seen, minlength=20), passes=10)
