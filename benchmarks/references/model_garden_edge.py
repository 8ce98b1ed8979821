"""The Model Garden's DeepLabV3+ on MobileNetV3-Large as .tflite files, with drawn weights.

python benchmarks/references/model_garden_edge.py --size=513 --output_prefix=runs/edge/garden_513

It needs tf-models-official only. Heads and norms are those of its experiment
`mnv2_deeplabv3plus_cityscapes`, the backbone is MobileNetV3-Large with an output stride of 16, the
converter's settings are those of `official.vision.serving.export_tflite_lib` (float32, int8). The
input is a normalised image, the output logits at stride 4. Its wheel has no model for Panoptic-
DeepLab. Writes PREFIX_float32.tflite and PREFIX_int8.tflite.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import numpy as np
import tensorflow as tf
from absl import app, flags
from official.vision.configs import semantic_segmentation
from official.vision.modeling import factory

_SIZE = flags.DEFINE_integer("size", 513, "Height and width of the input.")
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 133, "Channels of the logits.")
_OUTPUT_PREFIX = flags.DEFINE_string("output_prefix", None, "Of both files.", required=True)


def main(argv) -> None:
    """Builds, converts and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    tf.keras.utils.set_random_seed(0)
    size = _SIZE.value
    config = semantic_segmentation.mnv2_deeplabv3plus_cityscapes().task.model
    config.num_classes = _NUM_CLASSES.value
    config.backbone.mobilenet.model_id = "MobileNetV3Large"
    config.decoder.aspp.pool_kernel_size = None
    config.norm_activation.use_sync_bn = False
    frame = tf.keras.layers.InputSpec(shape=[1, size, size, 3])
    model = factory.build_segmentation_model(frame, config)

    @tf.function(input_signature=[tf.TensorSpec([1, size, size, 3])])
    def network(image):
        return model(image, training=False)["logits"]

    function = network.get_concrete_function()
    print(f"{model.count_params()} parameters, logits {function.output_shapes}", file=sys.stderr)

    def images():
        rng = np.random.default_rng(0)
        for _ in range(2):
            yield [rng.normal(size=[1, size, size, 3]).astype(np.float32)]

    for kind in ("float32", "int8"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
        if kind == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = images
        with open(f"{_OUTPUT_PREFIX.value}_{kind}.tflite", "wb") as file:
            file.write(converter.convert())


if __name__ == "__main__":
    app.run(main)
