import itertools

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets import converter, record, rle, shapes_writer
from panoptic_tf.datasets.size_limit import SizeLimit
from panoptic_tf.inputs import instances, pipeline
from panoptic_tf.structures import GroundTruth

THING_IDS = (1, 2)
SIZE = (24, 32)


def targets(sample):
    """Targets that keep what a test looks at."""
    labels = {
        "category_mask": sample.category_mask,
        "instance_mask": sample.instance_mask,
        "crowd_mask": sample.crowd_mask,
        "number": tf.strings.to_number(sample.image_id, tf.int32),
    }
    return {"extra": tf.reduce_max(sample.instance_mask)}, labels


def training(input_path, **options):
    settings = dict(
        input_path=input_path,
        thing_ids=THING_IDS,
        network_size=SIZE,
        normalization=pipeline.Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
        augmentation=pipeline.Augmentation(),
        target_generator=targets,
        batch_size=3,
        shuffle_buffer_size=5,
    )
    return pipeline.build_training_dataset(**{**settings, **options})


def evaluation(input_path, **options):
    settings = dict(
        input_path=input_path,
        thing_ids=THING_IDS,
        network_size=SIZE,
        normalization=pipeline.Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
        batch_size=5,
    )
    return pipeline.build_evaluation_dataset(**{**settings, **options})


def take(dataset, batches):
    return [(f, la) for f, la in dataset.take(batches).as_numpy_iterator()]


def numbers(batches):
    return np.concatenate([labels["number"] for _, labels in batches]).tolist()


def evaluated_numbers(dataset):
    return [int(i) for _, labels in dataset.as_numpy_iterator() for i in labels["image_id"]]


STRONG = pipeline.Augmentation(
    scale_min=0.5,
    scale_max=2.0,
    flip_horizontally=True,
    flip_vertically=True,
    brightness=0.1,
    contrast=0.1,
)


@pytest.mark.parametrize("cache", [False, True])
def test_a_seed_repeats_order_and_augmentation(twelve_records, cache):
    first, second = (
        take(training(twelve_records, seed=7, augmentation=STRONG, cache=cache), 9) for _ in "ab"
    )
    assert numbers(first) == numbers(second)
    for (fa, la), (fb, lb) in zip(first, second):
        for a, b in ((fa, fb), (la, lb)):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
    other = take(training(twelve_records, seed=8, augmentation=STRONG, cache=cache), 9)
    assert numbers(first) != numbers(other)


def test_every_pass_sees_every_image_in_another_way(twelve_records):
    for cache in (False, True):
        batches = take(training(twelve_records, seed=1, augmentation=STRONG, cache=cache), 8)
        seen = numbers(batches)
        assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(1, 13))
        assert seen[:12] != seen[12:]
        by_number = {}
        for features, labels in batches:
            for info, number in zip(features["image_info"], labels["number"]):
                by_number.setdefault(int(number), []).append(info)
        same = [np.array_equal(*infos) for infos in by_number.values()]
        assert not all(same)


def test_without_a_seed_two_runs_differ(twelve_records):
    runs = [take(training(twelve_records, augmentation=STRONG), 4) for _ in range(2)]
    infos = [np.concatenate([f["image_info"] for f, _ in run]) for run in runs]
    assert not np.array_equal(*infos)


def test_static_shapes_of_a_training_batch(twelve_records):
    features, labels = training(twelve_records, augmentation=STRONG).element_spec
    assert features["image"] == tf.TensorSpec([3, *SIZE, 3], tf.float32)
    assert features["image_info"] == tf.TensorSpec([3, 4, 2], tf.float32)
    assert features["extra"].shape == (3,)
    assert labels["category_mask"] == tf.TensorSpec([3, *SIZE], tf.int32)
    assert labels["crowd_mask"] == tf.TensorSpec([3, *SIZE], tf.bool)


def test_image_and_masks_belong_together(twelve_records):
    # Every image of the records is filled with its number.
    for features, labels in take(training(twelve_records, seed=0), 4):
        for image, number in zip(features["image"], labels["number"]):
            assert set(np.unique(np.round(image, 3))) <= {0.0, float(number)}
    for features, labels in evaluation(twelve_records).as_numpy_iterator():
        for image, name in zip(features["image"], labels["image_id"]):
            assert set(np.unique(np.round(image, 3))) <= {0.0, float(int(name))}


