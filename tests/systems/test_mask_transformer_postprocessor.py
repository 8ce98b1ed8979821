import functools

import builtin_tflite
import numpy as np
import pytest
import tensorflow as tf
from segment_tables import pixels_of, table

from panoptic_tf.inputs import geometry
from panoptic_tf.ops import forms, rescale
from panoptic_tf.structures import Prediction
from panoptic_tf.systems.mask_transformer import postprocessor

NETWORK_SIZE = (64, 96)
OUTPUT_SIZE = (70, 90)
THING_IDS, NUM_CATEGORIES = (1, 3, 4), 6
QUERIES, MAP_SIZE = 12, (16, 24)
MASK_KEYS = (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK, Prediction.DETECTION_BIT_MASKS)


def draw(seed=0, batch=1, queries=QUERIES):
    """Blobs of which half are certain of a category, some nearly the copies of others."""
    rng = np.random.default_rng(seed)
    classes = rng.normal(0, 1, (batch, queries, NUM_CATEGORIES + 1))
    y, x = np.mgrid[: MAP_SIZE[0], : MAP_SIZE[1]]
    masks = np.empty((batch, queries, *y.shape))
    for b, q in np.ndindex(batch, queries):
        certain = rng.integers(NUM_CATEGORIES) if rng.random() < 0.7 else NUM_CATEGORIES
        classes[b, q, certain] += rng.choice([3.0, 8.0], p=[0.3, 0.7])
        center, radii = rng.uniform(0, y.shape), rng.uniform(1, 9, 2)
        distance = np.hypot((y - center[0]) / radii[0], (x - center[1]) / radii[1])
        masks[b, q] = 8 * (1 - distance)
        if q and rng.random() < 0.2:
            masks[b, q] = masks[b, rng.integers(q)] - 0.5
        masks[b, q] += rng.normal(0, 0.2, y.shape)
    return classes.astype(np.float32), masks.clip(-12, 12).astype(np.float32)


def image_info(*sizes):
    return tf.stack([geometry.fit_and_pad(tf.zeros([*s, 3]), NETWORK_SIZE)[1] for s in sizes])


def build(**options):
    """A function of class logits, mask logits and image_info."""
    layer = postprocessor.MaskTransformerPostProcessor(
        **{
            "output_size": OUTPUT_SIZE,
            "thing_ids": THING_IDS,
            "num_categories": NUM_CATEGORIES,
            **options,
        }
    )

    def run(class_logits, mask_logits, info):
        return layer({"class_logits": class_logits, "mask_logits": mask_logits}, info)

    return run


@functools.cache
def compiled(num_queries, **options):
    shapes = (num_queries, NUM_CATEGORIES + 1), (num_queries, *MAP_SIZE), (4, 2)
    signature = [tf.TensorSpec([None, *shape], tf.float32) for shape in shapes]
    return tf.function(build(**options), input_signature=signature, autograph=False)


def predict(class_logits, mask_logits, info, **options):
    run = compiled(class_logits.shape[1], **options)
    found = run(tf.constant(class_logits), tf.constant(mask_logits), tf.constant(info))
    return {key: value.numpy() for key, value in found.items()}


def published_masks(mask_logits, info, output_size=OUTPUT_SIZE):
    """Probabilities at the size of one image, of mask logits [Q, h4, w4]: float64 [Q, H', W'].

    By `tf.image.resize` to the network's pixels, cut to the image, and again to those of the image.
    """
    size = rescale.size_in_output(info[np.newaxis], output_size)[0]
    scaled = tf.cast(tf.round(info[0] * info[2]), tf.int32)
    maps = tf.image.resize(np.moveaxis(mask_logits, 0, -1), tf.cast(info[1], tf.int32))
    maps = tf.image.resize(maps[: scaled[0], : scaled[1]], size).numpy()
    return 1 / (1 + np.exp(-np.moveaxis(maps, -1, 0).astype(np.float64)))


