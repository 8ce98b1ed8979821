"""detectron2's Panoptic FPN R50, for `network.py` and `postprocess.py`.

python benchmarks/network.py --system=panoptic_fpn --rounds=2 --repetitions=5 \\
    --reference_python=other/bin/python
python benchmarks/postprocess.py --system=panoptic_fpn --rounds=2 --repetitions=5 \\
    --reference_python=other/bin/python

`other` is an environment with PyTorch, torchvision with its compiled operators (ROI align and NMS
are measured), setuptools before 81 and detectron2 from its repository; measured with detectron2
02b5c4e and PyTorch 2.13. The model is `panoptic_fpn_R_50_1x` with our weights, and the workload's
share of positives and matching IoU for the sampled regions.

network: one normalised image to detections with masks and to the semantic logits, which detectron2
upsamples by 4 here already. post: from these to the panoptic map. training_step: two images with
polygons as masks, forward, losses, backward, update of SGD; detectron2 labels anchors in it.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Callable, Dict, List, Mapping, Tuple

import experts
import measuring
import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.solver import build_optimizer
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

_CONFIG = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"
_DIVISOR = 1000
_YX_TO_XY = [1, 0, 3, 2]
_POLYGON_POINTS = 32

_POOLED = 7  # side of a region in the box head

# Images are normalised already.
_SETTINGS: Dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.PIXEL_MEAN": [0.0, 0.0, 0.0],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
}

# Of our layers, in order, and of the reference's; see `measuring.parameter_name`.
_NAMES: measuring.Names = [
    (r"^backbone/stem/", "backbone/bottom_up/stem/"),
    (r"^backbone/res(\d)_(\d+)/", r"backbone/bottom_up/res\1/\2/"),
    (r"^fpn/(lateral|output)_(\d)/", r"backbone/fpn_\1\2/"),
    (r"^rpn/conv/", "proposal_generator/rpn_head/conv/"),
    (r"^rpn/objectness/", "proposal_generator/rpn_head/objectness_logits/"),
    (r"^rpn/deltas/", "proposal_generator/rpn_head/anchor_deltas/"),
    (r"^box/fc(\d)/", r"roi_heads/box_head/fc\1/"),
    (r"^box/classes/", "roi_heads/box_predictor/cls_score/"),
    (r"^box/deltas/", "roi_heads/box_predictor/bbox_pred/"),
    (r"^mask/conv(\d)/", r"roi_heads/mask_head/mask_fcn\1/"),
    (r"^mask/(deconv|predictor)/", r"roi_heads/mask_head/\1/"),
    # Every second layer of a level upsamples.
    (r"^semantic/level_(\d)_0/", r"sem_seg_head/p\1/0/"),
    (r"^semantic/level_(\d)_1/", r"sem_seg_head/p\1/2/"),
    (r"^semantic/level_(\d)_2/", r"sem_seg_head/p\1/4/"),
    (r"^semantic/predictor/", "sem_seg_head/predictor/"),
]

Truth = Mapping[str, np.ndarray]


def find_bit_masks(truth: Truth) -> BitMasks:
    """The masks of an image: bit i % 32 of plane i // 32 is that of instance i."""
    packed = truth["gt_masks"]  # [H, W, P]
    count = int(truth["gt_valid"].sum())
    masks = [packed[..., i // 32] >> (i % 32) & 1 for i in range(count)]
    return BitMasks(torch.tensor(np.reshape(masks, [count, *packed.shape[:2]]).astype(bool)))


def main() -> None:
    """Measures on the workload, prints JSON."""
    arguments = measuring.parse_arguments(__doc__)
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    workload = measuring.load(arguments.workload)
    options = {
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": float(workload["positive_fraction"]),
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [float(workload["matching_iou"])],
        "SOLVER.BASE_LR": 1e-12,  # the same work at every step, and the network stays what it was
    }
    config, model = build(workload, options)
    measure = experts.timer(arguments)
    network = torch.no_grad()(_network(model.eval(), workload))
    proposals, detections, semantic_logits = network()
    process = _post_processing(model, detections, semantic_logits)

    memory = {"post": measuring.megabytes_of(process)}
    seconds = {"network": measure(network), "post": measure(process)}
    is_merged = detections.scores >= model.combine_instances_score_thresh
    rows, segment_counts = _segments(*process(), model.roi_heads.num_classes)
    counts = {
        "proposals": len(proposals),
        "detections": len(detections),
        "detections_in_merge": int(is_merged.sum()),
        **segment_counts,
    }
    if "train_image" in workload:
        step = _training_step(config, model, workload)
        with EventStorage() as storage:
            seconds["training_step"] = measure(step)
            memory["training_step"] = measuring.megabytes_of(step)
        counts.update(_count_samples(storage, len(workload["train_image"])))
    build_network = functools.partial(_network, workload=workload)
    seconds["network_expert"] = experts.seconds_of(build_network, model, measure)
    path = measuring.write_beside_workload(
        arguments.workload, "reference_segments.npz", segments=rows
    )
    measuring.print_result(seconds, counts, memory=memory, segments=path)


def build(
    workload: measuring.Workload, options: Mapping[str, Any]
) -> Tuple[CfgNode, torch.nn.Module]:
    """The model with the workload's weights.

    Args:
      workload: with `weights/...`.
      options: of the configuration.
    """
    config = model_zoo.get_config(_CONFIG)
    settings = {**_SETTINGS, **options}
    config.merge_from_list([part for setting in settings.items() for part in setting])
    model = build_model(config)
    weights = measuring.select(workload, "weights/")
    state = dict(to_parameter(name, value) for name, value in weights.items())
    missing, unexpected = model.load_state_dict(
        {name: torch.tensor(value) for name, value in state.items()}, strict=False
    )
    missing = [name for name in missing if not re.search("anchor_generator|pixel_", name)]
    if missing or unexpected:
        raise ValueError(f"The models differ: no weights for {missing}, no place for {unexpected}.")
    return config, model


def to_parameter(name: str, value: np.ndarray) -> Tuple[str, np.ndarray]:
    """Name and value of the parameter that one of our variables is here."""
    parameter = measuring.parameter_name(name, _NAMES)
    if "/deltas/" in name:
        boxes = value.reshape(*value.shape[:-1], -1, 4)
        value = boxes[..., _YX_TO_XY].reshape(value.shape)
    if name.startswith("box/fc1/kernel"):
        regions = value.reshape(_POOLED, _POOLED, -1, value.shape[-1])
        value = regions.transpose(2, 0, 1, 3).reshape(value.shape)  # [C * S * S, outputs]
    return parameter, value.T if value.ndim == 2 else measuring.convolution_kernel(name, value)


def training_batch(
    model: torch.nn.Module,
    batch: measuring.Workload,
    find_masks: Callable[[Truth], Any] = find_bit_masks,
) -> List[Dict[str, Any]]:
    """Images with ground truth as detectron2's mapper would give them.

    Args:
      model: of `build`.
      batch: `train_image`, `features/...` and `labels/semantic_mask` of our targets.
      find_masks: from the features of an image to detectron2's masks.
    """
    features = measuring.select(batch, "features/")
    semantic = batch["labels/semantic_mask"].astype(np.int64) - 1
    semantic[semantic < 0] = model.sem_seg_head.ignore_value
    elements = []
    for i, image in enumerate(measuring.channels_first(batch["train_image"])):
        truth = {name: values[i] for name, values in features.items()}
        instances = Instances(image.shape[1:])
        instances.gt_boxes = Boxes(torch.tensor(truth["gt_boxes"][truth["gt_valid"]][:, _YX_TO_XY]))
        classes = truth["gt_classes"][truth["gt_valid"]]
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        instances.gt_masks = find_masks(truth)
        elements.append(
            {
                "image": torch.tensor(image),
                "instances": instances,
                "sem_seg": torch.tensor(semantic[i]),
            }
        )
    return elements


def _network(
    model: torch.nn.Module, workload: measuring.Workload
) -> Callable[[], Tuple[Instances, Instances, torch.Tensor]]:
    """One image to proposals, detections with masks, semantic logits [C, H, W]."""
    (image,) = torch.tensor(measuring.channels_first(workload["image"]))
    images = model.preprocess_image([{"image": image}])

    def network() -> Tuple[Instances, Instances, torch.Tensor]:
        features = model.backbone(images.tensor)
        semantic_logits, _ = model.sem_seg_head(features, None)
        proposals, _ = model.proposal_generator(images, features, None)
        detections, _ = model.roi_heads(images, features, proposals, None)
        return proposals[0], detections[0], semantic_logits[0]

    return network


def _post_processing(
    model: torch.nn.Module, detections: Instances, semantic_logits: torch.Tensor
) -> Callable[[], Tuple[torch.Tensor, List[Dict[str, Any]]]]:
    """Resizing and argmax of the logits, pasting, merge: ids [H, W] and what each of them is."""
    size = detections.image_size

    @torch.no_grad()
    def process() -> Tuple[torch.Tensor, List[Dict[str, Any]]]:
        logits = sem_seg_postprocess(semantic_logits, size, *size)
        # Scales the boxes in place, here by 1.
        instances = detector_postprocess(detections, *size)
        return combine_semantic_and_instance_outputs(
            instances,
            logits.argmax(dim=0),
            model.combine_overlap_thresh,
            model.combine_stuff_area_thresh,
            model.combine_instances_score_thresh,
        )

    return process


def _segments(
    panoptic: torch.Tensor, found: List[Dict[str, Any]], thing_count: int
) -> Tuple[np.ndarray, Dict[str, int]]:
    """The map as `postprocess.py` compares it, and what it counts."""
    values = np.zeros(len(found) + 1, np.int32)
    for segment in found:
        # Things count from 0; stuff from 1, after the one class of all things.
        category = segment["category_id"] + (1 if segment["isthing"] else thing_count)
        values[segment["id"]] = category * _DIVISOR + segment["id"]
    things = sum(segment["isthing"] for segment in found)
    counts = {"thing_segments": things, "stuff_segments": len(found) - things}
    return values[panoptic.numpy()], counts


def _training_step(
    config: CfgNode, model: torch.nn.Module, workload: measuring.Workload
) -> Callable[[], None]:
    """Forward, losses, backward, update of SGD with momentum."""
    batch = training_batch(model, workload, _find_ellipses)
    optimizer = build_optimizer(config, model)

    def step() -> None:
        model.train()
        torch.manual_seed(0)  # the same sampled regions every time
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def _find_ellipses(truth: Truth) -> PolygonMasks:
    """The ellipses that fill the boxes, as polygons."""
    return PolygonMasks([[_ellipse(box)] for box in truth["gt_boxes"][truth["gt_valid"]]])


def _ellipse(box: np.ndarray) -> np.ndarray:
    """A polygon x, y, x, y, ... of the ellipse in a box [ymin, xmin, ymax, xmax]."""
    angles = np.arange(_POLYGON_POINTS) * 2.0 * np.pi / _POLYGON_POINTS
    ymin, xmin, ymax, xmax = box
    x = (xmin + xmax) / 2 + (xmax - xmin) / 2 * np.cos(angles)
    y = (ymin + ymax) / 2 + (ymax - ymin) / 2 * np.sin(angles)
    return np.stack([x, y], axis=1).ravel()


def _count_samples(storage: EventStorage, images: int) -> Dict[str, int]:
    """Sampled regions of the last step; detectron2 records means of the images."""
    latest = storage.latest()
    positives, negatives = (latest[f"roi_head/num_{kind}_samples"][0] for kind in ("fg", "bg"))
    return {
        "sampled": round((positives + negatives) * images),
        "positives": round(positives * images),
    }


if __name__ == "__main__":
    main()
