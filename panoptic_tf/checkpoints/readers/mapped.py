"""A file mapped to memory: nothing of it is read before it is looked at."""

from __future__ import annotations

import dataclasses
import mmap
import os
from typing import Optional

from panoptic_tf.checkpoints.readers.arrays import CheckpointError


@dataclasses.dataclass(frozen=True)
class MappedFile:
    """The bytes of a file; they stay readable as long as something refers to them.

    Attributes:
      path: what messages call it.
      local: where it lies while it is opened.
      content: its bytes, read-only.
    """

    path: str
    local: str
    content: mmap.mmap

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return len(self.content)

    def view(self, start: int, stop: Optional[int] = None) -> memoryview:
        """Bytes of the file, not copied."""
        return memoryview(self.content)[start:stop]

    def error(self, what: str) -> CheckpointError:
        """An error that names the file and its size."""
        return CheckpointError(f"{self.path} ({self.size} bytes) {what}")

    def ends_early(self, wanted: str) -> CheckpointError:
        """An error for a file of which a part is missing.

        Args:
          wanted: what goes beyond the end, and to which byte.
        """
        return self.error(
            f"ends early: {wanted} of {self.size} bytes. It was copied or downloaded in part only."
        )


def open_mapped(local: str, path: str) -> MappedFile:
    """Maps a file.

    Args:
      local: where it lies.
      path: what messages call it.

    Raises:
      CheckpointError: it cannot be read, or is empty.
    """
    try:
        with open(local, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CheckpointError(f"{path} is empty (0 bytes).")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}.") from error
    return MappedFile(path, local, content)
