"""Writes a network's variables as another library would have saved them.

The names are written here once more, from our side to theirs, so that a slip in a table shows.
"""

import pickle
import re

import numpy as np

_YX_TO_XY = [1, 0, 3, 2]
_LEAVES = [
    (r"/conv/(kernel|depthwise_kernel|bias)$", r"/\1"),
    (r"/(depthwise_kernel|kernel|gamma)$", "/weight"),
    (r"/beta$", "/bias"),
    (r"/moving_mean$", "/running_mean"),
    (r"/moving_variance$", "/running_var"),
]
_DETECTRON2_BACKBONE = [
    (r"^backbone/stem/", "backbone/bottom_up/stem/"),
    (r"^backbone/res(\d)_(\d+)/", r"backbone/bottom_up/res\1/\2/"),
    (r"(res\d/\d+/conv2)/conv/offset/", r"\1_offset/"),
]
_FPN = [
    *_DETECTRON2_BACKBONE,
    (r"^fpn/(lateral|output)_([2-5])/", r"backbone/fpn_\1\2/"),
    (r"^fpn/output_([67])/", r"backbone/top_block/p\1/"),
]
_SEMANTIC_LEVELS = [
    (r"/level_(\d)_0/", r"/p\1/0/"),
    (r"/level_(\d)_1/", r"/p\1/2/"),
    (r"/level_(\d)_2/", r"/p\1/4/"),
]
_PANOPTIC_FPN = [
    *_FPN,
    (r"^rpn/objectness/", "rpn/objectness_logits/"),
    (r"^rpn/deltas/", "rpn/anchor_deltas/"),
    (r"^rpn/", "proposal_generator/rpn_head/"),
    (r"^box/classes/", "roi_heads/box_predictor/cls_score/"),
    (r"^box/deltas/", "roi_heads/box_predictor/bbox_pred/"),
    (r"^box/", "roi_heads/box_head/"),
    (r"^mask/conv(\d)/", r"mask/mask_fcn\1/"),
    (r"^mask/", "roi_heads/mask_head/"),
    (r"^semantic/", "sem_seg_head/"),
    *_SEMANTIC_LEVELS,
]
_PANOPTIC_DEEPLAB = [
    (r"^backbone/res(\d)_(\d+)/", r"backbone/res\1/\2/"),
    (r"^semantic/decoder/aspp/", "sem_seg_head/decoder/res5/project_conv/"),
    (r"^instance/decoder/aspp/", "ins_embed_head/decoder/res5/project_conv/"),
    (r"^semantic/(?:semantic_head/(?:conv/)?)?", "sem_seg_head/"),
    (r"^instance/", "ins_embed_head/"),
    (r"/branch_(\d)/", r"/convs/\1/"),
    (r"project_conv/pool/conv", "project_conv/convs/4/1"),
    (r"/project_(\d)/", r"/res\1/project_conv/"),
    (r"/fuse_(\d)/", r"/res\1/fuse_conv/"),
    (r"_head/(separable|conv1|conv2)/", r"_head/head/\1/"),
    (r"_head/conv/", "_head/"),
    (r"ins_embed_head/(center|offset)_head/predictor", r"ins_embed_head/\1_predictor"),
    (r"/separable/", "/"),
    (r"(fuse_conv|_head|/head)/conv1/", r"\1/0/"),
    (r"(fuse_conv|_head|/head)/conv2/", r"\1/1/"),
]
_PANOPTIC_FCN = [
    *_FPN,
    *[(f"^semantic_fpn{pattern}", f"semantic_fpn{new}") for pattern, new in _SEMANTIC_LEVELS],
    (r"^(position|kernel)_head/stack/conv(\d)/", r"\1_head/\1_head/\1_head_head_\2/"),
    (r"^feature_encoder/stack/conv(\d)/", r"feature_encoder/encode_head/encode_head_head_\1/"),
    (r"(\w+_head_head_\d)/conv/offset/", r"\1/offset_mask_conv/"),
    (r"^position_head/centers/", "position_head/out_inst/"),
    (r"^position_head/stuff/", "position_head/out_sem/"),
    (r"^kernel_head/predictor/", "kernel_head/out_conv/"),
    (r"^(thing|stuff)_embedding/", r"\1_generator/embed_extractor/"),
]
_TORCHVISION = [
    (r"^backbone/stem/conv1/norm/", "bn1/"),
    (r"^backbone/stem/conv1/", "conv1/"),
    *[(rf"^backbone/res{i + 1}_(\d+)/", rf"layer{i}/\1/") for i in (1, 2, 3, 4)],
    (r"/conv(\d)/norm/", r"/bn\1/"),
    (r"/shortcut/norm/", "/downsample/1/"),
    (r"/shortcut/", "/downsample/0/"),
]
_CAFFE2 = [
    (r"^backbone/stem/conv1/norm/", "res_conv1_bn/"),
    (r"^backbone/stem/conv1/", "conv1/"),
    (r"^backbone/res(\d)_(\d+)/", r"res\1_\2_"),
    (r"_shortcut/", "_branch1/"),
    (r"_conv1/", "_branch2a/"),
    (r"_conv2/", "_branch2b/"),
    (r"_conv3/", "_branch2c/"),
    (r"/norm/", "_bn/"),
    (r"/conv/kernel$", "_w"),
    (r"/gamma$", "_s"),
    (r"/beta$", "_b"),
    (r"/moving_mean$", "_rm"),
    (r"/moving_variance$", "_riv"),
]


