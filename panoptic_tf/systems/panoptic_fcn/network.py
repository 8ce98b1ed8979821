"""The networks of Panoptic FCN (arXiv:2012.00720) over shared layers."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.layers.fpn import FPN
from panoptic_tf.layers.semantic_fpn import SemanticFPN
from panoptic_tf.structures import Tensors
from panoptic_tf.systems import config as base_config
from panoptic_tf.systems.panoptic_fcn import config as fcn_config
from panoptic_tf.systems.panoptic_fcn import heads
from panoptic_tf.systems.panoptic_fcn.kernel_selector import KernelSelector
from panoptic_tf.systems.panoptic_fcn.postprocessor import PanopticFCNPostProcessor
from panoptic_tf.systems.panoptic_fcn.sampling import KernelSampler

_MAX_LEVEL = 7
_ENCODED_LEVELS = ("2", "3", "4", "5")


def build_networks(
    config: fcn_config.Model, dataset_info: DatasetInfo, *, max_instances: int
) -> Tuple[tf.keras.Model, tf.keras.Model]:
    """Builds the training and the inference network.

    Args:
      config: the network's config.
      dataset_info: categories.
      max_instances: of the targets.

    Returns:
      training_network: `image` [B, *train_size, 3], `image_info` [B, 4, 2] and the features of the
        target generator -> what `PanopticFCNLoss` takes.
      inference_network: `image` [B, *input_size, 3], `image_info` -> `structures.Prediction` keys.
    """
    # Layers
    num_things = len(dataset_info.thing_ids)
    num_stuff = len(stuff_categories(config, dataset_info))
    trunk = _Trunk(config, num_things=num_things, num_stuff=num_stuff)
    names = [name for name, count in (("thing", num_things), ("stuff", num_stuff)) if count]
    embeddings = {
        name: heads.build_embedding(config.encoder.filters, name=f"{name}_embedding")
        for name in names
    }
    pooling = {"stuff_pooling": config.stuff_pooling}
    sampler = KernelSampler(**config.sampler.as_dict(), **pooling)
    selector = KernelSelector(**config.selector.as_dict(), **pooling)
    postprocessor = build_postprocessor(config, dataset_info)

    # Functional graph
    inputs = _inputs(config.train_size)
    truth = _truth_inputs(config, names, max_instances=max_instances, num_stuff=num_stuff)
    raw = trunk(inputs["image"])
    encoded = raw.pop("encoded")
    sampled = sampler(raw, truth, inputs["image_info"])
    training_outputs = {
        f"{name}_{level}": x
        for name in ("center_logits", "stuff_logits")
        for level, x in raw.get(name, {}).items()
    }
    for name in names:
        sampled[f"{name}_kernels"] = embeddings[name](sampled[f"{name}_kernels"])
        # Checkpoints hold layers by number, in the order of the sorted keys that lead to them.
        sampled[f"{name}_map"] = encoded
    training_outputs.update(sampled)
    training_inputs = {**inputs, **truth}

    inference_inputs = _inputs(config.input_size)
    raw = trunk(inference_inputs["image"])
    encoded = raw.pop("encoded")
    selected = selector(raw, inference_inputs["image_info"])
    for name in names:
        selected[f"{name}_kernels"] = embeddings[name](selected[f"{name}_kernels"])
    prediction = postprocessor({**selected, "encoded": encoded}, inference_inputs["image_info"])

    # Outputs
    return (
        tf.keras.Model(training_inputs, training_outputs, name="training_network"),
        tf.keras.Model(inference_inputs, prediction, name="inference_network"),
    )


def head_levels(config: fcn_config.Model) -> List[str]:
    """Pyramid levels that things and stuff are found on.

    Raises:
      ValueError: there is no such level, or not one smoothing size for each.
    """
    if config.min_level not in (2, 3):
        raise ValueError(f"task.model.min_level must be 2 or 3, got {config.min_level}.")
    levels = [str(level) for level in range(config.min_level, _MAX_LEVEL + 1)]
    sizes = config.selector.smoothing_sizes
    if len(sizes) != len(levels):
        raise ValueError(
            f"task.model.selector.smoothing_sizes must have {len(levels)} entries, one for each of "
            f"levels {', '.join(levels)} (task.model.min_level), got {list(sizes)}."
        )
    return levels


def stuff_categories(config: fcn_config.Model, dataset_info: DatasetInfo) -> List[int]:
    """Category id of each stuff channel; 0 is the class of all things."""
    if not dataset_info.stuff_ids:
        return []
    things = [0] if config.thing_channel and dataset_info.thing_ids else []
    return [*things, *dataset_info.stuff_ids]


def channel_of_category(config: fcn_config.Model, dataset_info: DatasetInfo) -> List[int]:
    """Stuff channel + 1 by category id, 0 for none; empty where there is no stuff."""
    categories = stuff_categories(config, dataset_info)
    if not categories:
        return []
    channels = {category: i + 1 for i, category in enumerate(categories)}
    other = channels.get(0, 0)
    return [0] + [channels.get(c, other) for c in range(1, dataset_info.num_categories + 1)]


def build_postprocessor(
    config: fcn_config.Model, dataset_info: DatasetInfo
) -> PanopticFCNPostProcessor:
    """The post-processor of a network's config."""
    return PanopticFCNPostProcessor(
        output_size=tuple(config.output_size or config.input_size),
        thing_ids=dataset_info.thing_ids,
        num_categories=dataset_info.num_categories,
        stuff_categories=stuff_categories(config, dataset_info),
        **config.postprocessor.as_dict(),
    )


