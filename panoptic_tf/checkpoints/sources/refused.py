"""Weights that are known and fit no network here."""

from __future__ import annotations

import dataclasses

from panoptic_tf.checkpoints.names import Source, Translation
from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredCheckpoint


@dataclasses.dataclass(frozen=True)
class RefusedSource(Source):
    """A source whose files are recognised to say why they cannot be loaded.

    Attributes:
      reason: what the network has that none here has, and what to take instead.
    """

    reason: str = ""

    def translate(self, checkpoint: StoredCheckpoint) -> Translation:
        """Raises CheckpointError."""
        raise CheckpointError(f"{checkpoint.path} is {self.title}: {self.reason}")
