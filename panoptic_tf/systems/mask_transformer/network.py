"""The networks of mask transformers over shared layers."""

from __future__ import annotations

from typing import Any, Dict, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.layers import dynamic_conv
from panoptic_tf.structures import Tensors
from panoptic_tf.systems import config as base_config
from panoptic_tf.systems.mask_transformer import config as transformer_config
from panoptic_tf.systems.mask_transformer import pixel_decoders
from panoptic_tf.systems.mask_transformer.postprocessor import MaskTransformerPostProcessor
from panoptic_tf.systems.mask_transformer.transformer_decoder import TransformerDecoder

# Its layer, the levels that it returns, the field of the config that it does not read.
_PIXEL_DECODERS = {
    "deformable": (pixel_decoders.DeformablePixelDecoder, ("5", "4", "3", "2"), "dropout"),
    "fpn": (pixel_decoders.TransformerFPN, ("5",), "num_points"),
}


def build_networks(
    config: transformer_config.Model, dataset_info: DatasetInfo
) -> Tuple[tf.keras.Model, tf.keras.Model]:
    """Builds the training and the inference network.

    Args:
      config: the network's config.
      dataset_info: categories; channel c of the classes is category c + 1.

    Returns:
      training_network: `image` [B, *train_size, 3] and `image_info` [B, 4, 2] -> what
        `MaskTransformerLoss` takes.
      inference_network: `image` [B, *input_size, 3], `image_info` -> `structures.Prediction` keys.
    """
    # Layers
    backbone = base_config.build_backbone(config.backbone, config.train_size)
    pixel_decoder = _build_pixel_decoder(config)
    decoder = TransformerDecoder(
        dataset_info.num_categories,
        channels=config.channels,
        name="transformer_decoder",
        **config.decoder.as_dict(),
    )
    as_float32 = tf.keras.layers.Activation("linear", dtype=tf.float32, name="mask_features")
    postprocessor = build_postprocessor(config, dataset_info)

    def run(image: tf.Tensor) -> Tensors:
        """Class logits and mask embeddings of all predictions, and the masks' features, float32."""
        features = pixel_decoder(backbone(image))
        return {**decoder(features), "mask_features": as_float32(features["mask_features"])}

    # Functional graph
    inputs = _inputs(config.train_size)
    training_outputs = run(inputs["image"])

    inference_inputs = _inputs(config.input_size)
    outputs = run(inference_inputs["image"])
    last = {
        "class_logits": outputs["class_logits"][:, -1],
        "mask_logits": dynamic_conv.mask_logits(
            outputs["mask_embeddings"][:, -1], outputs["mask_features"]
        ),
    }
    prediction = postprocessor(last, inference_inputs["image_info"])

    # Outputs
    return (
        tf.keras.Model(inputs, training_outputs, name="training_network"),
        tf.keras.Model(inference_inputs, prediction, name="inference_network"),
    )


def build_postprocessor(
    config: transformer_config.Model, dataset_info: DatasetInfo
) -> MaskTransformerPostProcessor:
    """The post-processor of a network's config."""
    return MaskTransformerPostProcessor(
        output_size=tuple(config.output_size or config.input_size),
        thing_ids=dataset_info.thing_ids,
        num_categories=dataset_info.num_categories,
        **config.postprocessor.as_dict(),
    )


def _build_pixel_decoder(config: transformer_config.Model) -> tf.keras.layers.Layer:
    """The pixel decoder of a network's config.

    Raises:
      ValueError: it has no such name, sets what this one does not read, or does not return the
        levels that the queries attend to.
    """
    options: Dict[str, Any] = config.pixel_decoder.as_dict()
    name = options.pop("name")
    if name not in _PIXEL_DECODERS:
        raise ValueError(
            f"task.model.pixel_decoder.name must be 'deformable' or 'fpn', got {name!r}."
        )
    build, known, unread = _PIXEL_DECODERS[name]
    default, value = getattr(transformer_config.PixelDecoder(), unread), options.pop(unread)
    if value != default:
        raise ValueError(
            f"task.model.pixel_decoder.{unread} must be {default}, its default, got {value}: the "
            f"pixel decoder {name!r} does not read it."
        )
    levels = list(config.decoder.levels)
    if not levels or any(level not in known for level in levels):
        raise ValueError(
            f"task.model.decoder.levels must be some of {', '.join(known)}, which the pixel "
            f"decoder {name!r} returns, got {levels}."
        )
    return build(config.channels, name="pixel_decoder", **options)


def _inputs(size: Sequence[int]) -> Dict[str, tf.keras.Input]:
    return {
        "image": tf.keras.Input([*size, 3], name="image"),
        "image_info": tf.keras.Input([4, 2], name="image_info"),
    }