def published_merge(class_logits, masks):
    """[(category, is_thing, score, mask)] of one image: things as queries come, then stuff."""
    probabilities = tf.nn.softmax(class_logits).numpy()
    scores, labels = probabilities.max(axis=1), probabilities.argmax(axis=1)
    kept = np.flatnonzero((labels != NUM_CATEGORIES) & (scores > 0.8))
    owner = np.argmax(scores[kept, None, None] * masks[kept], axis=0)
    things, stuff = [], {}
    for k, q in enumerate(kept):
        inside = masks[q] >= 0.5
        painted = inside & (owner == k)
        if not painted.any() or (owner == k).sum() / inside.sum() < 0.8:
            continue
        if labels[q] + 1 in THING_IDS:
            things.append((labels[q] + 1, True, scores[q], painted))
        else:
            stuff.setdefault(labels[q] + 1, []).append((scores[q], painted))
    for category, parts in sorted(stuff.items()):
        score = np.average([s for s, _ in parts], weights=[m.sum() for _, m in parts])
        things.append((category, False, score, np.any([m for _, m in parts], axis=0)))
    return things


def published_instances(class_logits, masks, most):
    """[(category, score, mask)] of one image by descending score."""
    probabilities = tf.nn.softmax(class_logits).numpy()[:, :-1]
    found = []
    for flat in np.argsort(-probabilities.reshape(-1), kind="stable")[:most]:
        q, channel = np.unravel_index(flat, probabilities.shape)
        inside = masks[q] > 0.5
        if channel + 1 in THING_IDS and inside.any():
            score = probabilities[q, channel] * masks[q][inside].mean()
            found.append((channel + 1, score, inside))
    return sorted(found, key=lambda instance: -instance[1])