class _Trunk:
    """Backbone, FPN, heads and encoder."""

    def __init__(self, config: fcn_config.Model, *, num_things: int, num_stuff: int):
        self._levels = head_levels(config)
        self._backbone = base_config.build_backbone(config.backbone, config.train_size)
        self._fpn = FPN(
            config.fpn.filters, extra_levels="convolutions", norm=config.fpn.norm, name="fpn"
        )
        self._position_head = heads.PositionHead(
            num_things, num_stuff, stack=_stack(config.position_head), name="position_head"
        )
        self._kernel_head = heads.KernelHead(stack=_stack(config.kernel_head), name="kernel_head")
        self._feature = _build_feature(config.encoder)
        self._encoder = heads.FeatureEncoder(stack=_stack(config.encoder), name="feature_encoder")

    def __call__(self, image: tf.Tensor) -> Tensors:
        """Nested outputs of the heads by level, and `encoded`."""
        pyramid = self._fpn(self._backbone(image))
        levels = {level: pyramid[level] for level in self._levels}
        feature = self._feature({level: pyramid[level] for level in _ENCODED_LEVELS})
        return {
            **self._position_head(levels),
            "kernels": self._kernel_head(levels),
            "encoded": self._encoder(feature),
        }


def _stack(config: Any) -> Dict[str, Any]:
    names = ("filters", "num_convs", "norm", "deformable", "coordinates")
    return {name: getattr(config, name) for name in names}


def _build_feature(config: fcn_config.FeatureEncoder):
    """What the encoder reads, made of levels 2 to 5.

    Raises:
      ValueError: an unknown feature.
    """
    if config.feature == "level_2":
        return lambda levels: levels["2"]
    if config.feature == "sum":
        return heads.LevelSum(name="level_sum")
    if config.feature != "semantic_fpn":
        raise ValueError(
            "task.model.encoder.feature must be 'semantic_fpn', 'sum' or 'level_2', got "
            f"{config.feature!r}."
        )
    return SemanticFPN(config.semantic_filters, norm=config.semantic_norm, name="semantic_fpn")


def _inputs(size: Sequence[int]) -> Dict[str, tf.keras.Input]:
    return {
        "image": tf.keras.Input([*size, 3], name="image"),
        "image_info": tf.keras.Input([4, 2], name="image_info"),
    }


def _truth_inputs(
    config: fcn_config.Model, names: Sequence[str], *, max_instances: int, num_stuff: int
) -> Dict[str, tf.keras.Input]:
    height, width = (-(-length // 4) for length in config.train_size)
    num_levels = len(head_levels(config))
    shapes = {
        "thing": {
            "gt_classes": ([max_instances], tf.int32),
            "gt_masks": ([height, width, max_instances], tf.uint8),
            "gt_levels": ([max_instances, num_levels], tf.bool),
            "gt_centers": ([max_instances, num_levels], tf.int32),
        },
        "stuff": {"gt_stuff": ([height, width, num_stuff], tf.uint8)},
    }
    return {
        key: tf.keras.Input(shape, dtype=dtype, name=key)
        for name in names
        for key, (shape, dtype) in shapes[name].items()
    }
