"""detectron2's models with random weights: its weight files, and what it computes with them.

python benchmarks/references/detectron2_weights.py --model=panoptic_fpn_R_50_1x \\
    --image=photo.jpg --output_dir=dump
python benchmarks/references/detectron2_weights.py --model=panoptic_deeplab_R_52_coco \\
    --image=photo.jpg --output_dir=dump --repository=detectron2

Runs in an environment with PyTorch, torchvision, panopticapi, setuptools before 81 and detectron2
from its repository; measured with detectron2 02b5c4e, PyTorch 2.14 and torchvision 0.29.
`--repository` is a copy of it, for the configurations of its projects: the package leaves them out.

The models are those of the published configurations. Norms are drawn as `backbone_weights.py` has
it, predictors so that scores pass the thresholds and vary over the image. Written are:
  model.pkl: as the files of the model zoo, with the buffers that older versions kept.
  model.pth: as its trainings write.
  names.txt: name and shape of what a model of this version holds.
  reference.npz, floats float32 and channels last, over the whole padded frame of the network:
    image: uint8 RGB [H, W, 3], before normalisation. network_size: int32 [2], of that frame.
    C2..C5. panoptic_category (of the data set, 0 void), panoptic_instance (segment): int32 [H, W].
    R-CNNs: P2..P6, rpn_logits_2..6 [h, w, A], rpn_deltas_2..6 [h, w, A, 4] (dx, dy, dw, dh);
      proposals [50, 4] (x0, y0, x1, y1) and of these box_logits [50, 81] (the last is background),
      box_deltas [50, 80, 4], mask_logits [50, 28, 28, 80]; detection_boxes [N, 4], _scores,
      _categories and _masks (bool [N, H, W]) at the image's size.
    Panoptic FPN: semantic_logits [h, w, 54] before the upsampling by 4. Mask R-CNN has no maps.
    Panoptic-DeepLab: semantic_logits, center [h, w, 1], offset [h, w, 2] (y, x; in pixels of the
      network's input, that is times 4), before the upsampling.

Sizes: with the published Cityscapes configurations, height and width must be multiples of 512 and
1024 (detectron2 raises an error at others: the ASPP pools over 32x64 cells); for COCO, the network
pads to multiples of 640 itself.
"""

from __future__ import annotations

import os
import pickle
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import backbone_weights
import detectron2.data.datasets  # noqa: F401  (registers the data sets)
import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config
from detectron2.structures import Boxes

_NUM_PROPOSALS = 50
_MIN_PROPOSAL = 6.0
_DIVISOR = 1000

_DEEPLAB_NAME = "PanopticSegmentation/panoptic_deeplab_R_52_os16_mg124_poly_"
_CONFIGS = {
    "panoptic_fpn_R_50_1x": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "panoptic_fpn_R_101_3x": "COCO-PanopticSegmentation/panoptic_fpn_R_101_3x.yaml",
    "mask_rcnn_R_50_FPN_1x": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "mask_rcnn_X_101_32x8d_FPN_3x": "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml",
    "panoptic_deeplab_R_52_coco": f"COCO-{_DEEPLAB_NAME}200k_bs64_crop_640_640_coco_dsconv.yaml",
    "panoptic_deeplab_R_52_cityscapes": f"Cityscapes-{_DEEPLAB_NAME}90k_bs32_crop_512_1024.yaml",
    "panoptic_deeplab_R_52_cityscapes_dsconv": (
        f"Cityscapes-{_DEEPLAB_NAME}90k_bs32_crop_512_1024_dsconv.yaml"
    ),
}
_CITYSCAPES_SIZE = (512, 1024)
_DEEPLAB_OUTPUTS = {
    "semantic_logits": "sem_seg_head.predictor",
    "center": "ins_embed_head.center_predictor",
    "offset": "ins_embed_head.offset_predictor",
}


class Predictor(NamedTuple):
    """How the outputs of a layer are spread over the photograph, channel by channel."""

    std: float
    mean: float = 0.0
    mean_std: float = 0.0  # of the channels' means


