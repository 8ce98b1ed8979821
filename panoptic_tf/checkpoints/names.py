"""Name maps: how a source of weights calls what we call otherwise, and how its arrays lie.

A source is one table. What reads files is in `readers`, what compares and assigns in `loading`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf.checkpoints.readers.arrays import (
    CheckpointError,
    StoredArray,
    StoredCheckpoint,
)

Rules = Sequence[Tuple[str, str]]
"""(regular expression, replacement), applied in turn, each to what the one before has left."""

Layout = Callable[[np.ndarray], np.ndarray]

_TORCH_LEAVES = {"running_mean": "moving_mean", "running_var": "moving_variance"}
_NO_WEIGHTS = r"num_batches_tracked$"


class Translated(NamedTuple):
    """An array of a source under our name.

    Attributes:
      source_name: what the source calls it.
      read: returns it in our layout.
    """

    source_name: str
    read: Callable[[], np.ndarray]

    def changed(self, change: Layout) -> Translated:
        """The same with its array changed."""
        return Translated(self.source_name, lambda: change(self.read()))


Translation = Dict[str, Translated]


@dataclasses.dataclass(frozen=True)
class Description:
    """What a file of a source is, beside its arrays.

    Attributes:
      settings: what the weights were trained with, as overrides of the task's config:
        `{"normalization.channel_order": "BGR", "model.backbone.stride_in_1x1": True, ...}`.
      experiments: names of experiments that a whole model fits, the best first.
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    experiments: Tuple[str, ...] = ()


def _nothing_known(checkpoint: StoredCheckpoint) -> Description:
    del checkpoint
    return Description()


@dataclasses.dataclass(frozen=True)
class Source:
    """A kind of file: how to know it, and what its names are here.

    Attributes:
      title: what the log calls it.
      signature: regular expressions; each is found in some name of such a file.
      rules: bring the name of a layer, with "/" for ".", to ours.
      layouts: (regular expression of our variable, what brings its array to our layout), beside
        what a kernel needs anyway; the first that is found counts.
      ignored: regular expressions of names that are none of a network's here.
      style: `torch`: the last part of a name is weight, bias, running_mean or running_var, and
        kernels lie [output, input, height, width]; `keras`: parts and layout are ours.
      complete: makes of the translation a whole one, where a source leaves something out.
      describe: what a file is.
    """

    title: str
    signature: Tuple[str, ...]
    rules: Rules
    layouts: Sequence[Tuple[str, Layout]] = ()
    ignored: Tuple[str, ...] = ()
    style: str = "torch"
    complete: Callable[[Translation], Translation] = lambda translation: translation
    describe: Callable[[StoredCheckpoint], Description] = _nothing_known

    def fits(self, checkpoint: StoredCheckpoint) -> bool:
        """Whether a file is of this kind."""
        return all(
            any(re.search(pattern, name) for name in checkpoint.arrays)
            for pattern in self.signature
        )

    def translate(self, checkpoint: StoredCheckpoint) -> Translation:
        """Our variable's name, without ":0" -> what the source has for it.

        What no rule knows keeps a name of its own and so finds no variable.
        """
        ignored = re.compile("|".join([_NO_WEIGHTS, *self.ignored]))
        found: Translation = {}
        arrays = checkpoint.arrays
        for name, array in arrays.items():
            if ignored.search(name):
                continue
            translate = _translate_torch if self.style == "torch" else _translate_keras
            path, layout = translate(name, array, arrays, self.rules)
            if path in found:
                raise CheckpointError(
                    f"{checkpoint.path}: {found[path].source_name} and {name} both are {path}."
                )
            special = [more for pattern, more in self.layouts if re.search(pattern, path)][:1]
            found[path] = Translated(name, _reading(array, [layout, *special]))
        return self.complete(found)

    def translate_for(
        self, checkpoint: StoredCheckpoint, network: Optional[tf.Module]
    ) -> Translation:
        """`translate` for one network: of sources whose names are paths through it."""
        del network
        return self.translate(checkpoint)


_SOURCES: List[Source] = []


