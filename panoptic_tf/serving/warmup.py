"""Warm-up requests in a SavedModel, so that a server's first response is not its slowest."""

from __future__ import annotations

import os
from typing import Sequence, Tuple

import tensorflow as tf
from absl import logging

_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def write_requests(
    saved_model_dir: str,
    input_type: str,
    *,
    input_size: Tuple[int, int],
    batch_sizes: Sequence[int],
) -> bool:
    """Writes one request per batch size, each of grey images, or none and a log message.

    Args:
      saved_model_dir: folder of the SavedModel.
      input_type: the signature to warm up, named like its input but for `panoptic_png`.
      input_size: (height, width) of the images.
      batch_sizes: one request each.

    Returns:
      Whether tensorflow-serving-api is installed and the file was written.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        logging.info(
            "No warm-up requests: tensorflow-serving-api is not installed "
            "(pip install 'panoptic-tf[serving]')."
        )
        return False
    path = os.path.join(saved_model_dir, _FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = tf.fill([*input_size, 3], tf.constant(128, tf.uint8))
    with tf.io.TFRecordWriter(path) as writer:
        for batch_size in batch_sizes:
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = "serving_default"
            name, value = _input(input_type, image)
            batch = tf.repeat(value[tf.newaxis], batch_size, axis=0)
            request.inputs[name].CopyFrom(tf.make_tensor_proto(batch.numpy()))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
    return True


def _input(input_type: str, image: tf.Tensor) -> Tuple[str, tf.Tensor]:
    if input_type == "image_tensor":
        return "image_tensor", image
    return "image_bytes", tf.io.encode_png(image)
