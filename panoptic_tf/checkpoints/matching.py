"""What of a file fits which variable: names and shapes compared, nothing assigned."""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np

from panoptic_tf.checkpoints.names import Translated, Translation
from panoptic_tf.checkpoints.readers.arrays import CheckpointError

MODULES = ("all", "backbone", "matching")
_BACKBONE = "backbone/"
# A deformable network may start from an ordinary one: its offsets are zero at first.
_MAY_START_ANEW = re.compile(r"/offset/(kernel|bias)$")
_SHOWN = 20

Shape = Tuple[int, ...]


@dataclasses.dataclass
class Match:
    """A file beside a network.

    Attributes:
      values: what fits, by variable.
      sources: what the source calls it, by variable.
      missing: shapes of variables that the file has nothing for, by name.
      unused: shapes of arrays that are no variable's, by their names in the source.
      unequal: (variable's shape, array's shape, name in the source) by variable.
      zero_offsets: offsets of deformable convolutions, where the file holds none; they start anew.
    """

    values: Dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    sources: Dict[str, str] = dataclasses.field(default_factory=dict)
    missing: Dict[str, Shape] = dataclasses.field(default_factory=dict)
    unused: Dict[str, Shape] = dataclasses.field(default_factory=dict)
    unequal: Dict[str, Tuple[Shape, Shape, str]] = dataclasses.field(default_factory=dict)
    zero_offsets: List[str] = dataclasses.field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether both sides have all that the other has, in the same shapes."""
        return not (self.missing or self.unused or self.unequal)

    def differences(self) -> str:
        """What does not fit, of both sides, a line each."""
        unequal = [
            f"  {name} is {list(ours)}, {source} is {list(theirs)}"
            for name, (ours, theirs, source) in self.unequal.items()
        ]
        return "\n".join(
            [
                *_listed("of another shape", unequal),
                *_listed("wanted by the network, not in the file", _shaped(self.missing)),
                *_listed("in the file, not wanted by the network", _shaped(self.unused)),
            ]
        )


def compare(translation: Translation, shapes: Mapping[str, Shape], *, modules: str) -> Match:
    """Compares a translated file with a network's variables.

    Args:
      translation: of the file.
      shapes: of the variables, by name without ":0".
      modules: `all`, or `backbone`: nothing else is looked at, on either side. `matching` compares
        as `all` does. A file of a backbone alone is compared with the backbone.

    Returns:
      What fits and what does not.
    """
    if modules == "backbone" or all(path.startswith(_BACKBONE) for path in translation):
        translation = {k: v for k, v in translation.items() if k.startswith(_BACKBONE)}
        shapes = {k: v for k, v in shapes.items() if k.startswith(_BACKBONE)}
    match = Match()
    for path, translated in translation.items():
        values = _read(translated)
        if path not in shapes:
            match.unused[translated.source_name] = values.shape
        elif tuple(shapes[path]) != values.shape:
            match.unequal[path] = (tuple(shapes[path]), values.shape, translated.source_name)
        else:
            match.values[path] = values
            match.sources[path] = translated.source_name
    is_ordinary = not any(map(_MAY_START_ANEW.search, translation))
    for path, shape in shapes.items():
        if path in translation:
            continue
        if is_ordinary and _MAY_START_ANEW.search(path):
            match.zero_offsets.append(path)
        else:
            match.missing[path] = tuple(shape)
    return match


def _read(translated: Translated) -> np.ndarray:
    """The array in our layout.

    Raises:
      CheckpointError: of whole numbers, or of a shape that no layout is for.
    """
    try:
        values = translated.read()
    except CheckpointError:
        raise
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{translated.source_name}: {error}.") from error
    if values.dtype.kind != "f":
        raise CheckpointError(
            f"{translated.source_name} holds {values.dtype.name}: weights are floating-point."
        )
    return values


def _shaped(shapes: Mapping[str, Shape]) -> List[str]:
    return [f"  {name} {list(shape)}" for name, shape in shapes.items()]


def _listed(title: str, lines: Sequence[str]) -> List[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"{len(lines)} {title}:", *lines[:_SHOWN], *more]
