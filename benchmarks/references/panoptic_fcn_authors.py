"""The authors' Panoptic FCN R-50 for `network.py` and `postprocess.py`.

PYTHONPATH=PanopticFCN python benchmarks/network.py --system=panoptic_fcn --repetitions=3 \\
    --reference_python=other/bin/python
PYTHONPATH=PanopticFCN python benchmarks/postprocess.py --system=panoptic_fcn --repetitions=3 \\
    --reference_python=other/bin/python

`other` is an environment with PyTorch, torchvision and detectron2 from its repository;
`PanopticFCN` is a copy of the repository dvlab-research/PanopticFCN. Measured with PanopticFCN
f4141c3, detectron2 02b5c4e, PyTorch 2.13 and the deformable convolution of torchvision 0.14.1:
detectron2's own has no CPU version, so its layer calls torchvision's.

network: one normalised image to the logits and kernels of all levels and the encoded feature.
position_head: the part of it that has the deformable convolutions. training_step: two images,
targets, forward, losses, backward, clipping, update. post: from drawn outputs of the heads to
instances, semantic scores and panoptic map at the image's size.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, Mapping, Tuple

import experts
import measuring
import numpy as np
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import deform_conv
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import BitMasks, ImageList, Instances
from panopticfcn import add_panopticfcn_config

_LEVELS = "34567"
_DIVISOR = 1000
_IGNORED = 255

# What PanopticFCN-R50-1x.yaml sets that the speed depends on, and what makes both sides do the
# same: images are normalised already, a step does all its work and leaves the weights alone.
_SETTINGS: Dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "PanopticFCN",
    "MODEL.DEVICE": "cpu",
    "MODEL.PIXEL_MEAN": [0.0, 0.0, 0.0],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "SOLVER.BASE_LR": 1e-12,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
}

# Of our layers, in order, and of the reference's; see `measuring.parameter_name`.
_NAMES: measuring.Names = [
    (r"^backbone/stem/", "backbone/bottom_up/stem/"),
    (r"^backbone/res(\d)_(\d+)/", r"backbone/bottom_up/res\1/\2/"),
    (r"^fpn/(lateral|output)_([2-5])/", r"backbone/fpn_\1\2/"),
    (r"^fpn/output_([67])/", r"backbone/top_block/p\1/"),
    # Every second module upsamples.
    (r"^semantic_fpn/level_(\d)_0/", r"semantic_fpn/p\1/0/"),
    (r"^semantic_fpn/level_(\d)_1/", r"semantic_fpn/p\1/2/"),
    (r"^semantic_fpn/level_(\d)_2/", r"semantic_fpn/p\1/4/"),
    (r"^(position|kernel)_head/stack/conv(\d)/", r"\1_head/\1_head/\1_head_head_\2/"),
    (r"^feature_encoder/stack/conv(\d)/", r"feature_encoder/encode_head/encode_head_head_\1/"),
    (r"(position_head_head_\d)/conv/offset/", r"\1/offset_mask_conv/"),
    (r"(position_head_head_\d)/(conv|norm)/", r"\1/dcnv2/\2/"),
    (r"^position_head/centers/", "position_head/out_inst/"),
    (r"^position_head/stuff/", "position_head/out_sem/"),
    (r"^kernel_head/predictor/", "kernel_head/out_conv/"),
    (r"^(thing|stuff)_embedding/", r"\1_generator/embed_extractor/"),
]


def main() -> None:
    """Measures what the workload is of, prints JSON."""
    arguments = measuring.parse_arguments(__doc__)
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    workload = measuring.load(arguments.workload)
    measure = experts.timer(arguments)
    seconds: Dict[str, float] = {}
    counts: Dict[str, int] = {}
    memory: Dict[str, measuring.Megabytes] = {}
    more: Dict[str, Any] = {}
    config, model = build(workload, {})
    model.eval()
    if "raw/encoded" in workload:
        process = _post_processing(model, workload)
        memory["post"] = measuring.megabytes_of(process)
        seconds["post"] = measure(process)
        segments, counts = _count_post(model, process)
        more["segments"] = measuring.write_beside_workload(
            arguments.workload, "reference_segments.npz", segments=segments
        )
    is_network_measured = "raw/encoded" not in workload or "train_image" in workload
    if is_network_measured:
        with torch.no_grad():
            seconds["network"] = measure(_network(model, workload))
            seconds["position_head"] = measure(_position_head(model, workload))
    if "train_image" in workload:
        model.train()
        batch = training_batch(model, workload)
        counts.update(_count_pairs(model, batch))
        step = _training_step(config, model, batch)
        seconds["training_step"] = measure(step)
        memory["training_step"] = measuring.megabytes_of(step)
    if is_network_measured:
        build_network = functools.partial(_network, workload=workload)
        seconds["network_expert"] = experts.seconds_of(build_network, model, measure)
    measuring.print_result(seconds, counts, memory=memory, **more)


def build(
    workload: measuring.Workload, options: Mapping[str, Any]
) -> Tuple[CfgNode, torch.nn.Module]:
    """The model with the workload's weights.

    Args:
      workload: with `weights/...`.
      options: of the configuration.
    """
    deform_conv.modulated_deform_conv = _deform_on_cpu
    config = get_cfg()
    add_panopticfcn_config(config)
    settings = {**_SETTINGS, **options}
    config.merge_from_list([part for setting in settings.items() for part in setting])
    model = build_model(config)
    weights = measuring.select(workload, "weights/")
    state = dict(to_parameter(name, value) for name, value in weights.items())
    model.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return config, model


def to_parameter(name: str, value: np.ndarray) -> Tuple[str, np.ndarray]:
    """Name and value of the parameter that one of our variables is here."""
    if value.ndim == 2:  # of a dense layer, which is a 1x1 convolution there
        value = value[np.newaxis, np.newaxis]
    return measuring.parameter_name(name, _NAMES), measuring.convolution_kernel(name, value)


def _deform_on_cpu(
    x: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    bias: Any,
    stride: int,
    padding: int,
    dilation: int,
    *groups: int,
) -> torch.Tensor:
    """What detectron2's layer calls; torchvision has the groups from the shapes."""
    del groups
    x, offset, mask = x.float(), offset.float(), mask.float()  # Its CPU kernel has no bfloat16.
    return torchvision.ops.deform_conv2d(
        x, offset, weight, bias, stride, padding, dilation, mask=mask
    )