# By the end of a layer's name.
_PREDICTORS: Dict[str, Predictor] = {
    "rpn_head.objectness_logits": Predictor(2.0, -2.0, 0.5),
    "rpn_head.anchor_deltas": Predictor(0.3, 0.0, 0.1),
    "box_predictor.cls_score": Predictor(2.5, 0.0, 1.0),
    "box_predictor.bbox_pred": Predictor(0.7, 0.0, 0.3),
    "mask_head.predictor": Predictor(2.0, -1.0),
    "sem_seg_head.predictor": Predictor(2.0, 0.0, 2.0),
    "center_predictor": Predictor(0.1, -0.1),  # of which 0.1 is the threshold
    "offset_predictor": Predictor(4.0, 0.0, 2.0),
}


def main() -> None:
    """Writes the weights, the names and the reference."""
    parser = backbone_weights.build_parser(__doc__)
    parser.add_argument("--repository", help="Copy of detectron2's, for Panoptic-DeepLab.")
    backbone_weights.add_options(parser)
    arguments = parser.parse_args()
    config = _config(arguments.model, arguments.repository)
    config.merge_from_list(arguments.options)
    size = arguments.size or (
        _CITYSCAPES_SIZE if "cityscapes" in arguments.model else backbone_weights.SIZE
    )
    image = backbone_weights.read_image(arguments.image, size)
    torch.manual_seed(arguments.seed)
    model = build_model(config).eval()
    run = prepare(model, image, config.INPUT.FORMAT, arguments.output_size)
    randomise(model, run, _predictors(config))

    is_deeplab = config.MODEL.META_ARCHITECTURE == "PanopticDeepLab"
    metadata = MetadataCatalog.get(config.DATASETS.TRAIN[0])
    backbone = "backbone" if is_deeplab else "backbone.bottom_up"
    parts = [f"{backbone}.res{level}" for level in "2345"]
    if is_deeplab:
        parts += list(_DEEPLAB_OUTPUTS.values())
    else:
        parts += ["backbone", "proposal_generator.rpn_head"]
        parts += ["sem_seg_head.predictor"] if hasattr(model, "sem_seg_head") else []
    outputs, result = record(model, parts, run)
    arrays = {
        f"C{level}": backbone_weights.channels_last(outputs[f"{backbone}.res{level}"][0])
        for level in "2345"
    }
    if is_deeplab:
        arrays.update(_deeplab_arrays(outputs))
        arrays.update(deeplab_panoptic(result["panoptic_seg"][0], metadata))
    else:
        arrays.update(_rcnn_arrays(model, outputs, size, arguments.seed))
        arrays.update(_detection_arrays(result["instances"], metadata))
        if "panoptic_seg" in result:
            logits = outputs["sem_seg_head.predictor"][0]
            arrays["semantic_logits"] = backbone_weights.channels_last(logits)
            arrays.update(panoptic_arrays(result["panoptic_seg"], metadata))
    arrays["network_size"] = np.array(arrays["C2"].shape[:2], np.int32) * 4
    os.makedirs(arguments.output_dir, exist_ok=True)
    _save(model, arguments.output_dir)
    names = backbone_weights.torch_names(model.state_dict())
    backbone_weights.write(arguments.output_dir, names, image=image, **arrays)
    if "panoptic_category" in arrays:
        check_panoptic(arrays, metadata)


# What `panoptic_fcn_weights.py` needs, too.


def prepare(
    model: torch.nn.Module,
    image: np.ndarray,
    channel_order: str,
    output_size: Optional[Tuple[int, int]] = None,
) -> Callable[[], Any]:
    """One call of a model on an image, which gets its order of channels and no other change.

    Args:
      model: takes what detectron2's mappers give.
      image: uint8 RGB [H, W, 3].
      channel_order: that the model wants.
      output_size: (height, width) of the image that this one was scaled from, and of the map.

    Returns:
      A function to what the model returns for the image.
    """
    height, width = output_size or image.shape[:2]
    pixels = image if channel_order == "RGB" else image[..., ::-1]
    tensor = torch.tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)), dtype=torch.float32)
    batch = [{"image": tensor, "height": height, "width": width}]

    @torch.no_grad()
    def run() -> Any:
        return model([dict(batch[0])])[0]

    return run


def randomise(
    model: torch.nn.Module, run: Callable[[], Any], predictors: Mapping[str, Predictor]
) -> None:
    """Draws biases, norms and predictors (by the end of a name); all others stay as built."""
    hooks = []
    for name, module in model.named_modules():
        for end, predictor in predictors.items():
            if name.endswith(end):
                hooks.append(module.register_forward_pre_hook(_spread(predictor)))
    backbone_weights.randomise_torch(model, run)
    for hook in hooks:
        hook.remove()


