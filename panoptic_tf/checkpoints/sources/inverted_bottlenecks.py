"""MobileNets and EfficientNets: from what a layer does to the number official.vision gives it.

official.vision's layers have no names of their own: in a block they are `conv2d`, `conv2d_1`, ...
in the order they are made, and blocks are counted through. A table of a source brings its names to

    backbone/stem/{conv,norm}/...
    backbone/block/<where>/<position>/{conv,norm}/...
    backbone/block/<where>/squeeze/{reduce,expand}/...

where both <where> (`3` or `2/0`: stage and block) and the digit <position> only need to be in
order; `expand`, `depthwise` and `project` stand for positions as well. `numbered_as` does the rest.
"""

from __future__ import annotations

import re
from typing import Callable, Dict, Sequence, Set, Tuple

import numpy as np

from panoptic_tf.checkpoints.names import Rules, Translated, Translation

MOBILENET = "backbone/conv2dbn_block/"
EFFICIENTNET = "backbone/"
"""Where official.vision has the stem of either."""

ROLES: Rules = (
    (r"^(block/[\d/]+)/expand(/|$)", r"\1/0\2"),
    (r"^(block/[\d/]+)/depthwise(/|$)", r"\1/1\2"),
    (r"^(block/[\d/]+)/project(/|$)", r"\1/2\2"),
    (r"^", "backbone/"),
)
"""The last rules of a source."""

_EXACT_GATE = (1.0 / 6.0) / 0.16667

_LAYER = re.compile(
    r"^backbone/block/(?P<block>\d+(?:/\d+)*)/(?P<position>\d)/(?P<kind>conv|norm)/(?P<leaf>\w+)$"
)
_SQUEEZE = re.compile(
    r"^backbone/block/(?P<block>\d+(?:/\d+)*)/squeeze/(?P<kind>reduce|expand)/(?P<leaf>\w+)$"
)


def numbered_as(stem: str, *, is_hard_gated: bool = False) -> Callable[[Translation], Translation]:
    """What makes official.vision's names of those above; other names stay.

    Args:
      stem: `MOBILENET` or `EFFICIENTNET`.
      is_hard_gated: whether squeezes gate by relu6(x + 3) / 6. official.vision multiplies by
        0.16667 instead; the convolution that reads the product takes up the difference.
    """

    def complete(translation: Translation) -> Translation:
        name_of = _Numbers(list(translation))
        found: Translation = {}
        for path, translated in translation.items():
            path = re.sub(r"^backbone/stem/conv/", f"{stem}conv2d/", path)
            path = re.sub(r"^backbone/stem/norm/", f"{stem}batch_normalization/", path)
            found[name_of(path)] = translated
        return _with_exact_gates(found) if is_hard_gated else found

    return complete


def _with_exact_gates(translation: Translation) -> Translation:
    found = dict(translation)
    for path in translation:
        block, _, layer = path.partition("/squeeze_excitation/")
        if layer == "conv2d/kernel":
            # The last of the block.
            projections = [f"{block}/{name}/kernel" for name in ("conv2d_1", "conv2d")]
            name = next((name for name in projections if name in found), None)
            if name:
                found[name] = _scaled(found[name], _EXACT_GATE)
    return found


def _scaled(translated: Translated, factor: float) -> Translated:
    return Translated(
        translated.source_name, lambda: (translated.read() * factor).astype(np.float32)
    )


class _Numbers:
    """Numbers of blocks, and within them of the layers of a class."""

    def __init__(self, paths: Sequence[str]):
        matches = [match for match in map(_LAYER.match, paths) if match]
        blocks = {match["block"] for match in matches}
        self._blocks = {
            block: i for i, block in enumerate(sorted(blocks, key=lambda b: _integers(b)))
        }
        self._positions: Dict[Tuple[str, str], Set[str]] = {}
        for match in matches:
            self._positions.setdefault((match["block"], _layer_class(match)), set()).add(
                match["position"]
            )

    def __call__(self, path: str) -> str:
        """official.vision's name of what `path` is."""
        match = _LAYER.match(path)
        if match:
            layer = _layer_class(match)
            positions = sorted(self._positions[match["block"], layer])
            number = positions.index(match["position"])
            return f"{self._block(match)}/{_indexed(layer, number)}/{match['leaf']}"
        match = _SQUEEZE.match(path)
        if match and match["block"] in self._blocks:
            layer = _indexed("conv2d", ("reduce", "expand").index(match["kind"]))
            return f"{self._block(match)}/squeeze_excitation/{layer}/{match['leaf']}"
        return path

    def _block(self, match: re.Match[str]) -> str:
        number = self._blocks[match["block"]]
        return f"backbone/{_indexed('inverted_bottleneck_block', number)}"


def _integers(text: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in text.split("/"))


def _layer_class(match: re.Match[str]) -> str:
    if match["kind"] == "norm":
        return "batch_normalization"
    return "depthwise_conv2d" if match["leaf"] == "depthwise_kernel" else "conv2d"


def _indexed(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name