def test_evaluation_labels_are_in_their_own_frame(twelve_records):
    seen = []
    for features, labels in evaluation(twelve_records).as_numpy_iterator():
        largest = labels["image_size"].max(axis=0)
        assert labels["category_mask"].shape[1:] == tuple(largest)
        for i, name in enumerate(labels["image_id"]):
            n = int(name)
            height, width = 20 + n, 31 - n
            np.testing.assert_array_equal(labels["image_size"][i], [height, width])
            np.testing.assert_array_equal(features["image_info"][i, 0], [height, width])
            category = np.zeros(largest, np.int32)
            category[height // 2 : height, :width] = 3
            category[height // 4 : height // 2 + 1, : width // 2] = 1
            category[:2, width - 3 : width] = 2
            np.testing.assert_array_equal(labels["category_mask"][i], category)
            # Instance ids are positive, one per thing, the crowd's among them; none on stuff.
            instance = labels["instance_mask"][i]
            np.testing.assert_array_equal(instance > 0, (category == 1) | (category == 2))
            ones = [np.unique(instance[category == c]).tolist() for c in (1, 2)]
            assert all(len(o) == 1 for o in ones) and ones[0] != ones[1]
            np.testing.assert_array_equal(labels["crowd_mask"][i], category == 2)
            seen.append(n)
    assert seen == list(range(1, 13))


def test_evaluation_leaves_large_images_out_and_counts_them(twelve_records, caplog):
    limit = SizeLimit(max_pixels=21 * 30)
    dataset = evaluation(twelve_records, size_limit=limit)
    for _ in range(2):
        assert evaluated_numbers(dataset) == [1, 10, 11, 12]
        caplog.clear()
        assert limit.report(twelve_records) == 8
        (message,) = caplog.messages
        assert "8 images have more than 630 pixels" in message and "--max_pixels" in message
    assert limit.report(twelve_records) == 0


@pytest.mark.parametrize("workers", [2, 5])
@pytest.mark.parametrize("build", [training, evaluation])
def test_workers_share_the_records(twelve_records, workers, build):
    # 5 workers are more than there are files.
    shares = []
    for worker in range(workers):
        context = tf.distribute.InputContext(
            num_input_pipelines=workers,
            input_pipeline_id=worker,
            num_replicas_in_sync=workers,
        )
        dataset = build(twelve_records, input_context=context, batch_size=1)
        if build is training:
            # One pass of this worker's share, twice as long as any share can be. In order: else the
            # last of one pass and the first of the next may change places.
            in_order = tf.data.Options()
            in_order.deterministic = True
            seen = numbers(take(dataset.with_options(in_order), 24))
            share = set(seen)
            assert sorted(seen[: len(share)]) == sorted(share)
        else:
            share = evaluated_numbers(dataset)
            assert len(share) == len(set(share))
        shares.append(set(share))
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(shares, 2))
    assert set.union(*shares) == set(range(1, 13))


@pytest.mark.parametrize("workers", [1, 2])
def test_max_examples_counts_over_all_workers(twelve_records, workers):
    seen, trained = [], set()
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, workers)
        options = dict(max_examples=5, input_context=context, batch_size=1)
        seen += evaluated_numbers(evaluation(twelve_records, **options))
        trained |= set(numbers(take(training(twelve_records, **options), 15)))
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert trained == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("build", [training, evaluation])
def test_no_file(tmp_path, build):
    pattern = str(tmp_path / "nothing-*")
    with pytest.raises(ValueError, match="no file matches input_path '.*nothing-\\*'"):
        build(pattern)


def test_images_without_segments_or_all_void(tmp_path, encode_record, write_records):
    # One image without a segment, one whose only segment has no pixel, one of a single pixel.
    image = np.full((9, 7, 3), 50, np.uint8)
    void = np.zeros((9, 7))
    examples = [
        encode_record(1, image, void, []),
        encode_record(2, image, void, [10]),
        encode_record(3, image[:1, :1], void[:1, :1] + 1, [20]),
    ]
    path = tmp_path / "odd-00000-of-00001.tfrecord"
    write_records(path, examples)
    for _, labels in take(training(str(path), seed=0, augmentation=STRONG), 3):
        for mask, instance, number in zip(
            labels["category_mask"], labels["instance_mask"], labels["number"]
        ):
            assert set(np.unique(mask)) <= ({0, 2} if number == 3 else {0})
            assert (instance > 0).any() == (number == 3)
    (batch,) = evaluation(str(path)).as_numpy_iterator()
    np.testing.assert_array_equal(batch[1]["image_size"], [[9, 7], [9, 7], [1, 1]])
    assert batch[1]["category_mask"].sum() == 2


@pytest.mark.parametrize("things", [(), (1, 2, 3)])
def test_no_thing_or_no_stuff_category(twelve_records, things):
    (_, labels), *_ = evaluation(twelve_records, thing_ids=things).as_numpy_iterator()
    np.testing.assert_array_equal(
        labels["instance_mask"] > 0, (labels["category_mask"] > 0) & bool(things)
    )


