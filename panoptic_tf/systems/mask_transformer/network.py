"""The networks of mask transformers over shared layers."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.layers import dynamic_conv
from panoptic_tf.structures import Tensors
from panoptic_tf.systems import config as base_config
from panoptic_tf.systems.mask_transformer import config as transformer_config
from panoptic_tf.systems.mask_transformer import pixel_decoders, query_heads, vision_transformer
from panoptic_tf.systems.mask_transformer.postprocessor import MaskTransformerPostProcessor
from panoptic_tf.systems.mask_transformer.query_heads import QueryHeads
from panoptic_tf.systems.mask_transformer.transformer_decoder import TransformerDecoder
from panoptic_tf.systems.mask_transformer.vision_transformer import VisionTransformer

# From an image, and whether it is for training, to class logits and mask embeddings of all
# predictions and to the masks' features, float32.
Run = Callable[[tf.Tensor, bool], Tensors]

# Its layer, the levels that it returns, the field of the config that it does not read.
_PIXEL_DECODERS = {
    "deformable": (pixel_decoders.DeformablePixelDecoder, ("5", "4", "3", "2"), "dropout"),
    "fpn": (pixel_decoders.TransformerFPN, ("5",), "num_points"),
}

_PIXEL_DECODER_STRIDE = 4


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
    _check_unread(config)
    build = _build_decoders if config.architecture == "decoders" else _build_encoder
    run = build(config, dataset_info)
    postprocessor = build_postprocessor(config, dataset_info)

    # Functional graph
    inputs = _inputs(config.train_size)
    training_outputs = run(inputs["image"], True)

    inference_inputs = _inputs(config.input_size)
    outputs = run(inference_inputs["image"], False)
    features = outputs["mask_features"]
    if config.architecture == "encoder":
        features = features[:, -1]
    last = {
        "class_logits": outputs["class_logits"][:, -1],
        "mask_logits": dynamic_conv.mask_logits(outputs["mask_embeddings"][:, -1], features),
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
        mask_stride=config.mask_stride,
        **config.postprocessor.as_dict(),
    )


def _build_decoders(config: transformer_config.Model, dataset_info: DatasetInfo) -> Run:
    """Mask2Former and MaskFormer.

    Raises:
      ValueError: masks cannot have the stride, or the pixel decoder does not fit.
    """
    if config.mask_stride not in (4, 2, 1):
        raise ValueError(f"task.model.mask_stride must be 4, 2 or 1, got {config.mask_stride}.")
    backbone = base_config.build_backbone(config.backbone, config.train_size)
    pixel_decoder = _build_pixel_decoder(config)
    factor = _PIXEL_DECODER_STRIDE // config.mask_stride
    upscale = tf.keras.layers.Conv2DTranspose(
        config.channels, factor, strides=factor, kernel_initializer=_repeat, name="upscale"
    )
    decoder = TransformerDecoder(
        dataset_info.num_categories,
        channels=config.channels,
        name="transformer_decoder",
        **config.decoder.as_dict(),
    )
    as_float32 = tf.keras.layers.Activation("linear", dtype=tf.float32, name="mask_features")
    classify = tf.keras.layers.Conv2D(
        dataset_info.num_categories, 1, dtype=tf.float32, name="semantic_predictor"
    )

    def run(image: tf.Tensor, is_training: bool) -> Tensors:
        features = pixel_decoder(backbone(image))
        if factor > 1:
            features["mask_features"] = upscale(features["mask_features"])
        outputs = {**decoder(features), "mask_features": as_float32(features["mask_features"])}
        if is_training and config.semantic_branch:
            outputs["semantic_logits"] = classify(outputs["mask_features"])  # [B, h, w, K]
        return outputs

    return run


def _repeat(shape: Sequence[int], dtype: Optional[tf.DType] = None, **_: Any) -> tf.Tensor:
    """A kernel [k, k, C, C] that repeats cells, so that masks of stride 4 are kept at the start."""
    return tf.broadcast_to(tf.eye(shape[-1], dtype=dtype or tf.float32), shape)


def _build_encoder(config: transformer_config.Model, dataset_info: DatasetInfo) -> Run:
    """EoMT.

    Raises:
      ValueError: sizes of training and inference differ, or the annealing does not fit.
    """
    options = config.encoder.as_dict()
    num_joint = options["num_joint_blocks"]
    heads_options = {
        key: options.pop(key) for key in ("num_queries", "annealing_starts", "annealing_ends")
    }
    is_masked = options.pop("masked")
    starts, ends = heads_options["annealing_starts"], heads_options["annealing_ends"]
    if is_masked and (
        len(starts) != len(ends)
        or len(starts) not in (0, num_joint)
        or any(start >= end for start, end in zip(starts, ends))
    ):
        raise ValueError(
            "task.model.encoder.annealing_starts and annealing_ends must be empty or hold a step "
            f"for each of the {num_joint} joint blocks, a start before its end, got {starts} and "
            f"{ends}."
        )
    if not 1 <= num_joint <= options["num_blocks"]:
        raise ValueError(
            f"task.model.encoder.num_joint_blocks must be 1 to num_blocks, got {num_joint}."
        )
    if list(config.train_size) != list(config.input_size):
        raise ValueError(
            "task.model.train_size and input_size must be the same for the architecture 'encoder', "
            f"which learns a position for each patch, got {config.train_size} and "
            f"{config.input_size}."
        )
    patch_size = options["patch_size"]
    backbone = VisionTransformer(name="backbone", **options)
    heads = QueryHeads(
        dataset_info.num_categories,
        channels=options["channels"],
        grid=[length // patch_size for length in config.train_size],
        patch_size=patch_size,
        name="query_heads",
        **heads_options,
    )

    def run(image: tf.Tensor, is_training: bool) -> Tensors:
        tokens = heads(backbone(image), step=query_heads.JOIN)
        predictions = []
        for number in range(num_joint):
            bias = None
            if is_training and is_masked:
                normalised = backbone(tokens, step=vision_transformer.NORM)
                predictions.append(heads(normalised, step=query_heads.PREDICT))
                bias = heads(predictions[-1], step=query_heads.BLOCK, number=number)
                bias = query_heads.spread_bias(bias, tokens.shape[1])
            tokens = backbone(tokens, step=number, bias=bias)
        normalised = backbone(tokens, step=vision_transformer.NORM)
        predictions.append(heads(normalised, step=query_heads.PREDICT))
        return {key: tf.stack([p[key] for p in predictions], axis=1) for key in predictions[0]}

    return run


def _check_unread(config: transformer_config.Model) -> None:
    """Makes sure that what the architecture does not read keeps its default.

    Raises:
      ValueError: it does not, or there is no such architecture.
    """
    unread = {
        "decoders": ("encoder",),
        "encoder": (
            "backbone",
            "channels",
            "mask_stride",
            "semantic_branch",
            "pixel_decoder",
            "decoder",
        ),
    }
    if config.architecture not in unread:
        raise ValueError(
            f"task.model.architecture must be one of {', '.join(unread)}, got "
            f"{config.architecture!r}."
        )
    defaults = transformer_config.Model().as_dict()
    for name in unread[config.architecture]:
        if config.as_dict()[name] != defaults[name]:
            raise ValueError(
                f"task.model.{name} must keep its default: the architecture "
                f"{config.architecture!r} does not read it."
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
