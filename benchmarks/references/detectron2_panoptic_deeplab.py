"""detectron2's Panoptic-DeepLab R-52 with separable convolutions, for `network.py` and others.

python benchmarks/network.py --system=panoptic_deeplab --rounds=2 --repetitions=3 \\
    --reference_python=other/bin/python
python benchmarks/postprocess.py --system=panoptic_deeplab --size=1024,2048 --centers=200 \\
    --reference_python=other/bin/python

`other` is an environment with PyTorch, torchvision, panopticapi and detectron2 from its repository;
measured with detectron2 02b5c4e and PyTorch 2.13. The network gets our weights, batch norm instead
of the synchronised one, no dropout and the pooling of the whole map, as ours in this benchmark.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Callable, Dict, List, Mapping, Tuple

import detectron2.data.datasets  # noqa: F401  (registers COCO)
import experts
import measuring
import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config
from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch.nn import functional

_STRIDE = 4
_DIVISOR = 1000
_IGNORED = 255

# The published configuration for COCO, and what makes both sides do the same.
_SETTINGS: Dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "PanopticDeepLab",
    "MODEL.DEVICE": "cpu",
    "MODEL.PIXEL_MEAN": [0.0, 0.0, 0.0],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.NAME": "build_resnet_deeplab_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4],
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 128,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.SEM_SEG_HEAD.NAME": "PanopticDeepLabSemSegHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res5"],
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": ["res2", "res3"],
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": [32, 64],
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": 0.0,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 133,
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "hard_pixel_mining",
    "MODEL.SEM_SEG_HEAD.LOSS_TOP_K": 1.0,
    "MODEL.SEM_SEG_HEAD.NORM": "BN",
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": True,
    "MODEL.INS_EMBED_HEAD.ASPP_DROPOUT": 0.0,
    "MODEL.INS_EMBED_HEAD.NORM": "BN",
    "MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV": True,
    "DATASETS.TRAIN": ("coco_2017_train_panoptic",),  # whose things and stuff are asked for
    "SOLVER.BASE_LR": 1e-12,
    "SOLVER.WEIGHT_DECAY": 0.0,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
}

# Of our layers, in order, and of the reference's; see `measuring.parameter_name`.
_NAMES: measuring.Names = [
    (r"^backbone/stem/", "backbone/stem/"),
    (r"^backbone/res(\d)_(\d+)/", r"backbone/res\1/\2/"),
    (r"^semantic/decoder/aspp/", "sem_seg_head/decoder/res5/project_conv/"),
    (r"^instance/decoder/aspp/", "ins_embed_head/decoder/res5/project_conv/"),
    (r"^semantic/decoder/", "sem_seg_head/decoder/"),
    (r"^instance/decoder/", "ins_embed_head/decoder/"),
    (r"/branch_(\d)/", r"/convs/\1/"),
    (r"project_conv/pool/conv", "project_conv/convs/4/1"),
    (r"/project_(\d)/", r"/res\1/project_conv/"),
    (r"/fuse_(\d)/separable/", r"/res\1/fuse_conv/"),
    (r"^semantic/semantic_head/conv/separable/", "sem_seg_head/head/"),
    (r"^semantic/semantic_head/predictor", "sem_seg_head/predictor"),
    (r"^instance/offset_head/conv/separable/", "ins_embed_head/offset_head/"),
    (r"^instance/offset_head/predictor", "ins_embed_head/offset_predictor"),
    (r"^instance/center_head/conv/conv1/", "ins_embed_head/center_head/0/"),
    (r"^instance/center_head/conv/conv2/", "ins_embed_head/center_head/1/"),
    (r"^instance/center_head/predictor", "ins_embed_head/center_predictor"),
]


def main() -> None:
    """Measures what the workload is of, prints JSON."""
    arguments = measuring.parse_arguments(__doc__)
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    workload = measuring.load(arguments.workload)
    measure = experts.timer(arguments)
    seconds: Dict[str, float] = {}
    counts: Dict[str, Any] = {}
    memory: Dict[str, measuring.Megabytes] = {}
    more: Dict[str, Any] = {}
    if "raw/offsets" in workload:
        process = _post_processing(workload)
        memory["post"] = measuring.megabytes_of(process)
        seconds["post"] = measure(process)
        rows, counts = _segments(process(), workload)
        more["segments"] = measuring.write_beside_workload(
            arguments.workload, "reference_segments.npz", segments=rows
        )
    if "image" in workload:
        config, model = build(workload, {"INPUT.CROP.SIZE": workload["image"].shape[1:3]})
        seconds["network"] = measure(torch.no_grad()(_network(model.eval(), workload)))
        if "train_image" in workload:
            step = _training_step(config, model, workload)
            seconds["training_step"] = measure(step)
            memory["training_step"] = measuring.megabytes_of(step)
        build_network = functools.partial(_network, workload=workload)
        seconds["network_expert"] = experts.seconds_of(build_network, model, measure)
    measuring.print_result(seconds, counts, memory=memory, **more)


def build(
    workload: measuring.Workload, options: Mapping[str, Any]
) -> Tuple[CfgNode, torch.nn.Module]:
    """The model with the workload's weights.

    Args:
      workload: with `weights/...`.
      options: of the configuration; `INPUT.CROP.SIZE` is (height, width) of all images.
    """
    config = get_cfg()
    add_panoptic_deeplab_config(config)
    settings = {**_SETTINGS, **options}
    settings["MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY"] = int(options["INPUT.CROP.SIZE"][0])
    config.merge_from_list([part for setting in settings.items() for part in setting])
    model = build_model(config)
    weights = measuring.select(workload, "weights/")
    state = dict(to_parameter(name, value) for name, value in weights.items())
    missing, unexpected = model.load_state_dict(
        {name: torch.tensor(value) for name, value in state.items()}, strict=False
    )
    missing = [name for name in missing if not re.search("num_batches|pixel_", name)]
    if missing or unexpected:
        raise ValueError(f"The models differ: no weights for {missing}, no place for {unexpected}.")
    return config, model


def to_parameter(name: str, value: np.ndarray) -> Tuple[str, np.ndarray]:
    """Name and value of the parameter that one of our variables is here."""
    return measuring.parameter_name(name, _NAMES), measuring.convolution_kernel(name, value)


def training_batch(model: torch.nn.Module, batch: measuring.Workload) -> List[Dict[str, Any]]:
    """Images and targets as detectron2's mapper would give them.

    Args:
      model: not looked at.
      batch: `train_image` and `labels/...` of our targets.
    """
    del model
    images = measuring.channels_first(batch["train_image"])
    labels = measuring.select(batch, "labels/")
    return [
        _labels_of(images[i], {name: values[i] for name, values in labels.items()})
        for i in range(len(images))
    ]


def _network(model: torch.nn.Module, workload: measuring.Workload) -> Callable[[], Any]:
    """One image to the outputs of the heads, at their stride."""
    image = torch.tensor(measuring.channels_first(workload["image"]))

    def network() -> Any:
        features = model.backbone(image)
        return model.sem_seg_head.layers(features), *model.ins_embed_head.layers(features)

    return network


def _training_step(
    config: CfgNode, model: torch.nn.Module, workload: measuring.Workload
) -> Callable[[], None]:
    """Forward, losses, backward, update of Adam."""
    batch = training_batch(model, workload)
    parameters = get_default_optimizer_params(
        model,
        weight_decay=config.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=config.SOLVER.WEIGHT_DECAY_NORM,
    )
    optimizer_class = maybe_add_gradient_clipping(config, torch.optim.Adam)
    optimizer = optimizer_class(parameters, config.SOLVER.BASE_LR)

    def step() -> None:
        model.train()
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def _labels_of(image: np.ndarray, labels: Dict[str, np.ndarray]) -> Dict[str, torch.Tensor]:
    """An image as detectron2's mapper would give it."""
    category = labels["category_mask"].astype(np.int64) - 1
    found = {
        "image": image,
        "sem_seg": np.where(category < 0, _IGNORED, category),
        "sem_seg_weights": labels["semantic_weights"],
        "center": labels["center_heatmap"][..., 0],
        "center_weights": labels["center_weights"][np.newaxis, ..., 0],
        "offset": np.ascontiguousarray(labels["offsets"].transpose(2, 0, 1)),
        "offset_weights": labels["offset_weights"][np.newaxis, ..., 0],
    }
    return {name: torch.tensor(value) for name, value in found.items()}