def test_a_record_cut_in_half_is_an_error(tmp_path, draw_record, write_records):
    path = tmp_path / "cut.tfrecord"
    write_records(path, [draw_record(i, 20, 20) for i in (1, 2)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(ValueError, match="cut.tfrecord ends within record 1"):
        evaluation(str(path))


def test_of_converted_shapes(tmp_path):
    split = str(tmp_path / "val")
    json_path = shapes_writer.write_split(split, seed=1, num_images=3, size=48, show_progress=False)
    converter.convert_dataset(
        "coco_panoptic",
        panoptic_json=json_path,
        panoptic_dir=f"{split}/panoptic",
        image_dir=f"{split}/images",
        output_dir=str(tmp_path / "records"),
        split="val",
        num_shards=2,
        num_processes=1,
    )
    pattern = str(tmp_path / "records" / "val-*")
    things = tuple(range(1, 7))
    seen = {}
    for features, labels in evaluation(
        pattern, thing_ids=things, network_size=(48, 48), batch_size=2
    ).as_numpy_iterator():
        for i, name in enumerate(labels["image_id"]):
            seen[int(name)] = {k: v[i] for k, v in {**features, **labels}.items()}
    assert sorted(seen) == [0, 1, 2]
    from panoptic_tf.datasets import shapes

    for number, ours in seen.items():
        drawn = shapes.generate_image(1, number, 48)
        np.testing.assert_allclose(ours["image"], drawn.image, atol=1e-3)
        by_id = {s["id"]: s for s in drawn.segments}
        for i in np.unique(drawn.id_map):
            mask = drawn.id_map == i
            segment = by_id.get(i, {"category_id": 0, "iscrowd": 0})
            assert (ours["category_mask"][mask] == segment["category_id"]).all()
            assert (ours["crowd_mask"][mask] == bool(segment["iscrowd"])).all()
            (instance,) = np.unique(ours["instance_mask"][mask])
            assert (instance > 0) == (segment["category_id"] in things)


def test_sample_from_example_is_in_its_own_frame(draw_record):
    example = record.decode_example(tf.constant(draw_record(9, 20, 30)))
    sample = pipeline.sample_from_example(example, THING_IDS)
    assert sample.image.dtype == tf.float32 and sample.image.shape == (20, 30, 3)
    assert sample.category_mask.shape == (20, 30)
    assert (sample.image.numpy() == 9).all()


# Instances that may overlap


def own_instances(height, width):
    """The upper half is one instance, the left half another of another category, a crowd."""
    masks = np.zeros([2, height, width], np.uint8)
    masks[0, : height // 2] = 1
    masks[1, :, : width // 2] = 1
    return masks, [
        record.Instance(rle.encode_rle(mask), category=1 + i, is_crowd=i == 1)
        for i, mask in enumerate(masks)
    ]


@pytest.fixture
def some_records(tmp_path, encode_record, write_records):
    """Images 1 and 4 with instances of their own, 2 with an empty list, 3 with those of its map."""
    rows = np.zeros((24, 32))
    rows[4:10, 2:20], rows[15:] = 1, 2
    own = own_instances(24, 32)[1]
    write_records(
        tmp_path / "own-00000-of-00001.tfrecord",
        [
            encode_record(
                number,
                np.full((24, 32, 3), number, np.uint8),
                rows,
                [20, 30],
                crowds=(0,),
                instances={1: own, 2: [], 4: own[:1]}.get(number),
            )
            for number in (1, 2, 3, 4)
        ],
    )
    return str(tmp_path / "own-*")


def padded_targets(sample):
    """Targets of at most three instances; the first of them is added to the picture's red."""
    number = tf.strings.to_number(sample.image_id, tf.int32)
    masks, categories, is_crowd = sample.instances
    count = tf.shape(masks)[0]
    labels = {
        "number": number,
        "count": count,
        "masks": tf.pad(masks, [[0, 3 - count], [0, 0], [0, 0]]),
        "categories": tf.pad(categories, [[0, 3 - count]]),
        "is_crowd": tf.pad(is_crowd, [[0, 3 - count]]),
        "instance_mask": sample.instance_mask,
        "seed": sample.seed,
    }
    labels["masks"].set_shape([3, *SIZE])
    return {}, labels


@pytest.mark.parametrize("cache", [False, True])
def test_records_with_and_without_instances_in_one_batch(some_records, cache):
    dataset = training(
        some_records,
        target_generator=padded_targets,
        with_instances=True,
        batch_size=4,
        cache=cache,
        seed=3,
    )
    ((_, labels),) = take(dataset, 1)
    by_number = {n: {k: v[i] for k, v in labels.items()} for i, n in enumerate(labels["number"])}
    masks, _ = own_instances(*SIZE)
    np.testing.assert_array_equal(by_number[1]["masks"][:2], masks)
    assert by_number[1]["categories"].tolist() == [1, 2, 0]
    assert by_number[1]["is_crowd"].tolist() == [False, True, False]
    assert [int(by_number[n]["count"]) for n in (1, 2, 3, 4)] == [2, 0, 1, 1]
    np.testing.assert_array_equal(by_number[3]["masks"][0], by_number[3]["instance_mask"] > 0)
    assert by_number[3]["masks"][0].sum() == 6 * 18
    assert by_number[3]["categories"].tolist() == [2, 0, 0]
    assert by_number[3]["is_crowd"].tolist() == [True, False, False]


def test_instances_move_with_the_image(tmp_path, encode_record, write_records):
    # The instance is painted into the picture.
    (mask, _), (instance, _) = own_instances(40, 60)
    image = np.repeat(255 * mask[..., np.newaxis], 3, axis=-1)
    example = encode_record(1, image, np.zeros((40, 60)), [], instances=[instance])
    write_records(tmp_path / "one.tfrecord", [example])
    augmentation = pipeline.Augmentation(
        scale_min=0.5, scale_max=2.0, flip_horizontally=True, flip_vertically=True
    )
    dataset = training(
        str(tmp_path / "one.tfrecord"),
        target_generator=padded_targets,
        with_instances=True,
        augmentation=augmentation,
        batch_size=12,
        seed=1,
    )
    ((features, labels),) = take(dataset, 1)
    for picture, masks in zip(features["image"][..., 0], labels["masks"]):
        assert masks[0][picture > 254.9].all() and not masks[0][picture < 0.1].any()
    assert 0 < labels["masks"].mean() < 0.5


def test_every_element_has_a_seed_of_its_own(twelve_records):
    def seeds(**options):
        batches = take(training(twelve_records, target_generator=seed_of, **options), 8)
        return [tuple(seed) for _, labels in batches for seed in labels["seed"]]

    def seed_of(sample):
        assert sample.seed.dtype == tf.int64 and sample.seed.shape == (2,)
        return {}, {"seed": sample.seed}

    first = seeds(seed=5)
    assert len(set(first)) == len(first) == 24
    assert seeds(seed=5) == first
    assert not set(seeds(seed=6)) & set(first)
    assert not set(seeds()) & set(first)


def test_masks_are_decoded_only_where_somebody_wants_them(some_records, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(record, "decode_instance_masks", fail)
    monkeypatch.setattr(instances, "instances_of_id_map", fail)
    take(training(some_records, seed=0), 2)
    list(evaluation(some_records))
    list(evaluation(some_records, with_instances=True))
    with pytest.raises(AssertionError, match="decoded"):
        training(some_records, with_instances=True)


def test_evaluation_hands_instances_on_as_they_are_stored(some_records):
    (_, without), *_ = evaluation(some_records).as_numpy_iterator()
    assert not set(GroundTruth.INSTANCE_KEYS) & set(without)
    dataset = evaluation(some_records, with_instances=True, batch_size=3)
    (_, labels), (_, rest) = dataset.as_numpy_iterator()
    own = own_instances(24, 32)[1]
    assert labels["num_instances"].tolist() == [2, 0, -1] and rest["num_instances"] == [1]
    assert labels["instance_rles"].tolist() == [[i.rle for i in own], [b"", b""], [b"", b""]]
    assert labels["instance_categories"].tolist() == [[1, 2], [0, 0], [0, 0]]
    assert labels["instance_is_crowd"].tolist() == [[False, True], [False] * 2, [False] * 2]
    specs = dataset.element_spec[1]
    assert specs["instance_categories"] == tf.TensorSpec([None, None], tf.int32)
    assert specs["num_instances"] == tf.TensorSpec([None], tf.int32)


@pytest.mark.parametrize("number, count", [(1, 2), (2, 0), (3, 1)])
def test_sample_with_instances(some_records, number, count):
    records = tf.data.TFRecordDataset(tf.io.gfile.glob(some_records)).skip(number - 1)
    example = record.decode_example(next(iter(records)))
    sample = pipeline.sample_from_example(example, THING_IDS, with_instances=True)
    assert sample.instances.masks.shape == (count, 24, 32)
    assert sample.instances.categories.shape == sample.instances.is_crowd.shape == (count,)
    assert pipeline.sample_from_example(example, THING_IDS).instances is None
