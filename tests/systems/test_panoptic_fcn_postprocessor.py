import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.structures import Prediction
from panoptic_tf.systems.panoptic_fcn import kernel_selector, postprocessor

LEVELS = ("3", "4", "5", "6", "7")


def embed(kernels, recorded, name):
    """1x1 convolution of [B, K, D]."""
    weight = recorded[f"w_{name}_embed"][:, :, 0, 0].T
    return tf.matmul(kernels, weight[None]) + recorded[f"b_{name}_embed"]


def nhwc(x):
    return tf.constant(np.transpose(x, [0, 2, 3, 1]))


def pixels_of(mask):
    return frozenset(np.flatnonzero(mask).tolist())


def table(prediction, i=0):
    """[(category, is_thing, score, pixels)] of image i in the order of the segment table."""
    category = prediction[Prediction.CATEGORY_MASK][i]
    instance = prediction[Prediction.INSTANCE_MASK][i]
    found = []
    for row in range(prediction[Prediction.NUM_SEGMENTS][i]):
        c = int(prediction[Prediction.SEGMENT_CATEGORY][i, row])
        m = int(prediction[Prediction.SEGMENT_INSTANCE][i, row])
        pixels = pixels_of((category == c) & (instance == m))
        assert len(pixels) == prediction[Prediction.SEGMENT_AREA][i, row] > 0
        found.append((c, m > 0, float(prediction[Prediction.SEGMENT_SCORE][i, row]), pixels))
    assert sum(len(p) for *_, p in found) == (category > 0).sum()
    return found


@pytest.mark.reference
def test_recorded_inference(golden):
    recorded = golden("pfcn_inference")
    network_size, output_size = (128, 160), tuple(recorded["out_hw"].tolist())
    # The recorded answer is smaller than the network's frame: as of an image of that size.
    info = np.array([[output_size, network_size, (128 / 120, 160 / 150), (0, 0)]], np.float32)
    things, stuff = 80, 54
    raw = {
        name: {level: nhwc(recorded[f"pred_{key}_l{i}"]) for i, level in enumerate(LEVELS)}
        for name, key in (
            ("center_logits", "center"),
            ("stuff_logits", "region"),
            ("kernels", "weight"),
        )
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