def _heads(model: torch.nn.Module, images: torch.Tensor) -> List[Any]:
    """Center logits, stuff logits and kernels, each of all levels, and the encoded feature."""
    features = model.backbone(images)
    encoded = model.feature_encoder(model.semantic_fpn(features))
    levels = [model.forward_single_level(features[name]) for name in model.in_feature]
    return [*(list(outputs) for outputs in zip(*levels)), encoded]


def _network(model: torch.nn.Module, workload: measuring.Workload) -> Callable[[], Any]:
    """One image to the outputs of the heads."""
    image = torch.tensor(measuring.channels_first(workload["image"]))
    return lambda: _heads(model, image)


def _position_head(model: torch.nn.Module, workload: measuring.Workload) -> Callable[[], Any]:
    """The position head alone, on the pyramid of the image."""
    features = model.backbone(torch.tensor(measuring.channels_first(workload["image"])))
    return lambda: [model.position_head(features[name]) for name in model.in_feature]


def _post_processing(
    model: torch.nn.Module, workload: measuring.Workload
) -> Callable[[], Dict[str, Any]]:
    """From the workload's outputs of the heads to what the model answers for an image."""
    raw = {
        name: torch.tensor(measuring.channels_first(value))
        for name, value in measuring.select(workload, "raw/").items()
    }
    outputs = [
        [raw[f"{name}/{level}"] for level in _LEVELS]
        for name in ("center_logits", "stuff_logits", "kernels")
    ]
    height, width = workload["image"].shape[1:3]
    # Of the image, only the shape is read.
    batch = [{"image": torch.zeros(3, height, width), "height": height, "width": width}]
    return lambda: model.inference(batch, None, *outputs, raw["encoded"])[0]