def _post_processing(workload: measuring.Workload) -> Callable[[], Any]:
    """Upsampling of the heads' outputs, argmax, grouping: [1, H, W] with -1 for void."""
    names = ("semantic_logits", "center_heatmap", "offsets")
    raw = [torch.tensor(measuring.channels_first(workload[f"raw/{name}"])) for name in names]
    size = tuple(int(length) for length in workload["size"])
    options = {
        "thing_ids": [int(i) - 1 for i in workload["thing_ids"]],
        "label_divisor": _DIVISOR,
        "stuff_area": int(workload["stuff_area"]),
        "void_label": -1,
        "threshold": float(workload["center_threshold"]),
        "nms_kernel": int(workload["nms_kernel"]),
        "top_k": int(workload["top_k"]),
    }

    @torch.no_grad()
    def process() -> torch.Tensor:
        wide = [
            functional.interpolate(x, scale_factor=_STRIDE, mode="bilinear", align_corners=False)
            for x in raw
        ]
        # The workload's offsets are in pixels already; detectron2 multiplies here.
        wide[2] = wide[2] * 1.0
        logits, centers, offsets = (sem_seg_postprocess(x[0], size, *size) for x in wide)
        best = logits.argmax(dim=0, keepdim=True)
        return get_panoptic_segmentation(best, centers, offsets, **options)[0]

    return process


def _segments(
    panoptic: torch.Tensor, workload: measuring.Workload
) -> Tuple[np.ndarray, Dict[str, int]]:
    """The map as `postprocess.py` compares it, and what it counts."""
    values = panoptic[0].numpy()
    labels = np.unique(values[values >= 0]) // _DIVISOR + 1
    things = int(np.isin(labels, workload["thing_ids"]).sum())
    rows = np.where(values < 0, 0, values + _DIVISOR)
    counts = {
        "thing_segments": things,
        "stuff_segments": len(labels) - things,
        "void_pixels": int((values < 0).sum()),
    }
    return rows, counts


if __name__ == "__main__":
    main()