def _spread(predictor: Predictor) -> Callable[..., None]:
    """Sets a layer's weights at its first call."""
    done: List[bool] = []

    def hook(layer: Any, inputs: Tuple[Any, ...]) -> None:
        if done:
            return
        activation = getattr(layer, "activation", None)
        layer.activation = None
        outputs = layer.forward(*inputs)
        layer.activation = activation
        axes = [axis for axis in range(outputs.ndim) if axis != 1]
        if outputs.numel() == outputs.shape[1]:
            return
        done.append(True)
        std, mean = torch.std_mean(outputs, dim=axes)
        scale = predictor.std / std.clamp(min=1e-6)
        target = predictor.mean + predictor.mean_std * torch.randn_like(mean)
        layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.copy_((layer.bias - mean) * scale + target)

    return hook


def record(
    model: torch.nn.Module, names: List[str], run: Callable[[], Any]
) -> Tuple[Dict[str, List[Any]], Any]:
    """What parts of a model give out, call by call, and what the model answers."""
    found: Dict[str, List[Any]] = {name: [] for name in names}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, __, output: found[name].append(output)

    parts = dict(model.named_modules())
    hooks = [parts[name].register_forward_hook(keep(name)) for name in names]
    result = run()
    for hook in hooks:
        hook.remove()
    return found, result


def panoptic_arrays(
    panoptic: Tuple[torch.Tensor, List[Dict[str, Any]]], metadata: Any
) -> Dict[str, np.ndarray]:
    """Of a map of segments and their contiguous categories (things apart from stuff)."""
    segment_map, segments = panoptic
    things = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    stuff = {v: k for k, v in metadata.stuff_dataset_id_to_contiguous_id.items()}
    categories = [0] * (len(segments) + 1)
    for found in segments:
        names = things if found["isthing"] else stuff
        categories[found["id"]] = names[found["category_id"]]
    ids = segment_map.numpy().astype(np.int32)
    return {
        "panoptic_category": np.array(categories, np.int32)[ids],
        "panoptic_instance": ids,
    }