def _count_post(
    model: torch.nn.Module, process: Callable[[], Dict[str, Any]]
) -> Tuple[np.ndarray, Dict[str, int]]:
    """The map as `postprocess.py` compares it, and what is found."""
    counts: Dict[str, int] = {}

    def count_things(_: Any, inputs: Any, outputs: Any) -> None:
        counts["centers"] = int(inputs[3])
        counts["kernels_after_fusion"] = len(outputs[1][0])

    def count_stuff(_: Any, inputs: Any, outputs: Any) -> None:
        counts["stuff_kernels"] = len(outputs[1][0])

    model.thing_generator.register_forward_hook(count_things)
    model.stuff_generator.register_forward_hook(count_stuff)
    result = process()
    scores = result["instances"].scores
    panoptic, segments = result["panoptic_seg"]
    things = sum(segment["isthing"] for segment in segments)
    counts["detections"] = len(scores)
    counts["detections_in_merge"] = int((scores >= model.panoptic_inst_thrs).sum())
    counts["thing_segments"] = things
    counts["stuff_segments"] = len(segments) - things
    # Classes of things count from 0; class 0 of stuff is any thing.
    num_things = model.cfg.MODEL.POSITION_HEAD.THING.NUM_CLASSES
    rows = [0]
    for number, segment in enumerate(segments, start=1):
        category = segment["category_id"] + (1 if segment["isthing"] else num_things)
        rows.append(category * _DIVISOR + number)
    return np.array(rows)[panoptic.numpy()], counts


def training_batch(model: torch.nn.Module, batch: measuring.Workload) -> List[Dict[str, Any]]:
    """Images with ground truth as detectron2's mapper would give them.

    Args:
      model: of `build`.
      batch: `train_image`, `truth/category_mask` and `truth/instance_mask`.
    """
    num_things = model.cfg.MODEL.POSITION_HEAD.THING.NUM_CLASSES
    elements = []
    for image, categories, ids in zip(
        measuring.channels_first(batch["train_image"]),
        batch["truth/category_mask"],
        batch["truth/instance_mask"],
    ):
        found = [i for i in np.unique(ids) if i]
        instances = Instances(image.shape[-2:])
        instances.gt_masks = BitMasks(torch.tensor(ids == np.reshape(found, [-1, 1, 1])))
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        instances.gt_classes = torch.tensor(
            [int(categories[ids == i][0]) - 1 for i in found], dtype=torch.int64
        )
        # 0 is any thing.
        stuff = np.where(categories == 0, _IGNORED, np.maximum(categories - num_things, 0))
        semantic = torch.tensor(stuff, dtype=torch.int64)
        elements.append({"image": torch.tensor(image), "instances": instances, "sem_seg": semantic})
    return elements


def _copy_targets(batch: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The model writes into the `sem_seg` that it is given."""
    return [{**element, "sem_seg": element["sem_seg"].clone()} for element in batch]


@torch.no_grad()
def _count_pairs(model: torch.nn.Module, batch: List[Dict[str, Any]]) -> Dict[str, int]:
    """Pairs of instance and level, of stuff category and level."""
    images = [element["image"] for element in batch]
    image_list = ImageList.from_tensors(images, model.backbone.size_divisibility)
    *_, kernels, encoded = _heads(model, image_list.tensor)
    targets = model.get_ground_truth.generate(_copy_targets(batch), image_list, kernels, encoded)
    return {
        "pairs": int(sum(valid.sum() for valid in targets["index_mask"])),
        "stuff_pairs": int(sum(valid.sum() for valid in targets["sem_index"])),
    }


def _training_step(
    config: CfgNode, model: torch.nn.Module, batch: List[Dict[str, Any]]
) -> Callable[[], None]:
    """Targets, forward, losses, backward, update of SGD with momentum."""
    optimizer = build_optimizer(config, model)

    def step() -> None:
        losses = model(_copy_targets(batch))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
