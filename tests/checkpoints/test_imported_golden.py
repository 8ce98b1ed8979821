"""A narrow Panoptic FPN that detectron2 has built, saved and run: imported, it computes the same.

Recorded by benchmarks/references/detectron2_weights.py (detectron2 02b5c4e) on a drawn image.
"""

import pathlib
import pickle

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.layers.roi_align import MultiLevelROIAlign
from panoptic_tf.systems import weight_settings

PATH = pathlib.Path(__file__).parent.parent / "golden" / "imported_panoptic_fpn.npz"
YX = [1, 0, 3, 2]

pytestmark = [pytest.mark.slow, pytest.mark.reference]


@pytest.fixture(scope="module")
def golden():
    with np.load(PATH) as file:
        return dict(file)


@pytest.fixture(scope="module")
def imported(golden, tmp_path_factory):
    """The parts of the network, and the image as the weights want it."""
    path = str(tmp_path_factory.mktemp("weights") / "model_final.pkl")
    weights = {k[len("weights/") :]: v for k, v in golden.items() if k.startswith("weights/")}
    with open(path, "wb") as file:
        pickle.dump({"model": weights, "__author__": "Detectron2 Model Zoo"}, file)
    _, description = checkpoints.describe(path)
    config = exp_factory.get_exp_config(description.experiments[0]).task
    size = list(golden["image"].shape[:2])
    narrow = {
        "train_size": size,
        "input_size": size,
        "output_size": size,
        "backbone": {"options": {"widths": [4, 8, 16, 32], "stem_width": 8}},
        "fpn": {"filters": 16},
        "roi": {"box_fc_dims": [32, 32], "mask_filters": [16] * 4},
        "semantic": {"filters": 32},
    }
    config.override({"model": narrow})
    config.override(weight_settings.nested(description.settings))
    model = task_factory.get_task(config).build_model()
    checkpoints.load_weights(path, model.weights, modules="all")
    normalization = config.normalization
    pixels = golden["image"].astype(np.float32)
    if normalization.channel_order == "BGR":
        pixels = pixels[..., ::-1]
    pixels = (pixels - np.array(normalization.mean)) / np.array(normalization.std)
    return model.parts, tf.constant(pixels[np.newaxis], tf.float32)


def assert_close(found, expected):
    found = np.asarray(found)[0]
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_every_part_computes_what_the_source_did(golden, imported):
    parts, image = imported
    features = parts["backbone"](image, training=False)
    assert_close(features["5"], golden["C5"])
    pyramid = parts["fpn"](features, training=False)
    assert_close(pyramid["2"], golden["P2"])
    assert_close(pyramid["6"], golden["P6"])
    levels = {level: x for level, x in pyramid.items() if level != "6"}
    assert_close(parts["semantic"](levels, training=False), golden["semantic_logits"])

    logits, deltas = parts["rpn"](pyramid, training=False)
    assert_close(logits["3"], golden["rpn_logits_3"].reshape(-1))
    assert_close(deltas["3"], golden["rpn_deltas_3"][..., YX].reshape(-1, 4))

    boxes = tf.constant(golden["proposals"][np.newaxis][..., YX])
    pooled = MultiLevelROIAlign(output_size=7, sampling_ratio=0)(levels, boxes)
    box_logits, box_deltas = parts["box"](pooled)
    assert_close(box_logits, golden["box_logits"])
    assert_close(box_deltas, golden["box_deltas"][..., YX])
    pooled = MultiLevelROIAlign(output_size=14, sampling_ratio=0)(levels, boxes)
    # Of each box the mask of another class was recorded.
    classes = tf.range(boxes.shape[1])[tf.newaxis]
    assert_close(parts["mask"](pooled, classes), golden["mask_logits"])
