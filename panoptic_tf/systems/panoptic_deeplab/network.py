"""The networks of Panoptic-DeepLab (arXiv:1911.10194) over shared layers."""

from __future__ import annotations

from typing import Any, Dict, Tuple

import tensorflow as tf

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.systems import config as base_config
from panoptic_tf.systems.panoptic_deeplab import config as deeplab_config
from panoptic_tf.systems.panoptic_deeplab.branches import InstanceBranch, SemanticBranch
from panoptic_tf.systems.panoptic_deeplab.postprocessor import PanopticDeepLabPostProcessor


def build_networks(
    config: deeplab_config.Model, dataset_info: DatasetInfo
) -> Tuple[tf.keras.Model, tf.keras.Model]:
    """Builds the training and the inference network.

    Args:
      config: the network's config.
      dataset_info: category count and thing ids.

    Returns:
      training_network: `image` [B, *train_size, 3], `image_info` [B, 4, 2] -> `semantic_logits`,
        `center_heatmap`, `offsets` at stride 4.
      inference_network: `image` [B, *input_size, 3], `image_info` -> `structures.Prediction` keys.
    """
    _check_size(config)
    # Layers
    backbone = base_config.build_backbone(config.backbone, config.train_size)
    stride = backbone.output_strides[config.low_level_features[-1]]
    branches = [
        SemanticBranch(
            dataset_info.num_categories,
            head_channels=config.semantic.head_channels,
            decoder=_decoder_options(config, config.semantic),
            name="semantic",
        )
    ]
    if config.has_instance_branch:
        branches.append(
            InstanceBranch(
                output_stride=stride,
                head_channels=config.instance.head_channels,
                decoder=_decoder_options(config, config.instance),
                center_use_separable_conv=(
                    config.use_separable_conv and not config.center_keeps_plain_conv
                ),
                name="instance",
            )
        )
    postprocessor = build_postprocessor(config, dataset_info)

    def heads(image: tf.Tensor) -> Dict[str, tf.Tensor]:
        features = backbone(image)
        return {key: value for branch in branches for key, value in branch(features).items()}

    # Functional graph
    training_inputs = _inputs(config.train_size)
    inference_inputs = _inputs(config.input_size)
    training_outputs = heads(training_inputs["image"])
    prediction = postprocessor(heads(inference_inputs["image"]), inference_inputs["image_info"])

    # Outputs
    return (
        tf.keras.Model(training_inputs, training_outputs, name="training_network"),
        tf.keras.Model(inference_inputs, prediction, name="inference_network"),
    )


def build_postprocessor(
    config: deeplab_config.Model, dataset_info: DatasetInfo
) -> PanopticDeepLabPostProcessor:
    """The post-processor of a network's config."""
    return PanopticDeepLabPostProcessor(
        output_size=tuple(config.output_size or config.input_size),
        thing_ids=dataset_info.thing_ids,
        align_corners=config.align_corners,
        **config.postprocessor.as_dict(),
    )


def _decoder_options(config: deeplab_config.Model, branch: deeplab_config.Branch) -> Dict[str, Any]:
    return {
        "low_level_features": config.low_level_features,
        "low_level_channels": branch.low_level_channels,
        "decoder_channels": branch.decoder_channels,
        "use_separable_conv": config.use_separable_conv,
        "norm_options": {
            "norm": config.norm,
            "norm_momentum": config.norm_momentum,
            "norm_epsilon": config.norm_epsilon,
        },
        "align_corners": config.align_corners,
        "aspp": {
            "filters": branch.aspp_channels,
            "dilation_rates": config.aspp_dilation_rates,
            "use_separable_conv": config.use_separable_conv and not config.aspp_keeps_plain_conv,
            "pool_size": config.aspp_pool_size,
            "pool_norm": config.aspp_pool_norm,
            "dropout_rate": config.aspp_dropout,
        },
    }


def _inputs(size: Tuple[int, int]) -> Dict[str, tf.keras.Input]:
    return {
        "image": tf.keras.Input([*size, 3], name="image"),
        "image_info": tf.keras.Input([4, 2], name="image_info"),
    }


def _check_size(config: deeplab_config.Model) -> None:
    """Cells lie on pixels from the first to the last only where the sizes allow it.

    Raises:
      ValueError: they do not.
    """
    stride = config.backbone.output_stride
    sizes = [*config.train_size, *config.input_size]
    if config.align_corners and any(length % stride != 1 for length in sizes):
        raise ValueError(
            f"task.model.align_corners needs train_size and input_size of multiples of {stride} "
            f"plus one, got {list(config.train_size)} and {list(config.input_size)}."
        )
