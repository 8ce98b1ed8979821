"""Names and shapes of other libraries' backbones, written from their architectures.

Not from our variables: a slip in a table shows as one that is missing or left over.
"""

import math
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from panoptic_tf.checkpoints.readers.arrays import StoredArray, StoredCheckpoint

Shapes = Dict[str, Tuple[int, ...]]


class Block(NamedTuple):
    """An inverted bottleneck; nothing expands where `expanded` is `inputs`."""

    stage: int
    index: int  # in the stage
    inputs: int
    expanded: int
    kernel: int
    outputs: int
    squeezed: int = 0


class Network(NamedTuple):
    """Stem, blocks and the convolution for the classifier."""

    stem: int
    blocks: List[Block]
    head: int


def _network(stem: int, stages: Sequence[Sequence[Tuple[int, ...]]], head: int) -> Network:
    blocks, inputs = [], stem
    for stage, rows in enumerate(stages):
        for index, (expanded, kernel, outputs, squeezed) in enumerate(rows):
            blocks.append(Block(stage, index, inputs, expanded, kernel, outputs, squeezed))
            inputs = outputs
    return Network(stem, blocks, head)


def mobilenet_v2() -> Network:
    """Width 1.0."""
    rows = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    stages, inputs = [], 32
    for ratio, outputs, repeats in rows:
        widths = [inputs, *[outputs] * (repeats - 1)]
        stages.append([(ratio * width, 3, outputs, 0) for width in widths])
        inputs = outputs
    return _network(32, stages, 1280)


def mobilenet_v3_large() -> Network:
    """Width 1.0."""
    return _network(
        16,
        [
            [(16, 3, 16, 0)],
            [(64, 3, 24, 0), (72, 3, 24, 0)],
            [(72, 5, 40, 24), (120, 5, 40, 32), (120, 5, 40, 32)],
            [(240, 3, 80, 0), (200, 3, 80, 0), (184, 3, 80, 0), (184, 3, 80, 0)],
            [(480, 3, 112, 120), (672, 3, 112, 168)],
            [(672, 5, 160, 168), (960, 5, 160, 240), (960, 5, 160, 240)],
        ],
        960,
    )


def mobilenet_v3_small() -> Network:
    """Width 1.0."""
    return _network(
        16,
        [
            [(16, 3, 16, 8)],
            [(72, 3, 24, 0), (88, 3, 24, 0)],
            [(96, 5, 40, 24), (240, 5, 40, 64), (240, 5, 40, 64)],
            [(120, 5, 48, 32), (144, 5, 48, 40)],
            [(288, 5, 96, 72), (576, 5, 96, 144), (576, 5, 96, 144)],
        ],
        576,
    )


_SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}


