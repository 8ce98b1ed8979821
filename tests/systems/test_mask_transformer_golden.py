"""Mask2Former and MaskFormer against recorded outputs of the `transformers` library."""

import json
import pathlib
import zlib

import numpy as np
import pytest
import tensorflow as tf
from small_systems import get_params, get_task

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.readers.arrays import StoredArray, StoredCheckpoint
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.ops import forms

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "mask_transformer"

BACKBONES = {
    "resnet": {
        "name": "resnet",
        "norm": "frozen_batch",
        "options": {"num_blocks": [1, 1, 2, 1], "widths": [16, 16, 24, 32], "stem_width": 16},
    },
    "swin": {
        "name": "swin_tiny",
        "norm": "batch",
        "options": {
            "width": 16,
            "num_blocks": [2, 1, 2, 1],
            "num_heads": [1, 2, 2, 4],
            "window_size": 5,
        },
    },
}
SYSTEMS = {
    "mask2former": {
        "pixel_decoder": {"num_layers": 2, "num_heads": 2, "hidden_channels": 64},
        "decoder": {"num_layers": 4, "num_heads": 2, "hidden_channels": 48, "num_queries": 8},
    },
    "maskformer": {
        "pixel_decoder": {"num_layers": 0},
        "decoder": {"num_layers": 3, "num_heads": 2, "hidden_channels": 48, "num_queries": 8},
    },
}


def stored(recorded):
    """The weights of a case, under the names of a published file."""

    def entry(name, shape, mean, scale):
        drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        values = (mean + scale * drawn).astype(np.float32)
        return StoredArray(values.shape, values.dtype, lambda: values)

    rows = json.loads(str(recorded["weights"]))
    return StoredCheckpoint("weights", {row[0]: entry(*row) for row in rows}, {})


def build(tmp_path, system, backbone):
    """The network of a case; it has 5 classes."""
    path = str(tmp_path / "dataset_info.json")
    categories = [{"id": i, "name": str(i), "isthing": i % 2} for i in range(1, 6)]
    DatasetInfo.from_coco(categories, name="five").save(path)
    model = {
        "train_size": [64, 96],
        "input_size": [64, 96],
        "channels": 32,
        "backbone": BACKBONES[backbone],
        **SYSTEMS[system],
    }
    override = {"dataset_info": path, "model": model, "targets": {"max_segments": 8}}
    return get_task(get_params(f"{system}_resnet50_coco", override)).build_model()


@pytest.mark.parametrize("system", list(SYSTEMS))
@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_equals_the_recorded_network(system, backbone, tmp_path):
    recorded = np.load(GOLDEN / f"{system}_{backbone}_small.npz")
    model = build(tmp_path, system, backbone)
    checkpoint = stored(recorded)
    translation = names.find_source(checkpoint).translate(checkpoint)
    for variable in model.training_network.weights:
        variable.assign(translation.pop(variable.name.partition(":")[0]).read())
    assert not translation, sorted(translation)
    image = np.random.RandomState(0).standard_normal([1, 64, 96, 3]).astype(np.float32)
    np.testing.assert_array_equal(image[0, 0, 0], recorded["first_of_image"])

    @tf.function(autograph=False)
    def run(form):
        with forms.use(form):
            inputs = {"image": image, "image_info": tf.zeros([1, 4, 2])}
            return model.training_network(inputs, training=False)

    for form in (forms.Form.CPU, forms.Form.ACCELERATOR):
        found = {key: value.numpy() for key, value in run(form).items()}
        found["mask_features"] = found["mask_features"][:, ::2, ::2]
        for key, value in found.items():
            error = np.linalg.norm(value - recorded[key]) / np.linalg.norm(recorded[key])
            assert error < 1e-4, (form, key, error)
