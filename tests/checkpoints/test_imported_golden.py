"""Narrow models that their sources have built, saved and run: imported, they compute the same.

Recorded by benchmarks/references/{detectron2,panoptic_fcn}_weights.py (detectron2 02b5c4e,
PanopticFCN f4141c3) on a drawn image.
"""

import pathlib

import numpy as np
import pytest
import source_files
import tensorflow as tf
from official.core import exp_factory, task_factory

from panoptic_tf import checkpoints, systems  # noqa: F401  (registers the experiments)
from panoptic_tf.layers.roi_align import MultiLevelROIAlign
from panoptic_tf.systems import weight_settings

FOLDER = pathlib.Path(__file__).parent.parent / "golden"
YX = [1, 0, 3, 2]

pytestmark = [pytest.mark.slow, pytest.mark.reference]


def _import(system, tmp_path, narrow):
    """The parts of the network, its backbone's levels, and what was recorded."""
    with np.load(FOLDER / f"imported_{system}.npz") as file:
        golden = dict(file)
    weights = {k[len("weights/") :]: v for k, v in golden.items() if k.startswith("weights/")}
    path = source_files.write_pickle(weights, tmp_path / "model_final.pkl")
    _, description = checkpoints.describe(path)
    config = exp_factory.get_exp_config(description.experiments[0]).task
    size = list(golden["image"].shape[:2])
    sizes = {"train_size": size, "input_size": size, "output_size": size}
    widths = {"widths": [4, 8, 16, 32], "stem_width": narrow.pop("stem_width", 8)}
    config.override({"model": {**sizes, "backbone": {"options": widths}, **narrow}})
    config.override(weight_settings.nested(description.settings))
    model = task_factory.get_task(config).build_model()
    checkpoints.load_weights(path, model.weights, modules="all")
    normalization, pixels = config.normalization, golden["image"].astype(np.float32)
    if normalization.channel_order == "BGR":
        pixels = pixels[..., ::-1]
    pixels = (pixels - np.array(normalization.mean)) / np.array(normalization.std)
    image = tf.constant(pixels[np.newaxis], tf.float32)
    features = model.parts["backbone"](image, training=False)
    assert_close(features["5"], golden["C5"])
    return model.parts, features, golden


def assert_close(found, expected):
    found = np.asarray(found)[0]
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


def test_panoptic_fpn(tmp_path):
    narrow = {
        "fpn": {"filters": 16},
        "roi": {"box_fc_dims": [32, 32], "mask_filters": [16] * 4},
        "semantic": {"filters": 32},
    }
    parts, features, golden = _import("panoptic_fpn", tmp_path, narrow)
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


def test_panoptic_deeplab(tmp_path):
    branch = {"aspp_channels": 16, "decoder_channels": 16, "low_level_channels": [8, 4]}
    narrow = {
        "stem_width": 4,
        "aspp_pool_size": [4, 6],
        "semantic": {**branch, "head_channels": 16},
        "instance": {**branch, "head_channels": 8},
    }
    parts, features, golden = _import("panoptic_deeplab", tmp_path, narrow)
    semantic = parts["semantic"](features, training=False)
    assert_close(semantic["semantic_logits"], golden["semantic_logits"])
    instance = parts["instance"](features, training=False)
    assert_close(instance["center_heatmap"], golden["center"])
    assert_close(instance["offsets"], golden["offset"])


def test_panoptic_fcn(tmp_path):
    narrow = {
        "fpn": {"filters": 16},
        "position_head": {"filters": 64, "num_convs": 1},
        "kernel_head": {"filters": 64, "num_convs": 1},
        "encoder": {"filters": 8, "semantic_filters": 32},
    }
    parts, features, golden = _import("panoptic_fcn", tmp_path, narrow)
    pyramid = parts["fpn"](features, training=False)
    assert_close(pyramid["3"], golden["P3"])
    assert_close(pyramid["7"], golden["P7"])
    levels = {level: x for level, x in pyramid.items() if level != "2"}
    position = parts["position_head"](levels, training=False)
    assert_close(position["center_logits"]["3"], golden["center_logits_3"])
    assert_close(position["stuff_logits"]["4"], golden["stuff_logits_4"])
    assert_close(parts["kernel_head"](levels, training=False)["5"], golden["kernels_5"])
    feature = parts["semantic_fpn"]({level: pyramid[level] for level in "2345"}, training=False)
    assert_close(parts["feature_encoder"](feature, training=False), golden["encoded"])
