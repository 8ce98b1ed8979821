import builtin_tflite
import numpy as np
import pytest
import tensorflow as tf
from segment_tables import pixels_of, table

from panoptic_tf.inputs import geometry
from panoptic_tf.ops import forms
from panoptic_tf.structures import Prediction
from panoptic_tf.systems.panoptic_fcn import kernel_selector, postprocessor

LEVELS = ("3", "4", "5", "6", "7")
NETWORK_SIZE = (64, 96)
OUTPUT_SIZE = (70, 90)
THING_IDS = (2, 3, 5)
STUFF_CATEGORIES = (0, 1, 4, 6)
KERNEL_CHANNELS, ENCODED_CHANNELS = 12, 8
EVERYTHING = ("thing", "stuff")
HEADS = {"thing": "center_logits", "stuff": "stuff_logits"}


def smooth(rng, size, channels, batch, std):
    coarse = rng.normal(0, std, (batch, 5, 6, channels)).astype(np.float32)
    return tf.image.resize(coarse, size).numpy()


def draw(seed=0, batch=1, halves=EVERYTHING):
    """Raw outputs of a few peaks over smooth fields, by level, with the encoded feature."""
    rng = np.random.default_rng(seed)
    sizes = {level: [-(-s // 2 ** int(level)) for s in NETWORK_SIZE] for level in LEVELS}
    channels = {"thing": len(THING_IDS), "stuff": len(STUFF_CATEGORIES)}
    raw = {"kernels": {}, **{HEADS[half]: {} for half in halves}}
    for level, size in sizes.items():
        noise = rng.normal(0, 0.3, (batch, *size, KERNEL_CHANNELS)).astype(np.float32)
        raw["kernels"][level] = smooth(rng, size, KERNEL_CHANNELS, batch, 2.0) + noise
        for half in halves:
            raw[HEADS[half]][level] = smooth(rng, size, channels[half], batch, 2.0) - 1
    map_size = [side // 4 for side in NETWORK_SIZE]
    return raw, smooth(rng, map_size, ENCODED_CHANNELS, batch, 2.0)


def draw_embeddings(halves=EVERYTHING):
    rng = np.random.default_rng(100)
    shape = (KERNEL_CHANNELS, ENCODED_CHANNELS)
    return {half: rng.normal(0, 0.4, shape).astype(np.float32) for half in halves}


def image_info(*sizes):
    return tf.stack([geometry.fit_and_pad(tf.zeros([*s, 3]), NETWORK_SIZE)[1] for s in sizes])


def build(selector=None, halves=EVERYTHING, **options):
    """A function of raw outputs, encoded feature and image_info."""
    selector = kernel_selector.KernelSelector(**(selector or {}))
    options = {"stuff_area": 100, "min_score": 0.02, "score_threshold": 0.1, **options}
    layer = postprocessor.PanopticFCNPostProcessor(
        output_size=OUTPUT_SIZE,
        thing_ids=THING_IDS if "thing" in halves else (),
        num_categories=6,
        stuff_categories=STUFF_CATEGORIES if "stuff" in halves else (),
        **options,
    )
    embeddings = draw_embeddings(halves)

    def run(raw, encoded, info):
        selected = selector(raw, info)
        for half, embedding in embeddings.items():
            selected[f"{half}_kernels"] = tf.matmul(
                selected[f"{half}_kernels"], embedding[np.newaxis]
            )
        return layer({**selected, "encoded": encoded}, info)

    return run


def predict(raw, encoded, info, **options):
    run = tf.function(build(**options), autograph=False)
    raw, encoded = tf.nest.map_structure(tf.constant, (raw, encoded))
    return {key: value.numpy() for key, value in run(raw, encoded, info).items()}


def embed(kernels, recorded, name):
    """1x1 convolution of [B, K, D]."""
    weight = recorded[f"w_{name}_embed"][:, :, 0, 0].T
    return tf.matmul(kernels, weight[None]) + recorded[f"b_{name}_embed"]


def nhwc(x):
    return tf.constant(np.transpose(x, [0, 2, 3, 1]))


@pytest.mark.reference
def test_recorded_inference(golden):
    recorded = golden("pfcn_inference")
    network_size, output_size = (128, 160), tuple(recorded["out_hw"].tolist())
    # The recorded answer is smaller than the network's frame: as of an image of that size.
    info = np.array([[output_size, network_size, (128 / 120, 160 / 150), (0, 0)]], np.float32)
    things, stuff = 80, 54
    names = {"center_logits": "center", "stuff_logits": "region", "kernels": "weight"}
    raw = {
        name: {level: nhwc(recorded[f"pred_{key}_l{i}"]) for i, level in enumerate(LEVELS)}
        for name, key in names.items()
    }
    selected = kernel_selector.KernelSelector()(raw, info)
    for name in ("thing", "stuff"):
        selected[f"{name}_kernels"] = embed(selected[f"{name}_kernels"], recorded, name)
    layer = postprocessor.PanopticFCNPostProcessor(
        output_size=output_size,
        thing_ids=range(1, things + 1),
        num_categories=things + stuff - 1,
        stuff_categories=[0, *range(things + 1, things + stuff)],
        score_threshold=float(recorded["combine_inst_thresh"]),
        stuff_area=int(recorded["stuff_area_limit"]),
    )
    prediction = layer({**selected, "encoded": nhwc(recorded["encode_feat"])}, info)
    prediction = {k: v.numpy() for k, v in prediction.items()}
    assert prediction["num_detections"] == [100]
    np.testing.assert_allclose(
        prediction["detection_scores"][0], recorded["inst_scores"], atol=1e-4
    )
    np.testing.assert_array_equal(
        prediction["detection_categories"][0] - 1, recorded["inst_classes"]
    )
    planes = prediction["detection_bit_masks"][0]
    masks = [(planes[..., i // 32] >> (i % 32)) & 1 for i in range(100)]
    # Of 1.8 million pixels, two are as near to the threshold as float32 rounds.
    np.testing.assert_allclose([m.sum() for m in masks], recorded["inst_mask_area"], atol=1)
    expected = np.unpackbits(recorded["inst_masks_first10"], axis=-1)[..., :150]
    np.testing.assert_array_equal(masks[:10], expected)
    found = table(prediction)
    columns = zip(*(recorded[f"seg_{k}"] for k in ("id", "isthing", "category_id", "score")))
    expected = []
    for number, is_thing, category, score in columns:
        pixels = pixels_of(recorded["panoptic"] == number)
        category = category + 1 if is_thing else category + things
        expected.append((category, bool(is_thing), score, pixels))
    assert [(c, t, p) for c, t, _, p in found] == [(c, t, p) for c, t, _, p in expected]
    for (_, is_thing, score, pixels), (_, _, recorded_score, _) in zip(found, expected):
        if not is_thing:
            recorded_score = recorded["sem_max"].reshape(-1)[list(pixels)].mean()
        np.testing.assert_allclose(score, recorded_score, atol=1e-4)


@pytest.mark.reference
def test_recorded_selection(golden):
    recorded = golden("pfcn_inference")
    raw = {
        name: {"3": nhwc(recorded[f"pred_{key}_l0"])}
        for name, key in (("center_logits", "center"), ("kernels", "weight"))
    }
    raw["stuff_logits"] = {"3": nhwc(recorded["pred_region_l0"])}
    info = np.array([[(128, 160), (128, 160), (1, 1), (0, 0)]], np.float32)
    found = kernel_selector.KernelSelector()(raw, info)
    np.testing.assert_allclose(found["thing_scores"][0], recorded["l0_thing_score"], atol=1e-5)
    np.testing.assert_array_equal(found["thing_classes"][0], recorded["l0_thing_class"])
    kernels = recorded["l0_thing_kernels"][0, :, :, 0].T
    np.testing.assert_allclose(found["thing_kernels"][0], kernels, atol=1e-5)
    assert tf.reduce_all(found["stuff_valid"])
    np.testing.assert_allclose(found["stuff_scores"][0], recorded["l0_stuff_score"], atol=1e-5)
    kernels = recorded["l0_stuff_kernels"][:, :, 0, 0]
    np.testing.assert_allclose(found["stuff_kernels"][0], kernels, atol=1e-5)


def test_a_batch_is_its_images():
    sizes = [(64, 96), (30, 80), (120, 200), (5, 3)]
    raw, encoded = draw(0, len(sizes))
    # No center in the first, no stuff in the second.
    for level in LEVELS:
        raw["center_logits"][level][0] = -20
        raw["stuff_logits"][level][1] = -20
    together = predict(raw, encoded, image_info(*sizes))
    assert together[Prediction.NUM_DETECTIONS][0] == 0
    assert (together[Prediction.NUM_DETECTIONS][1:] > 0).all()
    is_stuff = together[Prediction.SEGMENT_CATEGORY][1] > 0
    assert (together[Prediction.SEGMENT_INSTANCE][1] > 0).sum() == is_stuff.sum() > 0
    assert (together[Prediction.NUM_SEGMENTS][[0, 2]] > 1).all()
    for i, size in enumerate(sizes):
        one, feature = tf.nest.map_structure(lambda x: x[i : i + 1], (raw, encoded))  # noqa: B023
        alone = predict(one, feature, image_info(size))
        for key, value in alone.items():
            np.testing.assert_allclose(together[key][i], value[0], atol=1e-5, err_msg=key)
        table(together, i)


def test_what_is_in_the_padding_does_not_count():
    raw, encoded = draw(1)
    size = (33, 60)
    expected = predict(raw, encoded, image_info(size))
    scale = min(NETWORK_SIZE[0] / size[0], NETWORK_SIZE[1] / size[1])
    scaled = [round(side * scale) for side in size]
    assert min(n - s for n, s in zip(NETWORK_SIZE, scaled)) >= 0 and scaled[0] < NETWORK_SIZE[0]
    for name, value in (("center_logits", 9.0), ("stuff_logits", 9.0), ("kernels", 99.0)):
        for level, maps in raw[name].items():
            maps[:, -(-scaled[0] // 2 ** int(level)) :] = value
    # One cell beyond the image is still read where the border is interpolated.
    encoded[:, -(-scaled[0] // 4) + 1 :] = 50.0
    found = predict(raw, encoded, image_info(size))
    assert found[Prediction.NUM_SEGMENTS] > 1 and found[Prediction.NUM_DETECTIONS] > 1
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("half", EVERYTHING)
def test_one_half(half):
    raw, encoded = draw(2, 2, halves=(half,))
    found = predict(raw, encoded, image_info((64, 96), (40, 50)), halves=(half,))
    assert (found[Prediction.NUM_SEGMENTS] > 0).all()
    assert (Prediction.DETECTION_BIT_MASKS in found) == (half == "thing")
    assert found[Prediction.INSTANCE_MASK].any() == (half == "thing")
    categories = THING_IDS if half == "thing" else STUFF_CATEGORIES
    assert set(np.unique(found[Prediction.CATEGORY_MASK])) <= {0, *categories}


def test_more_candidates_than_instances():
    raw, encoded = draw(3)
    info = image_info((64, 96))
    everyone = predict(raw, encoded, info, fuse_kernels=False)
    few = predict(raw, encoded, info, fuse_kernels=False, max_instances=5)
    assert everyone[Prediction.NUM_DETECTIONS] > 5 == few[Prediction.NUM_DETECTIONS]
    for key in (Prediction.DETECTION_SCORES, Prediction.DETECTION_BOXES):
        np.testing.assert_allclose(few[key], everyone[key][:, :5])
    assert few[Prediction.DETECTION_BIT_MASKS].shape[-1] == 1
    bits = everyone[Prediction.DETECTION_BIT_MASKS][..., 0] & 31
    np.testing.assert_array_equal(few[Prediction.DETECTION_BIT_MASKS][..., 0], bits)


def test_without_detections():
    raw, encoded = draw(4)
    info = image_info((64, 96))
    both = predict(raw, encoded, info)
    found = predict(raw, encoded, info, output_detections=False)
    assert set(found) == set(Prediction.PANOPTIC_KEYS)
    assert set(both) - set(found) == set(Prediction.BIT_MASK_DETECTION_KEYS)
    for key, value in found.items():
        np.testing.assert_array_equal(value, both[key])


def test_matrix_nms_lowers_scores():
    raw, encoded = draw(5)
    info = image_info((64, 96))
    options = dict(fuse_kernels=False, min_score=0.0)
    before = predict(raw, encoded, info, **options)[Prediction.DETECTION_SCORES][0]
    after = predict(raw, encoded, info, matrix_nms=True, **options)
    after = after[Prediction.DETECTION_SCORES][0]
    assert after[0] == before[0] and (after <= before).all() and (np.diff(after) <= 0).all()
    assert after.sum() < 0.9 * before.sum()


def test_stuff_in_no_order_is_refused():
    with pytest.raises(ValueError, match=r"must rise, got \[0, 4, 1\]"):
        postprocessor.PanopticFCNPostProcessor(
            output_size=OUTPUT_SIZE, thing_ids=(2,), num_categories=4, stuff_categories=(0, 4, 1)
        )


@pytest.mark.parametrize("halves", [EVERYTHING, ("thing",), ("stuff",)])
def test_in_a_graph_by_xla_and_in_tflite_with_builtin_operators(halves):
    raw, encoded = draw(6, halves=halves)

    def trace(batch, xla=False):
        def spec(name, x):
            return tf.TensorSpec([batch, *x.shape[1:]], tf.float32, name)

        flat = {f"{head}_{level}": x for head, maps in raw.items() for level, x in maps.items()}
        run = build(halves=halves)

        @tf.function(autograph=False, jit_compile=xla)
        def predict_flat(encoded, info, **flat):
            nested = {}
            for name, x in flat.items():
                nested.setdefault(name[:-2], {})[name[-1]] = x
            return run(nested, encoded, info)

        specs = {name: spec(name, x) for name, x in flat.items()}
        info = tf.TensorSpec([batch, 4, 2], tf.float32, "info")
        return predict_flat.get_concrete_function(
            encoded=spec("encoded", encoded), info=info, **specs
        )

    in_graph = trace(None)
    by_xla = trace(1, xla=True)
    for key, value in in_graph.structured_outputs.items():
        assert None not in value.shape[1:], key
    with forms.use(forms.Form.TFLITE):
        fixed = trace(1)
    run = builtin_tflite.runner(fixed)
    for seed, size in ((6, (64, 96)), (7, (100, 80)), (8, (30, 90))):
        raw, encoded = draw(seed, halves=halves)
        inputs = {f"{head}_{level}": x for head, maps in raw.items() for level, x in maps.items()}
        inputs.update(encoded=encoded, info=image_info(size).numpy())
        expected = in_graph(**{name: tf.constant(x) for name, x in inputs.items()})
        compiled = by_xla(**{name: tf.constant(x) for name, x in inputs.items()})
        found = run(**inputs)
        assert expected[Prediction.NUM_SEGMENTS] > 0
        for key, value in expected.items():
            value = value.numpy()
            np.testing.assert_allclose(compiled[key], value, atol=1e-5, err_msg=key)
            if value.dtype == np.int32 and value.ndim > 2:
                assert (found[key] == value).mean() > 0.999, key
            else:
                np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