def values_of(variables):
    """Arrays by name, without ":0"."""
    return {variable.name.partition(":")[0]: variable.numpy() for variable in variables}


def randomize(variables, seed=0):
    """Draws every variable anew: norms as after a training, kernels as at its start."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        name, shape = variable.name.partition(":")[0], tuple(variable.shape)
        if name.endswith(("gamma", "moving_variance")):
            values = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(("beta", "bias", "moving_mean")):
            values = rng.normal(0.0, 0.1, shape)
        else:
            values = rng.normal(0.0, np.sqrt(1.0 / np.prod(shape[:-1])), shape)
        variable.assign(values.astype(np.float32))


def _rename(name, rules):
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _kernel(name, values):
    if values.ndim == 2:
        return values.T
    if values.ndim != 4:
        return values
    axes = (2, 3, 0, 1) if name.endswith("depthwise_kernel") else (3, 2, 0, 1)
    return values.transpose(axes)


def _torch_state(values, rules):
    state = {}
    for name, array in values.items():
        theirs = _rename(name, (*rules, *_LEAVES)).replace("/", ".")
        assert theirs not in state, theirs
        state[theirs] = np.ascontiguousarray(_kernel(name, array))
    return state


def panoptic_fpn(values):
    """detectron2's Panoptic FPN and Mask R-CNN."""
    found = {}
    for name, array in values.items():
        if "/deltas/" in name:
            boxes = array.reshape(*array.shape[:-1], -1, 4)
            array = boxes[..., _YX_TO_XY].reshape(array.shape)
        if name == "box/fc1/kernel":
            regions = array.reshape(7, 7, -1, array.shape[-1])
            array = regions.transpose(2, 0, 1, 3).reshape(array.shape)
        found[name] = array
    return _torch_state(found, _PANOPTIC_FPN)


def panoptic_deeplab(values):
    """detectron2's Panoptic-DeepLab."""
    return _torch_state(values, _PANOPTIC_DEEPLAB)


def panoptic_fcn(values):
    """The authors' Panoptic FCN."""
    values = {
        name: array[np.newaxis, np.newaxis] if "_embedding/kernel" in name else array
        for name, array in values.items()
    }
    state = _torch_state(values, _PANOPTIC_FCN)
    deformable = {
        name.rpartition(".offset_mask_conv.")[0] for name in state if "offset_mask" in name
    }

    def moved(name):
        head, _, rest = name.partition("_head_head_")
        layer = f"{head}_head_head_{rest[:1]}"
        if rest and layer in deformable and "offset_mask" not in name:
            return f"{layer}.dcnv2{name[len(layer) :]}"
        return name

    return {moved(name): array for name, array in state.items()}


def torchvision_resnet(values):
    """A ResNet of torchvision, with its classifier and counters."""
    state = _torch_state(values, _TORCHVISION)
    state["fc.weight"], state["fc.bias"] = np.zeros((10, 8), np.float32), np.zeros(10, np.float32)
    state["bn1.num_batches_tracked"] = np.zeros((), np.int64)
    return state


def deeplab_resnet(values):
    """DeepLab's ImageNet backbone in detectron2's names."""
    rules = [(r"^backbone/", ""), (r"^res(\d)_(\d+)/", r"res\1/\2/")]
    return {**_torch_state(values, rules), "stem.fc.weight": np.zeros((4, 4), np.float32)}


def caffe2_resnet(values, *, folded=False):
    """A ResNet of Caffe2; `folded`: scale and shift have taken the statistics up."""
    found = {}
    for name, array in values.items():
        if folded and name.endswith(("moving_mean", "moving_variance")):
            continue
        found[_rename(name, _CAFFE2)] = np.ascontiguousarray(_kernel(name, array))
    return {**found, "fc1000_w": np.zeros((4, 4), np.float32), "fc1000_b": np.zeros(4, np.float32)}


def write_pickle(state, path, **more):
    """As the files of detectron2's zoo."""
    with open(path, "wb") as file:
        pickle.dump({"model": state, **more}, file)
    return str(path)