def efficientnet(size: str, *, has_squeeze: bool = True) -> Network:
    """`b0` to `b7`; lite0 is b0 without squeeze."""
    width, depth = _SCALES[size]

    def scaled(channels):
        rounded = max(8, int(channels * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels * width else rounded

    rows = (
        *((1, 3, 16, 1), (6, 3, 24, 2), (6, 5, 40, 2), (6, 3, 80, 3)),
        *((6, 5, 112, 3), (6, 5, 192, 4), (6, 3, 320, 1)),
    )
    stages, inputs = [], scaled(32)
    for ratio, kernel, outputs, repeats in rows:
        stage = []
        for _ in range(math.ceil(repeats * depth)):
            squeezed = inputs // 4 if has_squeeze else 0
            stage.append((ratio * inputs, kernel, scaled(outputs), squeezed))
            inputs = scaled(outputs)
        stages.append(stage)
    return _network(scaled(32), stages, scaled(1280))


# PyTorch's layouts


class _Writer:
    """Collects the shapes of a state dictionary."""

    def __init__(self) -> None:
        self.shapes: Shapes = {}

    def conv(self, name, inputs, outputs, kernel=1, *, groups=1, has_bias=False):
        self.shapes[f"{name}.weight"] = (outputs, inputs // groups, kernel, kernel)
        if has_bias:
            self.shapes[f"{name}.bias"] = (outputs,)

    def norm(self, name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            self.shapes[f"{name}.{leaf}"] = (channels,)
        self.shapes[f"{name}.num_batches_tracked"] = ()

    def linear(self, name, inputs, outputs):
        self.shapes[f"{name}.weight"] = (outputs, inputs)
        self.shapes[f"{name}.bias"] = (outputs,)

    def block(self, block: Block, names: Dict[str, Tuple[str, str]], squeeze: Sequence[str]):
        """Of one block.

        Args:
          block: the block.
          names: of convolution and norm that expand, of the depthwise and of the projecting ones.
          squeeze: names of the convolutions that reduce and expand.
        """
        expanded = block.expanded
        if expanded != block.inputs:
            conv, norm = names["expand"]
            self.conv(conv, block.inputs, expanded)
            self.norm(norm, expanded)
        conv, norm = names["depthwise"]
        self.conv(conv, expanded, expanded, block.kernel, groups=expanded)
        self.norm(norm, expanded)
        if block.squeezed:
            self.conv(squeeze[0], expanded, block.squeezed, has_bias=True)
            self.conv(squeeze[1], block.squeezed, expanded, has_bias=True)
        conv, norm = names["project"]
        self.conv(conv, expanded, block.outputs)
        self.norm(norm, block.outputs)

    def stem_and_head(self, network: Network, stem, head):
        """Convolution and norm of each."""
        self.conv(stem[0], 3, network.stem, 3)
        self.norm(stem[1], network.stem)
        self.conv(head[0], network.blocks[-1].outputs, network.head)
        self.norm(head[1], network.head)


_ROLES = ("expand", "depthwise", "project")


def _present(block: Block) -> List[str]:
    """Layers in order."""
    return [
        *(["expand"] if block.expanded != block.inputs else []),
        "depthwise",
        *(["squeeze"] if block.squeezed else []),
        "project",
    ]


def torchvision_v2(network: Network) -> Shapes:
    """torchvision's MobileNetV2."""
    writer = _Writer()
    head = len(network.blocks) + 1
    writer.stem_and_head(
        network, ("features.0.0", "features.0.1"), (f"features.{head}.0", f"features.{head}.1")
    )
    for i, block in enumerate(network.blocks):
        names = {}
        for k, role in enumerate(_present(block)):
            prefix = f"features.{i + 1}.conv"
            names[role] = (f"{prefix}.{k}.0", f"{prefix}.{k}.1")
            if role == "project":
                names[role] = (f"{prefix}.{k}", f"{prefix}.{k + 1}")
        writer.block(block, names, ())
    writer.linear("classifier.1", network.head, 10)
    return writer.shapes


def flat_v2(network: Network) -> Shapes:
    """The older layout, which counts activations; without a classifier."""
    writer = _Writer()
    head = len(network.blocks) + 1
    writer.stem_and_head(
        network, ("features.0.0", "features.0.1"), (f"features.{head}.0", f"features.{head}.1")
    )
    for i, block in enumerate(network.blocks):
        prefix = f"features.{i + 1}.conv"
        names = {
            role: (f"{prefix}.{3 * k}", f"{prefix}.{3 * k + 1}")
            for k, role in enumerate(_present(block))
        }
        writer.block(block, names, ())
    return writer.shapes


def torchvision_blocks(network: Network, *, by_stage: bool, prefix: str = "features") -> Shapes:
    """torchvision's MobileNetV3, or `by_stage` its EfficientNet."""
    writer = _Writer()
    head = network.blocks[-1].stage + 2 if by_stage else len(network.blocks) + 1
    writer.stem_and_head(
        network,
        (f"{prefix}.0.0", f"{prefix}.0.1"),
        (f"{prefix}.{head}.0", f"{prefix}.{head}.1"),
    )
    for i, block in enumerate(network.blocks):
        where = f"{block.stage + 1}.{block.index}" if by_stage else f"{i + 1}"
        order = {role: k for k, role in enumerate(_present(block))}
        names = {
            role: tuple(f"{prefix}.{where}.block.{order[role]}.{k}" for k in (0, 1))
            for role in _ROLES
            if role in order
        }
        squeeze = f"{prefix}.{where}.block.{order.get('squeeze')}"
        writer.block(block, names, (f"{squeeze}.fc1", f"{squeeze}.fc2"))
    writer.linear("classifier.0", network.head, 10)
    return writer.shapes


def timm(network: Network, *, is_v3: bool = False) -> Shapes:
    """timm's MobileNets and EfficientNets."""
    writer = _Writer()
    last = f"blocks.{network.blocks[-1].stage + 1}.0"
    head = (f"{last}.conv", f"{last}.bn1") if is_v3 else ("conv_head", "bn2")
    writer.stem_and_head(network, ("conv_stem", "bn1"), head)
    if is_v3:
        writer.conv("conv_head", network.head, 24, has_bias=True)
    for block in network.blocks:
        prefix = f"blocks.{block.stage}.{block.index}"
        roles = [role for role in _present(block) if role != "squeeze"]
        convs = ("conv_pw", "conv_dw", "conv_pwl") if len(roles) == 3 else ("conv_dw", "conv_pw")
        names = {
            role: (f"{prefix}.{conv}", f"{prefix}.bn{k + 1}")
            for k, (role, conv) in enumerate(zip(roles, convs))
        }
        writer.block(block, names, (f"{prefix}.se.conv_reduce", f"{prefix}.se.conv_expand"))
    writer.linear("classifier", network.head, 10)
    return writer.shapes


def hugging_face_v2(network: Network) -> Shapes:
    """Hugging Face's MobileNetV2 with a classifier."""
    writer = _Writer()

    def layer(name):
        return f"mobilenet_v2.{name}.convolution", f"mobilenet_v2.{name}.normalization"

    writer.stem_and_head(network, layer("conv_stem.first_conv"), layer("conv_1x1"))
    for i, block in enumerate(network.blocks):
        prefix = f"layer.{i - 1}" if i else "conv_stem"
        parts = ("expand_1x1", "conv_3x3", "reduce_1x1")
        names = {role: layer(f"{prefix}.{part}") for role, part in zip(_ROLES, parts)}
        writer.block(block, names, ())
    writer.linear("classifier", network.head, 10)
    return writer.shapes


def hugging_face_efficientnet(network: Network) -> Shapes:
    """Hugging Face's EfficientNet, the bare model."""
    writer = _Writer()
    writer.stem_and_head(
        network,
        ("embeddings.convolution", "embeddings.batchnorm"),
        ("encoder.top_conv", "encoder.top_bn"),
    )
    for i, block in enumerate(network.blocks):
        prefix = f"encoder.blocks.{i}"
        names = {
            "expand": (f"{prefix}.expansion.expand_conv", f"{prefix}.expansion.expand_bn"),
            "depthwise": (
                f"{prefix}.depthwise_conv.depthwise_conv",
                f"{prefix}.depthwise_conv.depthwise_norm",
            ),
            "project": (f"{prefix}.projection.project_conv", f"{prefix}.projection.project_bn"),
        }
        squeeze = f"{prefix}.squeeze_excite"
        writer.block(block, names, (f"{squeeze}.reduce", f"{squeeze}.expand"))
    return writer.shapes


def efficientnet_pytorch(network: Network) -> Shapes:
    """The package efficientnet_pytorch, and those that took its names."""
    writer = _Writer()
    writer.stem_and_head(network, ("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))
    for i, block in enumerate(network.blocks):
        prefix = f"_blocks.{i}"
        names = {
            role: (f"{prefix}._{role}_conv", f"{prefix}._bn{k}") for k, role in enumerate(_ROLES)
        }
        writer.block(block, names, (f"{prefix}._se_reduce", f"{prefix}._se_expand"))
    writer.linear("_fc", network.head, 10)
    return writer.shapes


def timm_xception(num_middle_blocks: int) -> Shapes:
    """timm's aligned Xception-41 or -65."""
    writer = _Writer()
    for i, (inputs, outputs) in enumerate(((3, 32), (32, 64))):
        writer.conv(f"stem.{i}.conv", inputs, outputs, 3)
        writer.norm(f"stem.{i}.bn", outputs)
    rows = [(128,) * 3, (256,) * 3, (728,) * 3, *[(728,) * 3] * num_middle_blocks]
    rows += [(728, 1024, 1024), (1536, 1536, 2048)]
    inputs = 64
    for i, widths in enumerate(rows):
        if inputs != widths[-1] and i < len(rows) - 1:
            writer.conv(f"blocks.{i}.shortcut.conv", inputs, widths[-1])
            writer.norm(f"blocks.{i}.shortcut.bn", widths[-1])
        for k, outputs in enumerate(widths):
            prefix = f"blocks.{i}.stack.conv{k + 1}"
            writer.conv(f"{prefix}.conv_dw", inputs, inputs, 3, groups=inputs)
            writer.norm(f"{prefix}.bn_dw", inputs)
            writer.conv(f"{prefix}.conv_pw", inputs, outputs)
            writer.norm(f"{prefix}.bn_pw", outputs)
            inputs = outputs
    writer.linear("head.fc", 2048, 10)
    return writer.shapes


def hrnet(width: int) -> Shapes:
    """HRNet of its authors, with some of what follows the branches."""
    writer = _Writer()

    def pair(conv, norm, inputs, outputs, kernel):
        writer.conv(conv, inputs, outputs, kernel)
        writer.norm(norm, outputs)

    pair("conv1", "bn1", 3, 64, 3)
    pair("conv2", "bn2", 64, 64, 3)
    for i in range(4):
        inputs = 256 if i else 64
        for k, (a, b, size) in enumerate(((inputs, 64, 1), (64, 64, 3), (64, 256, 1))):
            pair(f"layer1.{i}.conv{k + 1}", f"layer1.{i}.bn{k + 1}", a, b, size)
    pair("layer1.0.downsample.0", "layer1.0.downsample.1", 64, 256, 1)
    widths = [width * 2**i for i in range(4)]
    pair("transition1.0.0", "transition1.0.1", 256, widths[0], 3)
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        new = f"transition{stage - 1}.{stage - 1}.0"
        inputs = 256 if stage == 2 else widths[stage - 2]
        pair(f"{new}.0", f"{new}.1", inputs, widths[stage - 1], 3)
        for module in range(modules):
            _hrnet_module(pair, f"stage{stage}.{module}", widths[:stage])
    pair("final_layer.0", "final_layer.1", 1024, 2048, 1)
    writer.linear("classifier", 2048, 10)
    return writer.shapes


def _hrnet_module(pair, prefix, widths):
    for i, width in enumerate(widths):
        for block in range(4):
            for k in (1, 2):
                layer = f"{prefix}.branches.{i}.{block}"
                pair(f"{layer}.conv{k}", f"{layer}.bn{k}", width, width, 3)
        for j, other in enumerate(widths):
            fuse = f"{prefix}.fuse_layers.{i}.{j}"
            if j > i:
                pair(f"{fuse}.0", f"{fuse}.1", other, width, 1)
            for k in range(i - j):
                outputs = width if k == i - j - 1 else other
                pair(f"{fuse}.{k}.0", f"{fuse}.{k}.1", other, outputs, 3)


# Checkpoints


def stored(shapes: Shapes, path: str = "model.pth") -> StoredCheckpoint:
    """Arrays of zeros that take no memory."""
    return of_values(
        {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}, path
    )


def of_values(values: Dict[str, np.ndarray], path: str = "model.pth") -> StoredCheckpoint:
    """Arrays as they are."""
    arrays = {
        name: StoredArray(value.shape, value.dtype, lambda value=value: value)
        for name, value in values.items()
    }
    return StoredCheckpoint(path, arrays, {})
