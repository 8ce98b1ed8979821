"""Panoptic FCN's inference: the oracle against recorded behaviour, ours against the oracle."""

import functools

import numpy as np
import panoptic_fcn_oracle as oracle_lib
import pytest
import tensorflow as tf

from panoptic_tf.metrics import detections
from panoptic_tf.postprocess import kernel_fusion
from panoptic_tf.structures import Prediction
from panoptic_tf.systems.panoptic_fcn.kernel_selector import KernelSelector
from panoptic_tf.systems.panoptic_fcn.postprocessor import PanopticFCNPostProcessor

LEVELS = ("3", "4", "5", "6", "7")


def last(maps):
    """Recorded [1, N, h, w] -> [h, w, N]."""
    return np.moveaxis(maps[0], 0, -1)


def embedding(case, kind):
    return case[f"w_{kind}_embed"][:, :, 0, 0].T, case[f"b_{kind}_embed"]


def raw_outputs(case):
    names = {"center_logits": "center", "stuff_logits": "region", "kernels": "weight"}
    return {
        name: {level: last(case[f"pred_{kind}_l{i}"]) for i, level in enumerate(LEVELS)}
        for name, kind in names.items()
    }


@pytest.fixture(scope="module")
def recorded(golden):
    return dict(golden("pfcn_inference"))


@pytest.fixture(scope="module")
def answer(recorded):
    return oracle_lib.oracle(
        raw_outputs(recorded),
        {kind: embedding(recorded, kind) for kind in ("thing", "stuff")},
        last(recorded["encode_feat"]),
        image_size=(128, 160),
        output_size=tuple(recorded["out_hw"]),
        center_threshold=recorded["center_thres"],
        stuff_threshold=recorded["stuff_thres"],
        top_k=recorded["top_num"] // 2,
        similarity_threshold=recorded["sim_thres"],
        mask_threshold=recorded["inst_thres"],
        max_instances=recorded["top_num"],
        score_threshold=recorded["combine_inst_thresh"],
        overlap_threshold=recorded["combine_overlap"],
        stuff_area=recorded["stuff_area_limit"],
    )


def assert_segments(segments, case):
    assert [s["id"] for s in segments] == case["seg_id"].tolist()
    assert [s["is_thing"] for s in segments] == case["seg_isthing"].astype(bool).tolist()
    assert [s["label"] for s in segments] == case["seg_category_id"].tolist()
    things = case["seg_isthing"] > 0
    scores, rows = ([s[key] for s in segments if s["is_thing"]] for key in ("score", "instance"))
    np.testing.assert_allclose(scores, case["seg_score"][things], rtol=1e-5)
    assert rows == case["seg_instance_id"][things].tolist()
    areas = np.array([s["area"] for s in segments])
    np.testing.assert_array_equal(areas[~things], case["seg_area"][~things])
    counted = np.bincount(case["panoptic"].ravel(), minlength=len(segments) + 1)
    np.testing.assert_array_equal(areas, counted[1:])


@pytest.mark.reference
def test_centers_and_stuff_of_the_finest_level(recorded):
    raw = raw_outputs(recorded)
    finest = {name: {"3": levels["3"].astype(np.float64)} for name, levels in raw.items()}
    centers = oracle_lib.find_centers(finest["center_logits"], finest["kernels"], {"3": 50}, 0.05)
    scores, labels, kernels = (
        np.array([c[key] for c in centers]) for key in ("score", "label", "kernel")
    )
    np.testing.assert_allclose(scores, recorded["l0_thing_score"], rtol=1e-5)
    np.testing.assert_array_equal(labels, recorded["l0_thing_class"])
    np.testing.assert_allclose(kernels.T, recorded["l0_thing_kernels"][0, ..., 0], rtol=1e-5)
    stuff = oracle_lib.find_stuff(finest["stuff_logits"], finest["kernels"], 0.05)
    assert [s["channel"] for s in stuff] == recorded["l0_stuff_class"].tolist()
    kernels = np.array([s["kernel"] for s in stuff])
    np.testing.assert_allclose(kernels, recorded["l0_stuff_kernels"][..., 0, 0], atol=1e-6)


