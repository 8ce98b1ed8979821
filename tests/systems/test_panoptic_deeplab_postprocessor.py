"""Panoptic-DeepLab's post-processing of images that are scaled, in every form and under XLA."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.inputs import geometry
from panoptic_tf.ops import forms
from panoptic_tf.structures import Prediction
from panoptic_tf.systems.panoptic_deeplab.postprocessor import PanopticDeepLabPostProcessor

NETWORK_SIZE = (64, 96)
OUTPUT_SIZE = (70, 110)
CATEGORIES = 7
BATCH = 2


@pytest.fixture(scope="module")
def heads():
    """Blobs of categories, noise between them."""
    random = np.random.default_rng(0)
    category = np.kron(random.integers(0, CATEGORIES, (BATCH, 4, 6)), np.ones((1, 4, 4), int))
    logits = 6.0 * np.eye(CATEGORIES)[category] + random.normal(size=(BATCH, 16, 24, CATEGORIES))
    heads = {
        "semantic_logits": logits,
        "center_heatmap": random.beta(0.5, 3.0, (BATCH, 16, 24, 1)),
        "offsets": random.normal(0.0, 9.0, (BATCH, 16, 24, 2)),
    }
    return {key: tf.constant(value, tf.float32) for key, value in heads.items()}


def test_forms_are_equal(heads):
    layer = PanopticDeepLabPostProcessor(
        output_size=OUTPUT_SIZE,
        thing_ids=(1, 3, 4),
        nms_kernel=3,
        top_k=30,
        stuff_area=50,
    )
    infos = [geometry.fit_and_pad(tf.zeros([*s, 3]), NETWORK_SIZE)[1] for s in [(60, 70), (90, 99)]]

    def run(form, xla=False):
        @tf.function(autograph=False, jit_compile=xla)
        def process(heads, infos):
            with forms.use(form):
                return layer(heads, infos)

        return process(heads, tf.stack(infos))

    expected = run(forms.Form.ACCELERATOR)
    assert (expected[Prediction.NUM_SEGMENTS].numpy() > 10).all()
    for found in (
        run(forms.Form.ACCELERATOR, xla=True),
        run(forms.Form.CPU),
        run(forms.Form.TFLITE),
    ):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_allclose(
                found[key], value, atol=1e-5 if key == Prediction.SEGMENT_SCORE else 0, err_msg=key
            )