def register_source(source: Source, *, is_model: bool = False) -> Source:
    """Makes a source known; of backbones whose signatures fit, the one registered first counts.

    Args:
      source: a table.
      is_model: whether it is of models whose backbones fit other sources, and so comes before
        them; of two models, the one registered last counts.
    """
    _SOURCES.insert(0 if is_model else len(_SOURCES), source)
    return source


def find_source(checkpoint: StoredCheckpoint) -> Source:
    """The source that a file is of.

    Raises:
      CheckpointError: of none that is known.
    """
    for source in _SOURCES:
        if source.fits(checkpoint):
            return source
    names = list(checkpoint.arrays)
    shown = ", ".join(names[:6])
    titles = "; ".join(source.title for source in _SOURCES)
    raise CheckpointError(
        f"{checkpoint.path}: names like {shown} ({len(names)} arrays) are of no known source. "
        f"Known are: {titles}."
    )


def as_overrides(settings: Mapping[str, Any]) -> str:
    """The value of `--params_override` that sets them."""
    return ",".join(f"task.{key}={_written(value)}" for key, value in settings.items())


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)


def rewrite(name: str, rules: Rules) -> str:
    """A name after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _translate_torch(
    name: str, array: StoredArray, arrays: Mapping[str, StoredArray], rules: Rules
) -> Tuple[str, Layout]:
    layer, _, leaf = name.rpartition(".")
    weight = arrays.get(f"{layer}.weight", array)
    if leaf == "weight":
        leaf = {1: "gamma", 4: "kernel"}.get(len(array.shape), "kernel")
        if len(array.shape) == 4 and array.shape[1] == 1 and array.shape[0] > 1:
            leaf = "depthwise_kernel"
    elif leaf == "bias" and len(weight.shape) == 1:
        leaf = "beta"
    leaf = _TORCH_LEAVES.get(leaf, leaf)
    path = f"{rewrite(layer.replace('.', '/'), rules)}/{leaf}"
    return path, depthwise_to_ours if leaf == "depthwise_kernel" else kernel_to_ours


def _translate_keras(
    name: str, array: StoredArray, arrays: Mapping[str, StoredArray], rules: Rules
) -> Tuple[str, Layout]:
    del array, arrays
    return rewrite(name, rules), lambda values: values


def _reading(array: StoredArray, layouts: Sequence[Layout]) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        values = array.read()
        for layout in layouts:
            values = layout(values)
        return values

    return read


# Layouts


def kernel_to_ours(values: np.ndarray) -> np.ndarray:
    """[D, C, h, w] -> [h, w, C, D] and [D, C] -> [C, D]; vectors stay.

    A transposed convolution's [C, D, h, w] becomes [h, w, D, C] by the same.
    """
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(values.ndim)
    return values if axes is None else values.transpose(axes)


def depthwise_to_ours(values: np.ndarray) -> np.ndarray:
    """[C, 1, h, w] -> [h, w, C, 1]."""
    return values.transpose(2, 3, 0, 1)


def deltas_to_ours(values: np.ndarray) -> np.ndarray:
    """Groups of (dx, dy, dw, dh) along the last axis -> (dy, dx, dh, dw)."""
    boxes = values.reshape(*values.shape[:-1], -1, 4)
    return boxes[..., [1, 0, 3, 2]].reshape(values.shape)


def flattened_to_ours(size: int) -> Layout:
    """Rows in the order channel, height, width -> height, width, channel: [size * size * C, D]."""

    def layout(values: np.ndarray) -> np.ndarray:
        regions = values.reshape(-1, size, size, values.shape[-1])  # [C, size, size, D]
        return regions.transpose(1, 2, 0, 3).reshape(values.shape)

    return layout


def embedding_to_ours(values: np.ndarray) -> np.ndarray:
    """Undoes `kernel_to_ours` for an embedding [N, C], which is no kernel."""
    return values.T


def third_of_outputs(values: np.ndarray, *, number: int) -> np.ndarray:
    """One of the joined projections of query, key and value: of [..., 3C], which lie last."""
    return np.split(values, 3, axis=-1)[number]


def pointwise_to_dense(values: np.ndarray) -> np.ndarray:
    """A 1x1 kernel [1, 1, C, D] -> [C, D]; vectors stay."""
    return values.reshape(values.shape[-2:]) if values.ndim == 4 else values