def bits(prediction, i, k):
    """Mask of detection k of image i, bool [H, W]."""
    plane = prediction[Prediction.DETECTION_BIT_MASKS][i, ..., k // 32]
    return (plane.view(np.uint32) >> np.uint32(k % 32) & 1).astype(bool)


# As large as the network's frame, smaller, larger than it and the output, narrow.
SIZES = [NETWORK_SIZE, (30, 33), (100, 120), (20, 90)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_the_published_rule(seed):
    class_logits, mask_logits = draw(seed, len(SIZES))
    infos = image_info(*SIZES).numpy()
    found = predict(class_logits, mask_logits, infos, max_instances=20)
    for i, info in enumerate(infos):
        masks = published_masks(mask_logits[i], info)
        height, width = masks.shape[1:]
        assert found[Prediction.IMAGE_SIZE][i].tolist() == [height, width]
        assert_merged(table(found, i), published_merge(class_logits[i], masks))
        assert_instances(found, i, published_instances(class_logits[i], masks, 20))
        # The published one interpolates logits of masks, not sums of probabilities.
        probabilities = tf.nn.softmax(class_logits[i]).numpy()[:, :-1]
        published = np.einsum("qc,qhw->hwc", probabilities, masks).argmax(axis=-1) + 1
        mask = found[Prediction.SEMANTIC_MASK][i]
        assert (mask[:height, :width] == published).mean() > 0.95
        assert not mask[height:].any() and not mask[:, width:].any()


def in_output(mask):
    """The mask of an image in the output's frame."""
    whole = np.zeros(OUTPUT_SIZE, bool)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    return whole


def assert_merged(found, expected):
    assert expected
    assert [row[:2] for row in found] == [segment[:2] for segment in expected]
    for (*_, score, pixels), (*_, expected_score, mask) in zip(found, expected):
        assert len(pixels ^ pixels_of(in_output(mask))) <= 1  # a tie to rounding
        np.testing.assert_allclose(score, expected_score, atol=1e-4)


def assert_instances(prediction, i, expected):
    number = prediction[Prediction.NUM_DETECTIONS][i]
    assert number == len(expected) > 2
    scores = prediction[Prediction.DETECTION_SCORES][i]
    assert not scores[number:].any()
    np.testing.assert_allclose(scores[:number], [s for _, s, _ in expected], atol=1e-5)
    categories = prediction[Prediction.DETECTION_CATEGORIES][i]
    assert categories[:number].tolist() == [c for c, *_ in expected]
    for k, (*_, mask) in enumerate(expected):
        found = bits(prediction, i, k)
        assert (found != in_output(mask)).sum() <= 1
        y, x = np.nonzero(found)
        box = [y.min(), x.min(), y.max() + 1, x.max() + 1]
        assert prediction[Prediction.DETECTION_BOXES][i, k].tolist() == box


def recorded_prediction(recorded, **options):
    """What is predicted of the logits of a recorded case."""
    classes = recorded["class_logits"].shape[-1] - 1
    original, image = recorded["original_size"], recorded["image_size"]
    info = np.array([original, recorded["padded_size"], image / original, (0, 0)], np.float32)
    score_threshold, overlap_threshold = recorded["thresholds"].tolist()
    layer = postprocessor.MaskTransformerPostProcessor(
        output_size=tuple(original.tolist()),
        thing_ids=[c for c in range(1, classes + 1) if c - 1 not in recorded["stuff"]],
        num_categories=classes,
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        max_instances=int(recorded["max_instances"]),
        **options,
    )
    outputs = {name: tf.constant(recorded[name]) for name in ("class_logits", "mask_logits")}
    found = layer(outputs, tf.tile(info[np.newaxis], [len(recorded["class_logits"]), 1, 1]))
    return {key: value.numpy() for key, value in found.items()}


@pytest.mark.reference
@pytest.mark.parametrize("name", ["mask2former", "maskformer"])
def test_recorded_of_the_authors(golden, name):
    recorded = golden(f"mask_transformer/{name}_merges")
    found = recorded_prediction(recorded, void_outside_masks=name == "mask2former")
    segments = recorded["authors_segments"].tolist()
    assert len(segments) > 4
    for i, segment_map in enumerate(recorded["authors_map"]):
        # Things in the order of their ids, then stuff by category.
        here = [segment for segment in segments if segment[0] == i]
        here.sort(key=lambda s: (not s[3], s[1] if s[3] else s[2]))
        expected = [(c + 1, bool(t), pixels_of(segment_map == k)) for _, k, c, t in here]
        rows = table(found, i)
        assert [row[:2] for row in rows] == [segment[:2] for segment in expected]
        for (*_, mine), (*_, theirs) in zip(rows, expected):
            assert len(mine ^ theirs) <= 1  # a tie to rounding
    agree = found[Prediction.SEMANTIC_MASK] == recorded["authors_semantic"] + 1
    assert agree.mean() > 0.95  # see the departures of the post-processor


@pytest.mark.reference
def test_recorded_instances(golden):
    recorded = golden("mask_transformer/mask2former_merges")
    found = recorded_prediction(recorded)
    all_masks = np.unpackbits(recorded["authors_instance_masks"], axis=-1)
    all_masks = all_masks[..., : recorded["original_size"][1]].astype(bool)
    for i in range(len(recorded["class_logits"])):
        here = np.flatnonzero(recorded["authors_instance_images"] == i)
        here = here[np.argsort(-recorded["authors_instance_scores"][here], kind="stable")]
        masks = all_masks[here]
        here, masks = here[masks.any(axis=(1, 2))], masks[masks.any(axis=(1, 2))]
        # Of two pairs as probable as the last, one may be a thing and one stuff.
        number = len(here)
        assert 4 < number <= found[Prediction.NUM_DETECTIONS][i] <= number + 1
        np.testing.assert_allclose(
            found[Prediction.DETECTION_SCORES][i, :number],
            recorded["authors_instance_scores"][here],
            atol=1e-5,
        )
        np.testing.assert_array_equal(
            found[Prediction.DETECTION_CATEGORIES][i, :number] - 1,
            recorded["authors_instance_classes"][here],
        )
        for k, mask in enumerate(masks):
            assert (bits(found, i, k) != mask).sum() <= 1


def test_semantic_mask():
    class_logits, mask_logits = draw(3, 2)
    info = image_info((64, 96), (50, 40))
    found = predict(class_logits, mask_logits, info)[Prediction.SEMANTIC_MASK]
    probabilities = tf.nn.softmax(class_logits).numpy()[..., :-1]
    masks = 1 / (1 + np.exp(-mask_logits.astype(np.float64)))
    sums = np.einsum("bqc,bqhw->bhwc", probabilities, masks).astype(np.float32)
    sums = rescale.rescale_to_image(tf.constant(sums), info, OUTPUT_SIZE)
    for i, (height, width) in enumerate(rescale.size_in_output(info, OUTPUT_SIZE).numpy()):
        expected = np.argmax(sums[i, :height, :width], axis=-1) + 1
        assert (found[i, :height, :width] == expected).mean() > 0.999


def test_a_batch_is_its_images():
    sizes = [(64, 96), (30, 80), (120, 200), (5, 3)]
    class_logits, mask_logits = draw(4, len(sizes))
    class_logits[1, :, -1] = 20  # nothing
    together = predict(class_logits, mask_logits, image_info(*sizes))
    number = together[Prediction.NUM_SEGMENTS]
    assert number[1] == 0 and (number[[0, 2, 3]] > 0).all() and number.max() > 2
    assert not together[Prediction.CATEGORY_MASK][1].any()
    for i, size in enumerate(sizes):
        alone = predict(class_logits[i : i + 1], mask_logits[i : i + 1], image_info(size))
        for key, value in alone.items():
            np.testing.assert_allclose(together[key][i], value[0], atol=1e-5, err_msg=key)
        table(together, i)


def test_what_is_in_the_padding_does_not_count():
    class_logits, mask_logits = draw(5)
    size = (33, 60)
    info = image_info(size)
    expected = predict(class_logits, mask_logits, info)
    scaled = np.round(np.array(size) * info[0, 2])
    assert scaled[0] < NETWORK_SIZE[0] - 8
    # One cell beyond the image is still read where the border is interpolated.
    mask_logits[:, :, int(-(-scaled[0] // 4)) + 1 :] = 50.0
    found = predict(class_logits, mask_logits, info)
    assert found[Prediction.NUM_SEGMENTS] > 1 and found[Prediction.NUM_DETECTIONS] > 1
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=1e-5, err_msg=key)


def test_one_query():
    class_logits, mask_logits = draw(6, queries=1)
    class_logits[0, 0], mask_logits[0, 0] = np.eye(NUM_CATEGORIES + 1)[2] * 20, 1.0
    mask_logits[0, 0, :3] = -1.0
    found = predict(class_logits, mask_logits, image_info((64, 96)))
    ((category, is_thing, _, pixels),) = table(found)
    assert (category, is_thing) == (3, True)
    assert pixels == pixels_of(bits(found, 0, 0))
    assert found[Prediction.NUM_DETECTIONS] == 3  # a thing each, two of them of next to no score
    np.testing.assert_allclose(
        found[Prediction.DETECTION_SCORES][0, 0], 1 / (1 + np.exp(-1)), atol=0.02
    )


@pytest.mark.parametrize("detections", [False, True])
@pytest.mark.parametrize("semantic", [False, True])
def test_what_is_returned(detections, semantic):
    class_logits, mask_logits = draw(7)
    everything = predict(class_logits, mask_logits, image_info((64, 96)))
    found = predict(
        class_logits,
        mask_logits,
        image_info((64, 96)),
        output_detections=detections,
        output_semantic=semantic,
    )
    expected = set(Prediction.PANOPTIC_KEYS)
    expected |= set(Prediction.BIT_MASK_DETECTION_KEYS) if detections else set()
    assert set(found) == expected | ({Prediction.SEMANTIC_MASK} if semantic else set())
    for key, value in found.items():
        np.testing.assert_array_equal(value, everything[key], err_msg=key)


def test_no_void_outside_masks():
    class_logits, mask_logits = draw(8)
    info = image_info((70, 90))
    found = predict(class_logits, mask_logits, info)[Prediction.CATEGORY_MASK]
    whole = predict(class_logits, mask_logits, info, void_outside_masks=False)
    whole = whole[Prediction.CATEGORY_MASK]
    np.testing.assert_array_equal(whole[found > 0], found[found > 0])
    assert (whole > 0).sum() > (found > 0).sum() > 0


def test_categories_of_one_kind():
    class_logits, mask_logits = draw(9)
    info = image_info((64, 96))
    only_stuff = predict(class_logits, mask_logits, info, thing_ids=())
    assert only_stuff[Prediction.NUM_DETECTIONS] == 0 < only_stuff[Prediction.NUM_SEGMENTS]
    assert not only_stuff[Prediction.INSTANCE_MASK].any()
    only_things = predict(class_logits, mask_logits, info, thing_ids=tuple(range(1, 7)))
    np.testing.assert_array_equal(
        only_things[Prediction.INSTANCE_MASK] > 0, only_things[Prediction.CATEGORY_MASK] > 0
    )
    np.testing.assert_array_equal(*(x[Prediction.CATEGORY_MASK] for x in (only_stuff, only_things)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_instances": 0}, r"max_instances >= 1 and .* got 0 and 0.5"),
        ({"mask_threshold": 1.0}, "mask_threshold between 0 and 1, got 100 and 1.0"),
        ({"output_size": (4097, 4096)}, r"at most 16777216 pixels.* got \(4097, 4096\)"),
    ],
)
def test_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.slow
def test_in_a_graph_by_xla_and_in_tflite_with_builtin_operators():
    run = build()

    def trace(batch, xla=False):
        shapes = {
            "class_logits": (QUERIES, NUM_CATEGORIES + 1),
            "mask_logits": (QUERIES, *MAP_SIZE),
            "info": (4, 2),
        }
        specs = [tf.TensorSpec([batch, *s], tf.float32, name) for name, s in shapes.items()]
        return tf.function(run, autograph=False, jit_compile=xla).get_concrete_function(*specs)

    in_graph = trace(None)
    by_xla = trace(1, xla=True)
    for key, value in in_graph.structured_outputs.items():
        assert None not in value.shape[1:], key
    with forms.use(forms.Form.CPU):
        on_cpu = trace(None)
    with forms.use(forms.Form.TFLITE):
        fixed = trace(1)
    lite = builtin_tflite.runner(fixed)
    for seed, size in ((10, (64, 96)), (11, (100, 80)), (12, (30, 90))):
        class_logits, mask_logits = draw(seed)
        if seed == 12:
            class_logits[..., -1] = 20.0  # nothing is kept
        inputs = dict(class_logits=class_logits, mask_logits=mask_logits, info=image_info(size))
        inputs = {name: tf.constant(x) for name, x in inputs.items()}
        expected = in_graph(**inputs)
        assert (expected[Prediction.NUM_SEGMENTS][0] > 1) == (seed != 12)
        found = lite(**{name: x.numpy() for name, x in inputs.items()})
        for other in (by_xla(**inputs), on_cpu(**inputs), found):
            for key, value in expected.items():
                if key in MASK_KEYS or key == Prediction.SEMANTIC_MASK:
                    assert np.mean(other[key] == value.numpy()) > 0.999, key
                elif key in (Prediction.SEGMENT_AREA, Prediction.DETECTION_BOXES):
                    np.testing.assert_allclose(other[key], value, atol=2, err_msg=key)
                else:
                    np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
