"""Pasting and merging of Panoptic FPN as a whole: eagerly, in a graph, by XLA, in TFLite."""

import builtin_tflite
import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.ops import forms
from panoptic_tf.structures import Prediction
from panoptic_tf.systems.panoptic_fpn import postprocessor

NETWORK_SIZE, OUTPUT_SIZE = (48, 64), (40, 70)
THING_IDS, NUM_CATEGORIES = (2, 3, 5), 6
SEMANTIC_CATEGORIES = (0, 1, 4, 6)  # things are the first channel
EVERYTHING = ("things", "semantic")


def build(halves=EVERYTHING):
    return postprocessor.PanopticFPNPostProcessor(
        output_size=OUTPUT_SIZE,
        thing_ids=THING_IDS if "things" in halves else (),
        num_categories=NUM_CATEGORIES,
        semantic_categories=SEMANTIC_CATEGORIES,
        answers_semantic_mask="semantic" in halves,
        stuff_area=50,
    )


def draw(seed, batch=1, count=7, halves=EVERYTHING):
    """What the heads answer, and an image_info for images of several sizes."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (batch, count, 2, 2)), axis=2) * NETWORK_SIZE
    number = rng.integers(3, count + 1, (batch, 1))
    scores = np.linspace(0.99, 0.4, count)[np.newaxis].repeat(batch, axis=0)
    things = {
        "boxes": corners.reshape([batch, count, 4]),
        "scores": scores * (np.arange(count) < number),
        "classes": rng.integers(0, len(THING_IDS), (batch, count)),
        "valid": np.arange(count) < number,
        "masks": rng.uniform(0.3, 1, (batch, count, 5, 5)),
    }
    dtypes = {"classes": np.int32, "valid": bool}
    outputs = {}
    if "things" in halves:
        outputs = {key: x.astype(dtypes.get(key, np.float32)) for key, x in things.items()}
    if "semantic" in halves:
        coarse = rng.normal(0, 2, (batch, 3, 4, len(SEMANTIC_CATEGORIES))).astype(np.float32)
        outputs["semantic_logits"] = tf.image.resize(coarse, (12, 16)).numpy()
    sizes = [(30, 66), (48, 64), (100, 70)]
    info = [
        geometry.fit_and_pad(tf.zeros([*sizes[(seed + i) % 3], 3]), NETWORK_SIZE)[1]
        for i in range(batch)
    ]
    return outputs, tf.stack(info)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


def test_a_batch_is_its_images():
    layer = build()
    outputs, info = draw(0, batch=3)
    together = layer(outputs, info)
    for i in range(3):
        one = {key: x[i : i + 1] for key, x in outputs.items()}
        alone = layer(one, info[i : i + 1])
        assert (alone[Prediction.SEGMENT_INSTANCE].numpy() > 0).sum() > 1
        assert_same({key: x[i : i + 1] for key, x in together.items()}, alone)


def test_nothing_is_painted_beyond_the_image():
    outputs, info = draw(1, batch=3)
    outputs["boxes"][:, 0] = [-50, -50, 100, 120]
    outputs["masks"][:, 0] = 1
    prediction = build()(outputs, info)
    for mask, (height, width) in zip(
        prediction[Prediction.CATEGORY_MASK].numpy(), prediction[Prediction.IMAGE_SIZE].numpy()
    ):
        assert (mask[:height, :width] > 0).all()
        assert not mask[height:].any() and not mask[:, width:].any()


@pytest.mark.parametrize("halves", [EVERYTHING, ("things",), ("semantic",)])
def test_in_a_graph_by_xla_and_in_tflite_with_builtin_operators(halves):
    layer, (example, _) = build(halves), draw(0, halves=halves)

    def trace(batch, xla=False):
        specs = {
            key: tf.TensorSpec([batch, *x.shape[1:]], x.dtype, key) for key, x in example.items()
        }
        info = tf.TensorSpec([batch, 4, 2], tf.float32, "info")
        run = tf.function(
            lambda info, **outputs: layer(outputs, info), autograph=False, jit_compile=xla
        )
        return run.get_concrete_function(info=info, **specs)

    in_graph, by_xla = trace(None), trace(1, xla=True)
    for key, value in in_graph.structured_outputs.items():
        assert None not in value.shape[1:], key
    with forms.use(forms.Form.TFLITE):
        fixed = trace(1)
    in_tflite = builtin_tflite.runner(fixed)
    for seed in range(3):
        outputs, info = draw(seed, halves=halves)
        inputs = {"info": info.numpy(), **outputs}
        constants = {key: tf.constant(x) for key, x in inputs.items()}
        expected = in_graph(**constants)
        assert expected[Prediction.NUM_SEGMENTS].numpy() > 1
        assert_same(by_xla(**constants), expected)
        assert_same(in_tflite(**inputs), expected)
