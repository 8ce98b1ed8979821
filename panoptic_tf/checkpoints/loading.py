"""Weights of any known source into a network's variables."""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from panoptic_tf.checkpoints import names, readers
from panoptic_tf.checkpoints import sources as _sources  # noqa: F401  (registers them)
from panoptic_tf.checkpoints.matching import MODULES, Match, compare
from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredCheckpoint

# Less is read before a bar is seen.
_LARGE_BYTES = 200_000_000


class Loaded(NamedTuple):
    """What came of a file.

    Attributes:
      title: the source it was recognised as.
      description: what the source says of such a file.
      match: what was assigned, and what was not.
      anew: parts of the network that got nothing.
    """

    title: str
    description: names.Description
    match: Match
    anew: Tuple[str, ...]

    def summary(self, path: str) -> str:
        """One line for the log."""
        parts = sorted({name.partition("/")[0] for name in self.match.values})
        notes = [f"{len(self.match.values)} arrays into {', '.join(parts)}"]
        if self.match.zero_offsets:
            notes.append(f"{len(self.match.zero_offsets)} offsets of deformable layers stay zero")
        return f"{path} is {self.title}: {'; '.join(notes)}."


def describe(path: str) -> Tuple[str, names.Description]:
    """Recognises a file: its source's title, and what the source says of it.

    Raises:
      CheckpointError: it cannot be read, or is of no known source.
    """
    checkpoint = readers.read_checkpoint(path)
    source = names.find_source(checkpoint)
    return source.title, _description(source, checkpoint)


def load_weights(
    path: str,
    variables: Sequence[tf.Variable],
    *,
    modules: str,
    network: Optional[tf.Module] = None,
) -> Loaded:
    """Assigns the weights of a file; strict: all or nothing, but for `matching`.

    Offsets of deformable convolutions may be absent from all of a file, and stay as they are.

    Args:
      path: of a file of any known source, or of a TensorFlow checkpoint (a prefix or a folder).
      variables: of the network, with names as `backbone/stem/conv1/conv/kernel:0`.
      modules: `all` of the network, or of its backbone where the file holds nothing else;
        its `backbone`; or `matching`: what fits in name and shape, the rest starts anew.
      network: what the variables are of; only checkpoints of official.vision need it.

    Returns:
      What was loaded.

    Raises:
      CheckpointError: the file cannot be read or is of no known source, or it does not fit.
    """
    if modules not in MODULES:
        raise ValueError(
            "task.init_checkpoint_modules must be one of "
            f"{', '.join(map(repr, MODULES))}, got {modules!r}."
        )
    checkpoint = readers.read_checkpoint(path)
    source = names.find_source(checkpoint)
    description = _description(source, checkpoint)
    by_name = {variable.name.partition(":")[0]: variable for variable in variables}
    if len(by_name) < len(variables):
        raise ValueError("two variables of the network have one name.")
    shapes = {name: tuple(variable.shape) for name, variable in by_name.items()}
    match = compare(source.translate_for(checkpoint, network), shapes, modules=modules)
    if not match.values or (modules != "matching" and not match.is_whole):
        raise CheckpointError(
            f"{path} ({source.title}) does not fit the network.{_hint(modules, description)}\n"
            f"{match.differences()}"
        )
    match.values = {
        name: _cast(path, match.sources[name], values, by_name[name])
        for name, values in match.values.items()
    }
    total = sum(values.nbytes for values in match.values.values())
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="weights", disable=total < _LARGE_BYTES
    ) as bar:
        for name, values in match.values.items():
            by_name[name].assign(values)
            bar.update(values.nbytes)
    parts, filled = ({name.partition("/")[0] for name in of} for of in (shapes, match.values))
    loaded = Loaded(source.title, description, match, tuple(sorted(parts - filled)))
    logging.info("%s", loaded.summary(path))
    if not match.is_whole:
        logging.warning("%s: not everything fits.\n%s", path, match.differences())
    return loaded


def _description(source: names.Source, checkpoint: StoredCheckpoint) -> names.Description:
    try:
        return source.describe(checkpoint)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{checkpoint.path} has the names of {source.title}, but not what belongs to them "
            f"({error!r:.200})."
        ) from error


def _hint(modules: str, description: names.Description) -> str:
    if modules == "matching":
        return ""
    wanted = names.as_overrides(description.settings)
    wants = f" The weights are for --params_override='{wanted}'." if wanted else ""
    return (
        f"{wants} task.init_checkpoint_modules=matching takes what fits and starts the rest anew."
    )


def _cast(path: str, name: str, values: np.ndarray, variable: tf.Variable) -> np.ndarray:
    """In the variable's dtype.

    Raises:
      CheckpointError: not all of them are finite there.
    """
    with np.errstate(over="ignore"):
        cast = values.astype(variable.dtype.as_numpy_dtype)
    if not np.isfinite(cast).all():
        raise CheckpointError(f"{path}: {name} holds values that are not finite.")
    return cast
