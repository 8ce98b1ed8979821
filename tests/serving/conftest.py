"""A stand-in network, fixed and tiny, and its two exported forms."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.inputs import geometry
from panoptic_tf.ops import rescale
from panoptic_tf.postprocess import merge_by_vote, segments
from panoptic_tf.serving.export import export_saved_model
from panoptic_tf.serving.onnx_export import export_onnx
from panoptic_tf.serving.tflite import export_tflite
from panoptic_tf.structures import Prediction

INPUT_SIZE = (32, 48)
OUTPUT_SIZE = (32, 48)
MEAN = (120.0, 110.0, 100.0)
STD = (50.0, 60.0, 70.0)


class ColorsToSegments(tf.keras.layers.Layer):
    """Red and blue are things, green is stuff; a thing is cut in two at the output's middle."""

    def call(self, inputs):
        logits, image_info = inputs
        logits = rescale.rescale_to_image(logits, image_info, OUTPUT_SIZE)
        sizes = rescale.size_in_output(image_info, OUTPUT_SIZE)
        valid = rescale.valid_in_output(sizes, OUTPUT_SIZE)
        semantic = tf.cast(tf.argmax(logits, axis=-1), tf.float32) + 1.0
        semantic = tf.where(valid, semantic, 0.0)
        halves = 1.0 + tf.cast(tf.range(OUTPUT_SIZE[1]) >= OUTPUT_SIZE[1] // 2, tf.float32)
        merged = merge_by_vote.merge_by_vote(
            semantic,
            tf.zeros_like(semantic) + halves,
            tf.zeros_like(logits[:, 0, :2, 0]) + 0.5,
            probability_of=lambda channel: tf.gather(
                tf.nn.softmax(logits), tf.cast(channel, tf.int32), axis=3, batch_dims=3
            ),
            num_categories=3,
            thing_ids=(1, 3),
            stuff_area=1,
        )
        return {
            **segments.build_segments(merged.row_map, merged.rows),
            Prediction.IMAGE_SIZE: sizes,
            Prediction.SEMANTIC_MASK: tf.cast(semantic, tf.int32),
        }


def build_network():
    image = tf.keras.Input([*INPUT_SIZE, 3], name="image")
    image_info = tf.keras.Input([4, 2], name="image_info")
    convolution = tf.keras.layers.Conv2D(3, 1, name="logits")
    logits = convolution(image)
    network = tf.keras.Model(
        {"image": image, "image_info": image_info}, ColorsToSegments()([logits, image_info])
    )
    convolution.set_weights([np.eye(3)[None, None], np.array([0.01, 0.0, -0.01])])
    return network


def arguments(dataset_info):
    return dict(
        dataset_info=dataset_info,
        mean=MEAN,
        std=STD,
        channel_order="RGB",
        input_size=INPUT_SIZE,
        experiment="stand_in",
    )


@pytest.fixture(scope="session")
def dataset_info():
    categories = [
        {"id": 7, "name": "red", "isthing": 1, "color": [255, 0, 0]},
        {"id": 11, "name": "green", "isthing": 0, "color": [0, 255, 0]},
        {"id": 30, "name": "blue", "isthing": 1, "color": [0, 0, 255]},
    ]
    return DatasetInfo.from_coco(categories, name="colors")


@pytest.fixture(scope="session")
def network():
    return build_network()


@pytest.fixture(scope="session")
def export_arguments(dataset_info):
    return arguments(dataset_info)


@pytest.fixture(scope="session")
def saved_model_dir(network, export_arguments, tmp_path_factory):
    export_dir = str(tmp_path_factory.mktemp("saved_model"))
    export_saved_model(network, export_dir=export_dir, max_pixels=100_000, **export_arguments)
    return export_dir


@pytest.fixture(scope="session")
def tflite_path(network, export_arguments, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tflite") / "model.tflite")
    return export_tflite(network, tflite_path=path, **export_arguments)


@pytest.fixture(scope="session")
def onnx_path(network, export_arguments, tmp_path_factory):
    for name in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx")
    path = str(tmp_path_factory.mktemp("onnx") / "model.onnx")
    return export_onnx(network, onnx_path=path, **export_arguments)


@pytest.fixture(scope="session")
def batch(make_image):
    """An image of the network's size, a smaller and a larger one: [3, ...] each."""
    fitted = [
        geometry.fit_and_pad(tf.constant(make_image(*size, seed)), INPUT_SIZE)
        for seed, size in enumerate([(32, 48), (20, 30), (75, 200)])
    ]
    return [np.stack(x) for x in zip(*fitted)]


@pytest.fixture(scope="session")
def make_image():
    """Coloured blocks with some noise: uint8 [height, width, 3]."""

    def make(height, width, seed=0):
        rng = np.random.default_rng(seed)
        colors = 60 + 150 * np.eye(3)[rng.integers(0, 3, (4, 5))]
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 5 // width
        noise = rng.integers(-20, 20, (height, width, 3))
        return np.clip(colors[rows][:, columns] + noise, 0, 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def encode():
    def encode_image(image, image_format="PNG", mode=None, **options):
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        buffer = io.BytesIO()
        (picture.convert(mode) if mode else picture).save(buffer, image_format, **options)
        return buffer.getvalue()

    return encode_image
