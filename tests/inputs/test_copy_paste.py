"""Copy-paste against plain loops: every pixel, every map, every list of instances."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_tf.inputs import copy_paste, pipeline
from panoptic_tf.structures import ImageInfo, InstanceAnnotations, PanopticSample

SIZE = (5, 6)
THING_IDS = (1, 2)
CATEGORIES = np.array([0, 1, 2, 1, 3, 2], np.int32)  # of segment rows 0..5; 5 is a crowd
CROWD = 5


def make_sample(ids, *, masks=None, categories=(), crowds=(), image=0.0, valid=SIZE):
    """A sample of an id map of segment rows, whose pixels lie in the top-left part `valid`."""
    ids = np.array(ids, np.int32)
    ids[valid[0] :], ids[:, valid[1] :] = 0, 0
    info = np.zeros([4, 2], np.float32)
    info[ImageInfo.ORIGINAL_SIZE] = valid
    info[ImageInfo.NETWORK_SIZE] = ids.shape
    info[ImageInfo.SCALE] = 1
    is_thing = np.isin(CATEGORIES[ids], THING_IDS)
    annotations = None
    if masks is not None:
        masks = np.array(masks, np.uint8).reshape([-1, *ids.shape])
        masks[:, valid[0] :], masks[:, :, valid[1] :] = 0, 0
        annotations = InstanceAnnotations(
            tf.constant(masks),
            tf.constant(categories, tf.int32, [len(masks)]),
            tf.constant(crowds, tf.bool, [len(masks)]),
        )
    return PanopticSample(
        image=tf.constant(np.full([*ids.shape, 3], image) + np.arange(3), tf.float32),
        image_info=tf.constant(info),
        category_mask=tf.constant(CATEGORIES[ids]),
        instance_mask=tf.constant(np.where(is_thing, ids, 0).astype(np.int32)),
        crowd_mask=tf.constant(ids == CROWD),
        image_id=tf.constant("1"),
        instances=annotations,
    )


def paste_with_loops(sample, source, rows, categories):
    """What `lay_over` says, pixel by pixel."""
    image, category, instance, crowd = (
        np.array(x)
        for x in (
            sample.image,
            sample.category_mask,
            sample.instance_mask,
            sample.crowd_mask,
        )
    )
    largest = instance.max()
    has_lists = sample.instances is not None
    kept = np.array(sample.instances.masks) if has_lists else None
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            front = None
            for number, row in enumerate(rows):
                if has_lists:
                    is_here = source.instances.masks[row, y, x] > 0
                else:
                    is_here = source.instance_mask[y, x] == row + 1
                if is_here:
                    front = number
            if front is None:
                continue
            image[y, x] = source.image[y, x]
            category[y, x] = categories[front]
            instance[y, x] = largest + 1 + front
            crowd[y, x] = False
            if has_lists:
                kept[:, y, x] = 0
    if not has_lists:
        return image, category, instance, crowd
    seen = [i for i in range(len(kept)) if kept[i].any()]
    return (
        image,
        category,
        instance,
        crowd,
        np.concatenate([kept[seen], np.array(source.instances.masks)[list(rows)]]),
        np.concatenate([np.array(sample.instances.categories)[seen], categories]),
        np.concatenate([np.array(sample.instances.is_crowd)[seen], np.zeros(len(rows), bool)]),
    )


def assert_same(sample, expected):
    found = (sample.image, sample.category_mask, sample.instance_mask, sample.crowd_mask)
    found += tuple(sample.instances or ())
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        np.testing.assert_array_equal(ours, theirs)


def id_maps():
    rows = st.lists(st.integers(0, 5), min_size=SIZE[1], max_size=SIZE[1])
    return st.lists(rows, min_size=SIZE[0], max_size=SIZE[0])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), with_lists=st.booleans())
def test_equals_a_paste_with_loops(data, with_lists):
    samples = []
    for image in (10.0, 200.0):
        lists = {}
        if with_lists:
            count = data.draw(st.integers(0, 4))
            bits = data.draw(st.integers(0, 2 ** (count * SIZE[0] * SIZE[1]) - 1))
            text = np.array(list(bin(bits)[2:].zfill(count * SIZE[0] * SIZE[1])), np.uint8)
            lists = {
                "masks": text[: count * SIZE[0] * SIZE[1]],
                "categories": [1 + i % 2 for i in range(count)],
                "crowds": [i == 3 for i in range(count)],
            }
        samples.append(make_sample(data.draw(id_maps()), image=image, **lists))
    sample, source = samples
    if with_lists:
        possible = range(len(source.instances.categories))
    else:
        possible = sorted(set(np.unique(source.instance_mask)) - {0, CROWD})
        possible = [int(i) - 1 for i in possible]
    rows = data.draw(st.permutations(possible))[: data.draw(st.integers(0, 3))]
    if with_lists:
        categories = np.array(source.instances.categories)[rows].astype(np.int32)
    else:
        categories = CATEGORIES[np.array(rows, int) + 1]
    result = copy_paste.lay_over(
        sample, source, tf.constant(rows, tf.int32), tf.constant(categories, tf.int32)
    )
    assert_same(result, paste_with_loops(sample, source, rows, categories))


def test_drawn():
    # The source's thing 1 (category 1) hides thing 2 of the sample and a part of its crowd.
    sample = make_sample([[2, 2, 4, 4, 5, 5]] * 2 + [[4] * 6] * 3)
    source = make_sample([[1, 1, 1, 1, 1, 0]] * 2 + [[4] * 6] * 3, image=9.0)
    result = copy_paste.paste(
        sample, source, thing_ids=THING_IDS, max_instances=5, seed=tf.constant([1, 2])
    )
    top = [6, 6, 6, 6, 6, 5]  # The crowd has id 5, so what is pasted gets 6.
    np.testing.assert_array_equal(result.instance_mask, [top] * 2 + [[0] * 6] * 3)
    np.testing.assert_array_equal(result.category_mask, [[1, 1, 1, 1, 1, 2]] * 2 + [[3] * 6] * 3)
    np.testing.assert_array_equal(result.crowd_mask[0], [False] * 5 + [True])
    np.testing.assert_array_equal(result.image[0, :, 0], [9, 9, 9, 9, 9, 0])


@pytest.mark.parametrize("with_lists", [False, True])
def test_nothing_is_pasted_into_the_padding(with_lists):
    lists = {"masks": [], "categories": [], "crowds": []} if with_lists else {}
    sample = make_sample([[4] * 6] * 5, valid=(3, 4), **lists)
    if with_lists:
        lists = {"masks": np.ones([1, *SIZE]), "categories": [2], "crowds": [False]}
    source = make_sample([[2] * 6] * 5, image=7.0, **lists)
    result = copy_paste.paste(
        sample, source, thing_ids=THING_IDS, max_instances=1, seed=tf.constant([0, 0])
    )
    expected = np.zeros(SIZE, np.int32)
    expected[:3, :4] = 2
    np.testing.assert_array_equal(result.category_mask, expected)
    np.testing.assert_array_equal(result.image[..., 0], np.where(expected, 7.0, 0.0))
    if with_lists:
        np.testing.assert_array_equal(result.instances.masks, expected[np.newaxis] > 0)


def test_which_and_how_many_are_pasted():
    # Things 1, 2, 3 with 4, 2 and 1 pixels; stuff (4) and the crowd (5) never.
    ids = np.zeros(SIZE, np.int32)
    ids[0, :4], ids[1, :2], ids[2, 0], ids[3], ids[4] = 1, 2, 3, 4, 5
    sample, source = make_sample(np.full(SIZE, 4)), make_sample(ids, image=3.0)
    counts, seen = [], []
    for seed in range(120):
        result = copy_paste.paste(
            sample, source, thing_ids=THING_IDS, max_instances=2, seed=tf.constant([seed, 7])
        )
        pasted = np.array(result.instance_mask) > 0
        rows = sorted(set(ids[pasted]))
        assert set(rows) <= {1, 2, 3}
        np.testing.assert_array_equal(pasted, np.isin(ids, rows))
        counts.append(len(rows))
        seen += rows
    assert set(counts) == {1, 2} and 40 <= counts.count(1) <= 80
    assert min(seen.count(row) for row in (1, 2, 3)) > 40


@pytest.mark.parametrize("with_lists", [False, True])
def test_a_source_without_things_changes_nothing(with_lists):
    lists = {"masks": np.eye(30)[:2], "categories": [1, 2], "crowds": [False, True]}
    sample = make_sample([[1, 2, 3, 4, 5, 0]] * 5, **(lists if with_lists else {}))
    if with_lists:
        lists = {"masks": np.ones([1, *SIZE]), "categories": [1], "crowds": [True]}
    source = make_sample([[4, 4, 5, 5, 0, 0]] * 5, image=9.0, **(lists if with_lists else {}))
    result = copy_paste.paste(
        sample, source, thing_ids=THING_IDS, max_instances=3, seed=tf.constant([1, 2])
    )
    expected = (sample.image, sample.category_mask, sample.instance_mask, sample.crowd_mask)
    assert_same(result, expected + tuple(sample.instances or ()))


def test_the_next_element_beside_each():
    pairs = copy_paste.with_next(tf.data.Dataset.range(4).map(lambda i: (i, 10 * i)))
    assert list(pairs.as_numpy_iterator()) == [(0, 0, 10), (1, 10, 20), (2, 20, 30)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"probability": 1.5}, "copy_paste.probability must be in 0..1, got 1.5"),
        ({"max_instances": 0}, "copy_paste.max_instances must be in 1..255, got 0"),
        ({"max_instances": 256}, "copy_paste.max_instances must be in 1..255, got 256"),
    ],
)
def test_wrong_values(values, words):
    with pytest.raises(ValueError, match=words):
        pipeline.Augmentation(copy_paste=values)


def _targets(sample):
    labels = {
        "category_mask": sample.category_mask,
        "instance_mask": sample.instance_mask,
        "number": tf.strings.to_number(sample.image_id, tf.int32),
    }
    if sample.instances is not None:
        labels["covered"] = tf.reduce_max(sample.instances.masks, axis=0)
    return {}, labels


def _batches(path, count, *, probability=1.0, **options):
    settings = dict(
        input_path=path,
        thing_ids=THING_IDS,
        network_size=(24, 32),
        normalization=pipeline.Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
        augmentation=pipeline.Augmentation(
            flip_horizontally=True, copy_paste={"probability": probability}
        ),
        target_generator=_targets,
        batch_size=4,
        shuffle_buffer_size=5,
        seed=3,
    )
    dataset = pipeline.build_training_dataset(**{**settings, **options})
    return list(dataset.take(count).as_numpy_iterator())


def _flat(batches):
    return [np.asarray(x) for x in tf.nest.flatten(batches)]


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "with_instances"), [(False, True), (True, False)])
def test_in_the_pipeline(twelve_records, cache, with_instances):
    options = {"cache": cache, "with_instances": with_instances}
    batches = _batches(twelve_records, 6, **options)
    for ours, theirs in zip(_flat(batches), _flat(_batches(twelve_records, 6, **options))):
        np.testing.assert_array_equal(ours, theirs)
    plain = _batches(twelve_records, 6, probability=0.0, **options)
    seen, pasted = [], 0
    for (features, labels), (own_features, own) in zip(batches, plain):
        np.testing.assert_array_equal(labels["number"], own["number"])
        seen += labels["number"].tolist()
        # Every image is filled with its number: a pixel of another number is a pasted thing.
        for i, number in enumerate(labels["number"]):
            image = np.round(features["image"][i, ..., 0]).astype(int)
            is_other = (image != number) & (image != 0)
            pasted += is_other.any()
            assert (labels["category_mask"][i][is_other] == 1).all()
            assert (labels["instance_mask"][i][is_other] > own["instance_mask"][i].max()).all()
            for ours, theirs in (
                (features["image"], own_features["image"]),
                (labels["category_mask"], own["category_mask"]),
                (labels["instance_mask"], own["instance_mask"]),
            ):
                np.testing.assert_array_equal(ours[i][~is_other], theirs[i][~is_other])
            if with_instances:
                on_thing = labels["instance_mask"][i] > 0
                np.testing.assert_array_equal(on_thing, labels["covered"][i] > 0)
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(1, 13))
    assert pasted > 15


@pytest.mark.slow
def test_two_workers_together_make_the_batches_of_one(twelve_records):
    whole = _batches(twelve_records, 3, batch_size=4)
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, 2)
        part = _batches(twelve_records, 3, batch_size=2, input_context=context)
        rows = slice(2 * worker, 2 * worker + 2)
        for (features, labels), (own_features, own_labels) in zip(whole, part):
            np.testing.assert_array_equal(features["image"][rows], own_features["image"])
            np.testing.assert_array_equal(
                labels["category_mask"][rows], own_labels["category_mask"]
            )


def test_a_bad_record_is_skipped_and_not_pasted(tmp_path, draw_record, write_records):
    records = [draw_record(n, 24, 32) for n in (1, 2, 3)]
    write_records(tmp_path / "train-00000-of-00001.tfrecord", [*records, b"nonsense"])
    path = str(tmp_path / "train-*")
    batches = _batches(path, 6, max_bad_records=1)
    numbers = np.concatenate([labels["number"] for _, labels in batches])
    images = np.round(np.concatenate([features["image"] for features, _ in batches]))
    assert set(numbers) == {1, 2, 3}
    assert set(np.unique(images)) <= {0, 1, 2, 3}
    pasted = [set(np.unique(image)) - {0, n} for n, image in zip(numbers, images)]
    assert set().union(*pasted) == {1, 2, 3}


@pytest.mark.parametrize("with_instances", [False, True])
def test_nothing_is_pasted_from_a_bad_record(tmp_path, draw_record, write_records, with_instances):
    records = [draw_record(1, 24, 32), b"nonsense"]  # Without shuffling the next is always bad.
    write_records(tmp_path / "train-00000-of-00001.tfrecord", records)
    settings = dict(max_bad_records=1, shuffle_buffer_size=1, with_instances=with_instances)
    found, expected = (
        _batches(str(tmp_path / "train-*"), 2, probability=probability, **settings)
        for probability in (1.0, 0.0)
    )
    for ours, theirs in zip(_flat(found), _flat(expected)):
        np.testing.assert_array_equal(ours, theirs)


def test_a_data_set_without_things(twelve_records):
    with pytest.raises(ValueError, match="copy_paste pastes things, and no category"):
        _batches(twelve_records, 1, thing_ids=())


def test_off_adds_no_operator(twelve_records):
    def operators(**options):
        seen = {}

        def targets(sample):
            seen["count"] = len(tf.compat.v1.get_default_graph().get_operations())
            return _targets(sample)

        _batches(twelve_records, 0, target_generator=targets, **options)
        return seen["count"]

    assert (
        operators(probability=0.0)
        == operators(augmentation=pipeline.Augmentation(flip_horizontally=True))
        < operators(probability=0.5)
    )