@pytest.mark.reference
def test_kernel_fusion(golden):
    case = golden("pfcn_kernel_fusion")
    thing, stuff = embedding(case, "thing"), embedding(case, "stuff")
    rows = zip(case["thing_kernels"], case["thing_classes"], case["thing_scores"])
    centers = [dict(zip(("kernel", "label", "score"), row)) for row in rows]
    kernels, scores, labels = oracle_lib.fuse_centers(
        centers, thing, similarity_threshold=case["sim_thres"], class_aware=True
    )
    np.testing.assert_allclose(kernels, case["fused_thing_kernels"], rtol=1e-5, atol=1e-6)
    assert labels == case["fused_thing_classes"].tolist()
    assert scores == case["fused_thing_scores"].tolist()
    rows = zip(case["stuff_kernels"], case["stuff_classes"])
    found = [dict(zip(("kernel", "channel"), row)) for row in rows]
    channels, kernels = oracle_lib.average_by_category(found, stuff)
    np.testing.assert_array_equal(channels, case["fused_stuff_classes"])
    np.testing.assert_allclose(kernels, case["fused_stuff_kernels"], rtol=1e-5, atol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["pfcn_combine_0", "pfcn_combine_1"])
def test_merge(golden, name):
    case = dict(golden(name))
    rows = zip(case["masks"] > 0, case["classes"].tolist(), case["scores"])
    instances = [dict(zip(("mask", "label", "score"), row)) for row in rows]
    panoptic, segments = oracle_lib.combine(
        instances if case["use_things"] else [],
        case["semantic"],
        score_threshold=case["inst_threshold"],
        overlap_threshold=case["overlap_threshold"],
        stuff_area=case["stuff_area_limit"],
    )
    np.testing.assert_array_equal(panoptic, case["panoptic"])
    assert_segments(segments, case)


@pytest.mark.reference
def test_instances_before_the_merge(recorded, answer):
    found = answer["instances"]
    np.testing.assert_allclose([n["score"] for n in found], recorded["inst_scores"], rtol=1e-5)
    assert [n["label"] for n in found] == recorded["inst_classes"].tolist()
    areas = np.array([n["mask"].sum() for n in found])
    # In float32 there.
    assert (np.abs(areas - recorded["inst_mask_area"]) <= 1).all()
    first = np.unpackbits(recorded["inst_masks_first10"], axis=-1, count=150)
    np.testing.assert_array_equal([n["mask"] for n in found[:10]], first)


@pytest.mark.reference
def test_the_whole_inference(recorded, answer):
    np.testing.assert_array_equal(answer["semantic"], recorded["sem_argmax"])
    np.testing.assert_array_equal(answer["panoptic"], recorded["panoptic"])
    assert_segments(answer["segments"], recorded)


# Ours against the oracle

THING_IDS = (2, 3, 5, 6, 8, 10)
STUFF_CATEGORIES = (0, 1, 4, 7, 9)  # of the channels; 0 is the class "things"
NUM_CATEGORIES = 10
FRAME = (128, 192)
SELECTOR_OPTIONS = ("center_threshold", "stuff_threshold", "top_k")
KERNEL_CHANNELS, ENCODED_CHANNELS = 12, 8


