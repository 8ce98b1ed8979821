"""Names that are paths through the functional model of an official.vision backbone.

Variables are named by their path from what was saved: `backbone/layer_with_weights-3/_conv1/kernel`
where the item `backbone` was, as its trainer does. The same path leads through the functional model
inside the network to fill, so that no table is needed; but it must be of the same architecture, and
be there. What no level needs, as the last convolution, is left out.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional, Set

import tensorflow as tf

from panoptic_tf.checkpoints.names import Source, Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredCheckpoint

# Of the item `backbone`, or of the classifier `model` alone, whose first layer it is.
_BACKBONES = (r"^backbone/", r"^model/(?:_?backbone|layer_with_weights-0)/")
_PATH = r"(?=layer(?:_with_weights)?-\d+/)"
# Moments and averages of an optimizer.
_SLOT = ".OPTIMIZER_SLOT"

SIGNATURE = rf"{_BACKBONES[0]}{_PATH}|{_BACKBONES[1]}{_PATH}"
"""Found in the names of such checkpoints."""


class OfficialSource(Source):
    """Translates by walking the network."""

    def translate(self, checkpoint: StoredCheckpoint) -> Translation:
        """Raises CheckpointError: paths say nothing without the network."""
        raise CheckpointError(
            f"{checkpoint.path} is {self.title}: its names are paths through a network, which "
            "load_weights needs, too. Give network=."
        )

    def translate_for(
        self, checkpoint: StoredCheckpoint, network: Optional[tf.Module]
    ) -> Translation:
        """See base class."""
        if network is None:
            return self.translate(checkpoint)
        paths = _Paths(_source_model(network, checkpoint.path))
        needed = _names(network.weights)
        found: Translation = {}
        pattern = _pattern(checkpoint)
        for name, array in checkpoint.arrays.items():
            match = re.search(pattern, name)
            if match is None or _SLOT in name:
                continue
            path = name[match.end() :]
            variable = paths.follow(path)
            if variable is None:
                found[f"backbone/{path}"] = Translated(name, array.read)
            elif variable.name.partition(":")[0] in needed:
                found[variable.name.partition(":")[0]] = Translated(name, array.read)
        return found


def _names(variables: List[tf.Variable]) -> Set[str]:
    return {variable.name.partition(":")[0] for variable in variables}


def _source_model(network: tf.Module, path: str) -> tf.keras.Model:
    """What official.vision built, in a network with one of its backbones."""
    for module in (network, *network.submodules):
        model = getattr(module, "source_model", None)
        if isinstance(model, tf.keras.Model):
            return model
    raise CheckpointError(
        f"{path} is of official.vision, but the network's backbone is not. Set "
        "task.model.backbone.name to the backbone of official.vision that it was trained with, "
        "as mobilenetv2, efficientnet_b0 or official_resnet50."
    )


def _pattern(checkpoint: StoredCheckpoint) -> str:
    """What stands before the path from the backbone; where there is the item, this counts."""
    patterns = [prefix + _PATH for prefix in _BACKBONES]
    return next(
        pattern
        for pattern in patterns
        if any(re.search(pattern, name) for name in checkpoint.arrays)
    )


class _Paths:
    """Variables at the end of paths through what checkpoints see of a model."""

    def __init__(self, model: tf.keras.Model):
        self._model = model
        # Made once for each object: a model goes through all of its layers for it.
        self._children: Dict[int, Mapping[str, Any]] = {}

    def follow(self, path: str) -> Optional[tf.Variable]:
        """None where the path breaks off."""
        found: Any = self._model
        for part in path.split("/"):
            if id(found) not in self._children:
                self._children[id(found)] = tf.train.TrackableView.children(found)
            found = self._children[id(found)].get(part)
            if found is None:
                return None
        return found if isinstance(found, tf.Variable) else None
