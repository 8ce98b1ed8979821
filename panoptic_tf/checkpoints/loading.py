"""Weights of any known source into a network's variables."""

from __future__ import annotations

from typing import Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from panoptic_tf.checkpoints import names, readers
from panoptic_tf.checkpoints import sources as _sources  # noqa: F401  (registers them)
from panoptic_tf.checkpoints.matching import MODULES, Match, compare
from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredCheckpoint

__all__ = ["MODULES", "CheckpointError", "Loaded", "describe", "load_weights"]

# Less is read before a bar is seen.
_LARGE_BYTES = 200_000_000


class Loaded(NamedTuple):
    """What came of a file.

    Attributes:
      title: the source it was recognised as.
      description: what the source says of such a file.
      match: what was assigned, and what was not.
    """

    title: str
    description: names.Description
    match: Match

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
    return source.title, source.describe(checkpoint)


def load_weights(
    path: str,
    variables: Sequence[tf.Variable],
    *,
    modules: str,
    network: Optional[tf.Module] = None,
) -> Loaded:
    """Assigns the weights of a file; strict: all or nothing, but for `matching`.

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
    by_name = {variable.name.partition(":")[0]: variable for variable in variables}
    shapes = {name: tuple(variable.shape) for name, variable in by_name.items()}
    translation = source.translate_for(checkpoint, network)
    match = compare(_with_bar(checkpoint, translation), shapes, modules=modules)
    if not match.values or (modules != "matching" and not match.is_whole):
        hint = "" if modules == "matching" else _HINT
        raise CheckpointError(
            f"{path} ({source.title}) does not fit the network.{hint}\n{match.differences()}"
        )
    _check_finite(path, match)
    for name, values in match.values.items():
        by_name[name].assign(values.astype(by_name[name].dtype.as_numpy_dtype))
    loaded = Loaded(source.title, source.describe(checkpoint), match)
    logging.info("%s", loaded.summary(path))
    if not match.is_whole:
        logging.warning("%s: not everything fits.\n%s", path, match.differences())
    return loaded


_HINT = (
    " Set the experiment's config as the weights want it, or "
    "task.init_checkpoint_modules=matching to take what fits and start the rest anew."
)


def _check_finite(path: str, match: Match) -> None:
    for name, values in match.values.items():
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{path}: {match.sources[name]} holds values that are not finite."
            )


def _with_bar(checkpoint: StoredCheckpoint, translation: names.Translation) -> names.Translation:
    """The same, with a bar over the bytes read where they are many."""
    sizes: Mapping[str, int] = {
        name: int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize
        for name, array in checkpoint.arrays.items()
    }
    total = sum(sizes[translated.source_name] for translated in translation.values())
    if total < _LARGE_BYTES:
        return translation
    bar = tqdm(total=total, unit="B", unit_scale=True, desc="weights")

    def counted(translated: names.Translated) -> names.Translated:
        def read() -> np.ndarray:
            values = translated.read()
            bar.update(sizes[translated.source_name])
            if bar.n >= total:
                bar.close()
            return values

        return names.Translated(translated.source_name, read)

    found: Dict[str, names.Translated] = {k: counted(v) for k, v in translation.items()}
    return found