def draw_image(rng, frame):
    """Raw outputs of one image: smooth fields with some noise, the same on all levels.

    Kernels are noisy copies of a few, one for each region of the image, so that they fuse.
    """
    center_field = rng.normal(0, 2, (8, 12, len(THING_IDS)))
    stuff_field = rng.normal(0, 2, (4, 6, len(STUFF_CATEGORIES)))
    region_field = rng.normal(0, 1, (6, 8, 7))
    originals = rng.normal(0, 1, (7, KERNEL_CHANNELS))
    raw = {"center_logits": {}, "stuff_logits": {}, "kernels": {}}
    for level in LEVELS:
        size = tuple(-(-side // 2 ** int(level)) for side in frame)
        centers = oracle_lib.resize(center_field, size) - 2.5
        raw["center_logits"][level] = centers + rng.normal(0, 0.6, centers.shape)
        stuff = oracle_lib.resize(stuff_field, size)
        raw["stuff_logits"][level] = stuff + rng.normal(0, 0.1, stuff.shape)
        kernels = originals[np.argmax(oracle_lib.resize(region_field, size), axis=-1)]
        raw["kernels"][level] = kernels + rng.normal(0, 0.2, kernels.shape)
    encoded = rng.normal(0, 1, (9, 13, ENCODED_CHANNELS))
    encoded = oracle_lib.resize(encoded, (frame[0] // 4, frame[1] // 4))
    encoded[..., 0] = 1.0  # so that the bias of its channel makes masks small
    return to_float32(raw), to_float32(encoded)


def draw_embeddings(rng):
    embeddings = {}
    for kind, bias in (("thing", -1.5), ("stuff", 0.0)):
        weight = rng.normal(0, 0.5, (KERNEL_CHANNELS, ENCODED_CHANNELS))
        biases = np.append(bias, rng.normal(0, 0.1, ENCODED_CHANNELS - 1))
        embeddings[kind] = (to_float32(weight), to_float32(biases))
    return embeddings


def to_float32(tree):
    return tf.nest.map_structure(np.float32, tree)


def fit(original, frame):
    """(image_info, size of the image in the frame): original size, frame, scale, offset."""
    scale = min(frame[0] / original[0], frame[1] / original[1], 1.0)
    size = tuple(max(round(side * scale), 1) for side in original)
    return np.float32([original, frame, (scale, scale), (0, 0)]), size


@functools.cache
def build(output_size, stuff_categories, options):
    """Our layers as one graph; building it is what takes time."""
    options = dict(options)
    selecting = {name: options.pop(name) for name in SELECTOR_OPTIONS if name in options}
    selector = KernelSelector(**selecting)
    postprocessor = PanopticFCNPostProcessor(
        output_size=output_size,
        thing_ids=THING_IDS,
        num_categories=NUM_CATEGORIES,
        stuff_categories=stuff_categories,
        **options,
    )

    @tf.function(autograph=False)
    def run(raw, encoded, image_info, embeddings):
        chosen = selector(raw, image_info)
        for kind, (weight, bias) in embeddings.items():
            key = f"{kind}_kernels"
            chosen[key] = tf.einsum("bkd,dc->bkc", chosen[key], weight) + bias
        return postprocessor({**chosen, "encoded": encoded}, image_info)

    return run


def predict(images, embeddings, infos, *, output_size, stuff_categories, **options):
    """Our layers on a batch: {key: [B, ...]}."""
    run = build(output_size, stuff_categories, tuple(sorted(options.items())))
    raw = tf.nest.map_structure(lambda *maps: tf.stack(maps), *(raw for raw, _ in images))
    encoded = tf.stack([encoded for _, encoded in images])
    embeddings = tf.nest.map_structure(tf.constant, embeddings)
    answer = run(raw, encoded, tf.stack(infos), embeddings)
    return {key: value.numpy() for key, value in answer.items()}


def compare(images, embeddings, originals, *, frame=FRAME, output_size=None, **options):
    """Predicts a batch at once and every image with the oracle: the oracle's answers.

    Pixels may differ only where a decision is within rounding; segments and scores may not.
    """
    options = {"stuff_area": 100, **options}
    stuff_categories = options.pop("stuff_categories", STUFF_CATEGORIES)
    infos, sizes = zip(*(fit(original, frame) for original in originals))
    output_size = output_size or frame
    ours = predict(
        images,
        embeddings,
        infos,
        output_size=output_size,
        stuff_categories=stuff_categories,
        **options,
    )
    answers = []
    for i, ((raw, encoded), original, size) in enumerate(zip(images, originals, sizes)):
        fitting = min(output_size[0] / original[0], output_size[1] / original[1], 1.0)
        answered = tuple(round(side * fitting) for side in original)
        expected = oracle_lib.oracle(
            raw,
            embeddings,
            encoded,
            image_size=size,
            output_size=answered,
            stuff_labels=stuff_categories,
            **options,
        )
        one = {key: value[i] for key, value in ours.items()}
        assert one[Prediction.IMAGE_SIZE].tolist() == list(answered)
        assert_same_segments(one, expected)
        if "center_logits" in raw:
            assert_same_detections(one, expected, options.get("max_instances", 100))
        answers.append(expected)
    return answers


def assert_same_segments(ours, expected):
    """Segments, categories, areas, scores of things; the ids of instances are ours to choose."""
    height, width = expected["panoptic"].shape
    category, instance = ours[Prediction.CATEGORY_MASK], ours[Prediction.INSTANCE_MASK]
    for mask in (category, instance):
        assert not mask[height:].any() and not mask[:, width:].any()
    count = int(ours[Prediction.NUM_SEGMENTS])
    table = zip(
        ours[Prediction.SEGMENT_CATEGORY][:count].tolist(),
        ours[Prediction.SEGMENT_INSTANCE][:count].tolist(),
        ours[Prediction.SEGMENT_SCORE][:count],
        ours[Prediction.SEGMENT_AREA][:count],
    )
    found = {row[:2]: row[2:] for row in table}
    assert len(found) == count == len(expected["segments"]), (found, expected["segments"])
    certain = expected["is_certain"]
    assert certain.mean() > 0.99
    seen = set()
    for segment in expected["segments"]:
        mask = expected["panoptic"] == segment["id"]
        inside = (mask & certain).nonzero()
        pairs = np.stack([category[inside], instance[inside]], axis=-1)
        (pair,) = {tuple(pair) for pair in pairs.tolist()}
        label = segment["label"]
        assert pair[0] == (THING_IDS[label] if segment["is_thing"] else label), segment
        assert (pair[1] > 0) == segment["is_thing"] and pair not in seen
        seen.add(pair)
        score, area = found[pair]
        if segment["is_thing"]:
            assert score == pytest.approx(segment["score"], rel=1e-4)
        assert area == ((category == pair[0]) & (instance == pair[1])).sum()
        assert abs(int(area) - segment["area"]) <= (~certain).sum()
    void = (expected["panoptic"] == 0) & certain
    assert not category[:height, :width][void].any() and not instance[:height, :width][void].any()


def assert_same_detections(ours, expected, max_instances):
    """The instances before the merge, in the order of their scores."""
    count = int(ours[Prediction.NUM_DETECTIONS])
    instances = expected["instances"]
    assert detections.has_detections(ours)
    assert count == len(instances) <= max_instances
    if not count:
        return
    scores = ours[Prediction.DETECTION_SCORES]
    assert not scores[count:].any()
    np.testing.assert_allclose(scores[:count], [n["score"] for n in instances], rtol=1e-4)
    categories = ours[Prediction.DETECTION_CATEGORIES][:count].tolist()
    assert categories == [THING_IDS[n["label"]] for n in instances]
    height, width = expected["panoptic"].shape
    planes = ours[Prediction.DETECTION_BIT_MASKS].view(np.uint32)
    boxes = ours[Prediction.DETECTION_BOXES]
    for i, expected_instance in enumerate(instances):
        mask = (planes[..., i // 32] >> np.uint32(i % 32)) & 1 > 0
        assert not mask[height:].any() and not mask[:, width:].any()
        differs = mask[:height, :width] != expected_instance["mask"]
        assert not (differs & ~expected_instance["is_near"]).any(), i
        ys, xs = mask.nonzero()
        # A small mask may vanish on the way from stride 4 to pixels.
        box = [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1] if mask.any() else [0, 0, 0, 0]
        np.testing.assert_array_equal(boxes[i], box)


def draw_batch(seed, frame=FRAME, count=3):
    rng = np.random.default_rng(seed)
    return [draw_image(rng, frame) for _ in range(count)], draw_embeddings(rng)


def change(images, changes, rows=(0, 1, 2)):
    """Adds to raw outputs, {name: amount}, of some images of a batch; None drops them of all."""
    for i, (raw, _) in enumerate(images):
        for name, amount in changes.items():
            if amount is None:
                del raw[name]
            elif i in rows:
                raw[name] = {level: x + np.float32(amount) for level, x in raw[name].items()}


def num_things(answers):
    return [sum(s["is_thing"] for s in answer["segments"]) for answer in answers]


def num_stuff(answers):
    return [sum(not s["is_thing"] for s in answer["segments"]) for answer in answers]


@pytest.mark.parametrize("seed", [0, 2, 3, 4])
def test_a_batch_equals_the_published_inference_of_each_image(seed):
    images, embeddings = draw_batch(seed)
    answers = compare(images, embeddings, [FRAME] * 3)
    assert min(num_things(answers)) > 0 and min(num_stuff(answers)) > 0


@pytest.mark.parametrize("seed", range(4))
def test_images_that_fill_a_part_of_the_frame(seed):
    images, embeddings = draw_batch(10 + seed)
    sizes = [(60, 192), (113, 70), (9, 11)]
    for (raw, _), size in zip(images, sizes):
        for maps in (maps for levels in raw.values() for maps in levels.values()):
            # What lies in the padding would win.
            inside = oracle_lib.image_cells(maps, size, FRAME).shape
            noise = np.abs(np.random.default_rng(seed).normal(0, 3, maps.shape)) + 4
            noise[: inside[0], : inside[1]] = 0
            maps += noise
    compare(images, embeddings, sizes)


@pytest.mark.parametrize("seed", range(2))
def test_images_of_other_scales(seed):
    images, embeddings = draw_batch(20 + seed)
    compare(images, embeddings, [(256, 200), (130, 400), (100, 150)], output_size=(256, 320))


@pytest.mark.parametrize("rows", [(0, 1, 2), (1,)])
def test_no_center_above_the_threshold(rows):
    images, embeddings = draw_batch(30)
    change(images, {"center_logits": -12.0}, rows)
    answers = compare(images, embeddings, [FRAME] * 3)
    assert [n == 0 for n in num_things(answers)] == [i in rows for i in range(3)]


@pytest.mark.parametrize("rows", [(0, 1, 2), (1,)])
def test_no_stuff_above_the_threshold(rows):
    images, embeddings = draw_batch(31)
    change(images, {"stuff_logits": -20.0}, rows)
    answers = compare(images, embeddings, [FRAME] * 3)
    assert [n == 0 for n in num_stuff(answers)] == [i in rows for i in range(3)]


def test_neither_things_nor_stuff():
    images, embeddings = draw_batch(32)
    change(images, {"stuff_logits": -20.0, "center_logits": -12.0})
    answers = compare(images, embeddings, [FRAME] * 3)
    assert not any(answer["segments"] for answer in answers)


def test_only_things():
    images, embeddings = draw_batch(33)
    change(images, {"stuff_logits": None})
    answers = compare(images, {"thing": embeddings["thing"]}, [FRAME, (100, 90), FRAME])
    assert min(num_things(answers)) > 0 and max(num_stuff(answers)) == 0


def test_only_stuff():
    images, embeddings = draw_batch(34)
    change(images, {"center_logits": None})
    answers = compare(images, {"stuff": embeddings["stuff"]}, [FRAME, (100, 90), FRAME])
    assert max(num_things(answers)) == 0 and min(num_stuff(answers)) > 0


def test_stuff_without_a_class_for_things():
    images, embeddings = draw_batch(35)
    for raw, _ in images:
        raw["stuff_logits"] = {level: x[..., 1:] for level, x in raw["stuff_logits"].items()}
    compare(images, embeddings, [FRAME] * 3, stuff_categories=STUFF_CATEGORIES[1:])


def test_without_kernel_fusion_more_candidates_than_instances():
    images, embeddings = draw_batch(38)
    change(images, {"center_logits": -12.0}, (1,))
    answers = compare(images, embeddings, [FRAME] * 3, fuse_kernels=False, min_score=0.01)
    assert [len(answer["instances"]) for answer in answers] == [100, 0, 100]


def test_levels_of_one_cell():
    frame = (32, 64)
    images, embeddings = draw_batch(37, frame)
    compare(images, embeddings, [frame, (20, 24), (1, 1)], frame=frame)


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("similarity", [0.8, 0.85, 0.9, 0.95, 1.0])
def test_kernel_fusion_alone(similarity, class_aware):
    rng = np.random.default_rng(0)
    counts = np.array([40, 39, 38, 20, 1, 0])
    valid = np.arange(40) < counts[:, np.newaxis]
    originals = rng.normal(0, 1, (4, 8))
    kernels = originals[rng.integers(0, 4, valid.shape)] + rng.normal(0, 0.25, (*valid.shape, 8))
    kernels[:, 25:30] = kernels[:, 5:10]  # the same twice
    kernels = to_float32(kernels)
    classes = rng.integers(0, 2, valid.shape, np.int32)
    scores = to_float32(-np.sort(-rng.random(valid.shape)))
    ours = kernel_fusion.fuse_kernels(
        *(tf.constant(x) for x in (kernels, scores, classes, valid)),
        similarity_threshold=similarity,
        class_aware=class_aware,
    )
    num_dropped = 0
    for i, count in enumerate(counts):
        clusters = oracle_lib.find_clusters(
            kernels[i, :count].astype(np.float64), classes[i], similarity, class_aware
        )
        first = list(clusters)
        fused, kept_scores, kept_classes, kept = (x[i].numpy() for x in ours)
        assert kept.tolist() == [True] * len(first) + [False] * (40 - len(first))
        expected = [kernels[i, members].mean(axis=0) for members in clusters.values()]
        np.testing.assert_allclose(fused[kept], np.reshape(expected, [-1, 8]), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(kept_scores[kept], scores[i, first])
        np.testing.assert_array_equal(kept_classes[kept], classes[i, first])
        num_dropped += count - sum(len(members) for members in clusters.values())
    if similarity == 0.85:
        assert num_dropped > 0  # similar to one that is itself in another's cluster


@pytest.mark.parametrize("similarity, class_aware", [(0.8, False), (1.0, True)])
def test_other_kernel_fusion(similarity, class_aware):
    images, embeddings = draw_batch(42)
    compare(
        images,
        embeddings,
        [FRAME] * 3,
        similarity_threshold=similarity,
        class_aware=class_aware,
    )


def test_other_thresholds():
    images, embeddings = draw_batch(43)
    answers = compare(
        images,
        embeddings,
        [FRAME] * 3,
        center_threshold=0.2,
        stuff_threshold=0.85,
        top_k=9,
        mask_threshold=0.55,
        min_score=0.15,
        max_instances=6,
        score_threshold=0.3,
        overlap_threshold=0.2,
        stuff_area=700,
    )
    assert [len(answer["instances"]) for answer in answers] == [6] * 3
