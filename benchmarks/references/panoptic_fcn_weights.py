"""The authors' Panoptic FCN with random weights: its weight file, and what it computes with them.

PYTHONPATH=PanopticFCN python benchmarks/references/panoptic_fcn_weights.py --model=R50 \\
    --image=photo.jpg --output_dir=dump

Runs in an environment with PyTorch, torchvision, panopticapi, setuptools before 81 and detectron2
from its repository; `PanopticFCN` is a copy of the repository dvlab-research/PanopticFCN, whose
configurations are read from there. Measured with PanopticFCN f4141c3, detectron2 02b5c4e, PyTorch
2.14 and torchvision 0.29, whose deformable convolution replaces detectron2's: that has no CPU
version. The models are `R50` (`PanopticFCN-R50-3x`; the one of the 1x schedule is the same) and
`R50_enhanced` (`PanopticFCN-Star-R50-3x`: deformable convolutions in the encoder, 256 channels).
With other backbones, the repository has no configuration.

Norms and predictors are drawn as `detectron2_weights.py` has it. Written are:
  model.pth: as its trainings write.
  names.txt: name and shape.
  reference.npz, floats float32 and channels last, over the whole padded frame of the network:
    image: uint8 RGB [H, W, 3], before normalisation; the model gets BGR and subtracts the mean
      that the configuration has in the order RGB. network_size: int32 [2], of the padded frame.
    C2..C5, P3..P7, center_logits_3..7 [h, w, 80], stuff_logits_3..7 [h, w, 54], kernels_3..7
    [h, w, 256], encoded [h, w, 64 or 256] at stride 4; panoptic_category (of COCO, 0 void) and
    panoptic_instance (segment): int32 [H, W]; detection_scores and detection_categories [N].
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping

import backbone_weights
import detectron2_weights
import numpy as np
import panopticfcn
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.layers import deform_conv
from detectron2.modeling import build_model

_CONFIGS = {"R50": "PanopticFCN-R50-3x.yaml", "R50_enhanced": "PanopticFCN-Star-R50-3x.yaml"}
_LEVELS = "34567"

Predictor = detectron2_weights.Predictor

# By the end of a layer's name.
_PREDICTORS = {
    "offset_mask_conv": Predictor(0.7, 0.0, 0.5),  # offsets in cells, and logits of the modulation
    "position_head.out_inst": Predictor(1.2, -3.5, 0.5),
    "position_head.out_sem": Predictor(1.5, -2.0, 1.0),
    "kernel_head.out_conv": Predictor(1.0, 0.0, 0.5),
    # Before the activation: few channels are at work in a place, so that masks are local.
    "encode_head_head_3": Predictor(1.0, -0.8),
    "encode_head_head_3.dcnv2": Predictor(1.0, -0.8),
    "thing_generator.embed_extractor": Predictor(1.0, -1.4, 0.0),
    "stuff_generator.embed_extractor": Predictor(1.0, -0.1, 0.0),
}


def main() -> None:
    """Writes the weights, the names and the reference."""
    parser = backbone_weights.build_parser(__doc__)
    backbone_weights.add_options(parser)
    arguments = parser.parse_args()
    config = _config(arguments.model)
    config.merge_from_list(arguments.options)
    image = backbone_weights.read_image(arguments.image, arguments.size or backbone_weights.SIZE)
    deform_conv.modulated_deform_conv = _deform_on_cpu
    torch.manual_seed(arguments.seed)
    model = build_model(config).eval()
    run = detectron2_weights.prepare(model, image, config.INPUT.FORMAT, arguments.output_size)
    detectron2_weights.randomise(model, run, _predictors(config))

    stages = [f"backbone.bottom_up.res{level}" for level in "2345"]
    parts = [*stages, "backbone", "position_head", "kernel_head", "feature_encoder"]
    outputs, result = detectron2_weights.record(model, parts, run)
    metadata = MetadataCatalog.get(config.DATASETS.TRAIN[0])
    arrays = {
        **_network_arrays(outputs),
        **_detection_arrays(result["instances"], metadata),
        **detectron2_weights.panoptic_arrays(result["panoptic_seg"], metadata),
    }
    os.makedirs(arguments.output_dir, exist_ok=True)
    state = model.state_dict()
    path = os.path.join(arguments.output_dir, "model.pth")
    torch.save({"model": state, "iteration": 0}, path)
    names = backbone_weights.torch_names(state)
    backbone_weights.write(arguments.output_dir, names, image=image, **arrays)
    detectron2_weights.check_panoptic(arrays, metadata)


def _config(name: str) -> CfgNode:
    if name not in _CONFIGS:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(_CONFIGS)}.")
    repository = os.path.dirname(os.path.dirname(os.path.abspath(panopticfcn.__file__)))
    config = get_cfg()
    panopticfcn.add_panopticfcn_config(config)
    config.merge_from_file(os.path.join(repository, "configs", _CONFIGS[name]))
    config.MODEL.DEVICE = "cpu"
    return config


def _predictors(config: CfgNode) -> Dict[str, Predictor]:
    """With a deformable encoder, its layer holds the weights one level further down."""
    unused = "" if config.MODEL.FEATURE_ENCODER.DEFORM else ".dcnv2"
    return {k: v for k, v in _PREDICTORS.items() if k != f"encode_head_head_3{unused}"}


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
    return torchvision.ops.deform_conv2d(
        x, offset, weight, bias, stride, padding, dilation, mask=mask
    )


def _network_arrays(outputs: Mapping[str, List[Any]]) -> Dict[str, np.ndarray]:
    arrays = {f"C{level}": outputs[f"backbone.bottom_up.res{level}"][0] for level in "2345"}
    for number, level in enumerate(_LEVELS):
        arrays[f"P{level}"] = outputs["backbone"][0][f"p{level}"]
        centers, stuff = outputs["position_head"][number]
        arrays[f"center_logits_{level}"] = centers
        arrays[f"stuff_logits_{level}"] = stuff
        arrays[f"kernels_{level}"] = outputs["kernel_head"][number]
    arrays["encoded"] = outputs["feature_encoder"][0]
    arrays = {name: backbone_weights.channels_last(x) for name, x in arrays.items()}
    arrays["network_size"] = np.array(arrays["C2"].shape[:2], np.int32) * 4
    return arrays


def _detection_arrays(instances: Any, metadata: Any) -> Dict[str, np.ndarray]:
    things = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    categories = [things[int(i)] for i in instances.pred_classes]
    return {
        "detection_scores": np.array(instances.scores, np.float32),
        "detection_categories": np.array(categories, np.int32),
    }


if __name__ == "__main__":
    main()
