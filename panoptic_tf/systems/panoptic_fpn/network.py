"""The networks of Panoptic FPN (arXiv:1901.02446) over shared layers.

With one of the two branches they are Mask R-CNN (arXiv:1703.06870) or Semantic FPN.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.layers.fpn import FPN
from panoptic_tf.layers.semantic_fpn import SemanticFPN
from panoptic_tf.structures import Tensors
from panoptic_tf.systems import config as base_config
from panoptic_tf.systems.panoptic_fpn import config as fpn_config
from panoptic_tf.systems.panoptic_fpn.instance_branch import InstanceBranch
from panoptic_tf.systems.panoptic_fpn.postprocessor import PanopticFPNPostProcessor
from panoptic_tf.systems.panoptic_fpn.targets import num_planes

_SHARINGS = ("shared", "split")


def build_networks(
    config: fpn_config.Model, dataset_info: DatasetInfo, *, max_instances: int
) -> Tuple[tf.keras.Model, tf.keras.Model]:
    """Builds the training and the inference network.

    Args:
      config: the network's config.
      dataset_info: categories.
      max_instances: of the targets.

    Returns:
      training_network: `image` [B, *train_size, 3], `image_info` [B, 4, 2] and, with an instance
        branch, the features of the target generator -> what `PanopticFPNLoss` takes.
      inference_network: `image` [B, *input_size, 3], `image_info` -> `structures.Prediction` keys.
    """
    _check(config, dataset_info)
    # Layers
    instance, semantic = (
        has_instance_branch(config, dataset_info),
        has_semantic_branch(config, dataset_info),
    )
    trunk = _Trunk(config, has_instance_branch=instance, has_semantic_branch=semantic)
    instance_branch = InstanceBranch(config, len(dataset_info.thing_ids)) if instance else None
    semantic_branch = _semantic_branch(config, dataset_info) if semantic else None
    postprocessor = build_postprocessor(config, dataset_info)

    # Functional graph
    training_inputs = _inputs(config.train_size)
    features = trunk(training_inputs["image"])
    training_outputs: Tensors = {}
    if instance_branch is not None:
        training_inputs.update(_truth_inputs(config.train_size, max_instances))
        training_outputs.update(instance_branch.train(features["instance"], training_inputs))
    if semantic_branch is not None:
        training_outputs["semantic_logits"] = semantic_branch(features["semantic"])

    inference_inputs = _inputs(config.input_size)
    features = trunk(inference_inputs["image"])
    raw: Tensors = {}
    if instance_branch is not None:
        raw.update(instance_branch.detect(features["instance"], inference_inputs["image_info"]))
    if semantic_branch is not None:
        raw["semantic_logits"] = semantic_branch(features["semantic"])
    prediction = postprocessor(raw, inference_inputs["image_info"])

    # Outputs
    return (
        tf.keras.Model(training_inputs, training_outputs, name="training_network"),
        tf.keras.Model(inference_inputs, prediction, name="inference_network"),
    )


def has_instance_branch(config: fpn_config.Model, dataset_info: DatasetInfo) -> bool:
    """Whether the network finds instances: asked for, and there are thing categories."""
    return config.has_instance_branch and bool(dataset_info.thing_ids)


def has_semantic_branch(config: fpn_config.Model, dataset_info: DatasetInfo) -> bool:
    """Whether the network has a semantic branch: asked for, and there is more than one class."""
    return config.has_semantic_branch and len(semantic_categories(config, dataset_info)) > 1


def semantic_categories(config: fpn_config.Model, dataset_info: DatasetInfo) -> List[int]:
    """Category id of each channel of the semantic branch; 0 is the class of all things.

    Raises:
      ValueError: unknown `thing_classes`.
    """
    if config.semantic.thing_classes == "all":
        return list(range(1, dataset_info.num_categories + 1))
    if config.semantic.thing_classes != "other":
        raise ValueError(
            "task.model.semantic.thing_classes must be 'other' or 'all', got "
            f"{config.semantic.thing_classes!r}."
        )
    return ([0] if dataset_info.thing_ids else []) + list(dataset_info.stuff_ids)


def channel_of_category(config: fpn_config.Model, dataset_info: DatasetInfo) -> List[int]:
    """Channel + 1 of the semantic branch by category id, entry 0 is 0; empty without a branch."""
    if not has_semantic_branch(config, dataset_info):
        return []
    categories = semantic_categories(config, dataset_info)
    channels = {category: i + 1 for i, category in enumerate(categories)}
    other = channels.get(0, 0)
    return [0] + [channels.get(c, other) for c in range(1, dataset_info.num_categories + 1)]


def build_postprocessor(
    config: fpn_config.Model,
    dataset_info: DatasetInfo,
    *,
    categories: Optional[Sequence[int]] = None,
) -> PanopticFPNPostProcessor:
    """The post-processor of a network's config.

    Args:
      config: the network's config.
      dataset_info: categories.
      categories: see `semantic_categories`; given where the logits have more channels.
    """
    options = config.postprocessor.as_dict()
    for name in ("detection_threshold", "nms_threshold", "max_detections"):
        options.pop(name)
    return PanopticFPNPostProcessor(
        output_size=tuple(config.output_size or config.input_size),
        thing_ids=dataset_info.thing_ids,
        num_categories=dataset_info.num_categories,
        semantic_categories=categories or semantic_categories(config, dataset_info),
        answers_semantic_mask=config.semantic.thing_classes == "all",
        merges=config.has_instance_branch and config.has_semantic_branch,
        **options,
    )


def _check(config: fpn_config.Model, dataset_info: DatasetInfo) -> None:
    """Refuses networks that would predict nothing.

    Raises:
      ValueError: such a config.
    """
    instance = has_instance_branch(config, dataset_info)
    semantic = has_semantic_branch(config, dataset_info)
    if not instance and not semantic:
        raise ValueError(
            "the network needs a branch: set task.model.has_instance_branch (for a data set with "
            "thing categories) or task.model.has_semantic_branch (for one with two classes or "
            f"more); {dataset_info.name} has {len(dataset_info.thing_ids)} thing and "
            f"{len(dataset_info.stuff_ids)} stuff categories."
        )
    if not config.has_instance_branch and config.semantic.thing_classes != "all":
        raise ValueError(
            "a semantic branch alone must predict every category: set "
            "task.model.semantic.thing_classes=all with task.model.has_instance_branch=false."
        )


class _Trunk:
    """Backbone and FPN; features of each branch by level."""

    def __init__(
        self, config: fpn_config.Model, *, has_instance_branch: bool, has_semantic_branch: bool
    ):
        if config.fpn.sharing not in _SHARINGS:
            raise ValueError(
                f"task.model.fpn.sharing must be one of {', '.join(_SHARINGS)}, got "
                f"{config.fpn.sharing!r}."
            )
        self._backbone = base_config.build_backbone(config.backbone, config.train_size)
        branches = [
            name
            for name, there in (
                ("instance", has_instance_branch),
                ("semantic", has_semantic_branch),
            )
            if there
        ]
        self._branches = branches
        extra = "max_pool" if has_instance_branch else "none"
        options: Dict[str, Any] = {"norm": config.fpn.norm}
        if config.fpn.sharing == "shared":
            shared = FPN(config.fpn.filters, extra_levels=extra, name="fpn", **options)
            self._pyramids = {name: shared for name in branches}
            return
        extras = {"instance": extra, "semantic": "none"}
        self._pyramids = {
            name: FPN(
                config.fpn.filters // 2, extra_levels=extras[name], name=f"fpn_{name}", **options
            )
            for name in branches
        }

    def __call__(self, image: tf.Tensor) -> Dict[str, Dict[str, tf.Tensor]]:
        levels = self._backbone(image)
        outputs: Dict[int, Dict[str, tf.Tensor]] = {}
        for pyramid in self._pyramids.values():
            if id(pyramid) not in outputs:
                outputs[id(pyramid)] = pyramid(levels)
        return {name: outputs[id(self._pyramids[name])] for name in self._branches}


def _semantic_branch(config: fpn_config.Model, dataset_info: DatasetInfo) -> SemanticFPN:
    return SemanticFPN(
        config.semantic.filters,
        num_classes=len(semantic_categories(config, dataset_info)),
        norm=config.semantic.norm,
        name="semantic",
    )


def _inputs(size: Sequence[int]) -> Dict[str, tf.keras.Input]:
    return {
        "image": tf.keras.Input([*size, 3], name="image"),
        "image_info": tf.keras.Input([4, 2], name="image_info"),
    }


def _truth_inputs(size: Sequence[int], max_instances: int) -> Dict[str, tf.keras.Input]:
    def truth(name: str, shape: Sequence[int], dtype: tf.DType = tf.float32) -> tf.keras.Input:
        return tf.keras.Input(shape, dtype=dtype, name=name)

    return {
        "gt_boxes": truth("gt_boxes", [max_instances, 4]),
        "gt_classes": truth("gt_classes", [max_instances], tf.int32),
        "gt_valid": truth("gt_valid", [max_instances], tf.bool),
        "gt_masks": truth("gt_masks", [*size, num_planes(max_instances)], tf.int32),
        "is_annotated": truth("is_annotated", []),
        "sampling_seed": truth("sampling_seed", [2], tf.int32),
    }
