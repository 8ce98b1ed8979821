"""Trains a model of detectron2, or the authors' Panoptic FCN, on batches that `learning.py` wrote.

Runs where the script of the same model runs that measures speed. Reads the weights that it starts
from, trains, and writes those that it ends with under the same names.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Callable, Dict, Mapping, NamedTuple

import learning_steps
import measuring
import numpy as np
import torch
from detectron2.utils.events import EventStorage


class _Model(NamedTuple):
    """What is trained.

    Attributes:
      module: the script that measures its speed.
      options: of its configuration; `learning.py` has the same network.
    """

    module: str
    options: Mapping[str, Any]


_RESNET: Dict[str, Any] = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
}
_MODELS = {
    "panoptic_deeplab": _Model(
        "detectron2_panoptic_deeplab",
        {
            **_RESNET,
            "INPUT.CROP.SIZE": (128, 128),
            "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 10,
            "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [1, 2, 3],
            "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 64,
            "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": [16, 32],
            "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64,
            "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS": 64,
            "MODEL.INS_EMBED_HEAD.ASPP_DILATIONS": [1, 2, 3],
            "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS": 64,
            "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS": [16, 32],
            "MODEL.INS_EMBED_HEAD.CONVS_DIM": 32,
            "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS": 32,
            "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT": 0.1,
        },
    ),
    "panoptic_fpn": _Model(
        "detectron2_panoptic_fpn",
        {
            **_RESNET,
            "MODEL.FPN.OUT_CHANNELS": 64,
            "MODEL.FPN.NORM": "BN",
            "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128], [256]],
            "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 64,
            "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
            "MODEL.ROI_HEADS.NUM_CLASSES": 6,
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
            "MODEL.ROI_BOX_HEAD.FC_DIM": 256,
            "MODEL.ROI_MASK_HEAD.NUM_CONV": 2,
            "MODEL.ROI_MASK_HEAD.CONV_DIM": 64,
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64,
            "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 1.0,
        },
    ),
    "panoptic_fcn": _Model(
        "panoptic_fcn_authors",
        {
            **_RESNET,
            "MODEL.FPN.OUT_CHANNELS": 64,
            "MODEL.SEMANTIC_FPN.CONVS_DIM": 64,
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
            "MODEL.POSITION_HEAD.NUM_CONVS": 1,
            "MODEL.POSITION_HEAD.CONVS_DIM": 64,
            "MODEL.POSITION_HEAD.THING.NUM_CLASSES": 6,
            "MODEL.POSITION_HEAD.THING.POS_NUM": 1,
            "MODEL.POSITION_HEAD.STUFF.NUM_CLASSES": 5,
            "MODEL.KERNEL_HEAD.NUM_CONVS": 1,
            "MODEL.KERNEL_HEAD.CONVS_DIM": 64,
            "MODEL.KERNEL_HEAD.INSTANCE_SCALES": (
                (1, 48),
                (32, 80),
                (64, 128),
                (96, 192),
                (160, 2048),
            ),
            "MODEL.FEATURE_ENCODER.CONVS_DIM": 32,
        },
    ),
}


def main() -> None:
    """Trains and prints JSON."""
    parser = learning_steps.build_parser(__doc__)
    parser.add_argument("--system", choices=list(_MODELS), required=True)
    arguments = parser.parse_args()
    learning_steps.prepare(arguments)
    name, options = _MODELS[arguments.system]
    module = importlib.import_module(name)
    start = measuring.load(os.path.join(arguments.folder, "start.npz"))
    _, model = module.build(start, options)

    def prepare_step(batch: Dict[str, np.ndarray]) -> Callable[[], torch.Tensor]:
        batch["train_image"] = batch.pop("image").astype(np.float32)
        elements = module.training_batch(model, batch)
        return lambda: sum(model(elements).values())

    with EventStorage():
        learning_steps.train(model, prepare_step, arguments)
    end = {}
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for name, value in measuring.select(start, "weights/").items():
        # Where each number of ours goes says where it comes back from.
        parameter, places = module.to_parameter(name, np.arange(value.size).reshape(value.shape))
        ours = np.empty(value.size, value.dtype)
        ours[places.ravel()] = state[parameter].ravel()
        end[f"weights/{name}"] = ours.reshape(value.shape)
    np.savez(os.path.join(arguments.folder, "end.npz"), **end)


if __name__ == "__main__":
    main()