def deeplab_panoptic(panoptic: torch.Tensor, metadata: Any) -> Dict[str, np.ndarray]:
    """Of a map of contiguous category x 1000 + instance; -1 is void."""
    contiguous = {
        **metadata.thing_dataset_id_to_contiguous_id,
        **metadata.stuff_dataset_id_to_contiguous_id,
    }
    names = {v: k for k, v in contiguous.items()}
    values, index = np.unique(panoptic.numpy(), return_inverse=True)
    index = index.reshape(panoptic.shape)
    categories = [names[int(v) // _DIVISOR] if v >= 0 else 0 for v in values]
    ids = np.cumsum(values >= 0) * (values >= 0)
    return {
        "panoptic_category": np.array(categories, np.int32)[index],
        "panoptic_instance": ids.astype(np.int32)[index],
    }


def check_panoptic(arrays: Mapping[str, np.ndarray], metadata: Any) -> None:
    """Raises where the weights give too little to compare."""
    pairs = zip(arrays["panoptic_category"].ravel(), arrays["panoptic_instance"].ravel())
    segments = {(int(c), int(i)) for c, i in pairs if c}
    categories = {category for category, _ in segments}
    things = [c for c, _ in segments if c in metadata.thing_dataset_id_to_contiguous_id]
    void = float((arrays["panoptic_category"] == 0).mean())
    print(
        f"{len(segments)} segments of {len(categories)} categories, {len(things)} of things, "
        f"{100 * void:.1f} % void"
    )
    if len(segments) < 4 or len(categories) < 3 or not 0 < len(things) < len(segments):
        raise ValueError("Too few segments to compare; try another seed.")


# Of detectron2's own models.


def _config(name: str, repository: Any) -> CfgNode:
    if name not in _CONFIGS:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(_CONFIGS)}.")
    if "deeplab" not in name:
        config = model_zoo.get_config(_CONFIGS[name])
    elif not repository:
        raise ValueError(f"{name!r} needs --repository: the package has no configuration of it.")
    else:
        folder = os.path.join(repository, "projects", "Panoptic-DeepLab", "configs")
        config = get_cfg()
        add_panoptic_deeplab_config(config)
        # The one for COCO computes a list of sizes in the file.
        config.merge_from_file(os.path.join(folder, _CONFIGS[name]), allow_unsafe=True)
    config.MODEL.DEVICE = "cpu"
    return config


def _predictors(config: CfgNode) -> Dict[str, Predictor]:
    """Where peaks may lie close to each other, fewer must pass: of 200, the last is left out."""
    predictors = dict(_PREDICTORS)
    if "cityscapes" in config.DATASETS.TRAIN[0]:
        predictors["center_predictor"] = Predictor(0.1, -0.25)
    return predictors


def _deeplab_arrays(outputs: Mapping[str, List[Any]]) -> Dict[str, np.ndarray]:
    arrays = {
        name: backbone_weights.channels_last(outputs[part][0])
        for name, part in _DEEPLAB_OUTPUTS.items()
    }
    # There it multiplies after the upsampling, which is linear.
    arrays["offset"] *= 4.0
    return arrays


def _rcnn_arrays(
    model: torch.nn.Module, outputs: Mapping[str, List[Any]], size: Tuple[int, int], seed: int
) -> Dict[str, np.ndarray]:
    pyramid = outputs["backbone"][0]
    arrays = {
        f"P{level}": backbone_weights.channels_last(pyramid[f"p{level}"]) for level in "23456"
    }
    (logits, deltas) = outputs["proposal_generator.rpn_head"][0]
    for level, level_logits, level_deltas in zip("23456", logits, deltas):
        arrays[f"rpn_logits_{level}"] = backbone_weights.channels_last(level_logits)
        flat = backbone_weights.channels_last(level_deltas)  # [h, w, A x 4]
        arrays[f"rpn_deltas_{level}"] = flat.reshape(*flat.shape[:2], -1, 4)
    proposals = _proposals(size, seed)
    heads = model.roi_heads
    features = [pyramid[name] for name in heads.box_in_features]
    boxes = [Boxes(torch.tensor(proposals))]
    with torch.no_grad():
        box_features = heads.box_head(heads.box_pooler(features, boxes))
        box_logits, box_deltas = heads.box_predictor(box_features)
        mask_logits = heads.mask_head.layers(heads.mask_pooler(features, boxes))
    return {
        **arrays,
        "proposals": proposals,
        "box_logits": box_logits.numpy(),
        "box_deltas": box_deltas.numpy().reshape(_NUM_PROPOSALS, -1, 4),
        "mask_logits": np.ascontiguousarray(mask_logits.numpy().transpose(0, 2, 3, 1)),
    }


def _proposals(size: Tuple[int, int], seed: int) -> np.ndarray:
    """float32 [50, 4] (x0, y0, x1, y1) inside the image, of sides from a few pixels to all."""
    random = np.random.default_rng(seed)
    corners = []
    for length in size[::-1]:
        sides = np.exp(random.uniform(np.log(_MIN_PROPOSAL), np.log(length), _NUM_PROPOSALS))
        starts = random.uniform(0.0, length - sides)
        corners.append((starts, starts + sides))
    (x0, x1), (y0, y1) = corners
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)


def _detection_arrays(instances: Any, metadata: Any) -> Dict[str, np.ndarray]:
    things = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    classes = [things[int(i)] for i in instances.pred_classes]
    return {
        "detection_boxes": instances.pred_boxes.tensor.numpy(),
        "detection_scores": instances.scores.numpy(),
        "detection_categories": np.array(classes, np.int32),
        "detection_masks": instances.pred_masks.numpy(),
    }


def _save(model: torch.nn.Module, output_dir: str) -> None:
    state = model.state_dict()
    torch.save({"model": state, "iteration": 0}, os.path.join(output_dir, "model.pth"))
    arrays = {name: value.numpy() for name, value in state.items()}
    if hasattr(model, "proposal_generator"):
        anchors = model.proposal_generator.anchor_generator.cell_anchors
        for number, level_anchors in enumerate(anchors):
            name = f"proposal_generator.anchor_generator.cell_anchors.{number}"
            arrays[name] = level_anchors.numpy()
    else:
        arrays["pixel_mean"] = model.pixel_mean.numpy()
        arrays["pixel_std"] = model.pixel_std.numpy()
    with open(os.path.join(output_dir, "model.pkl"), "wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, file)


if __name__ == "__main__":
    main()
