"""Files in other places than this machine, copied for as long as they are opened."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Iterator

from tqdm import tqdm

from panoptic_tf.checkpoints.readers.arrays import CheckpointError

_CHUNK = 1 << 24


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Gives the path of a file on this machine: itself, or a copy of what lies elsewhere.

    The copy's name is removed at the end of the block. What has opened or mapped the copy can read
    it as long as it likes: the disk's space is free when nothing does any more.

    Raises:
      CheckpointError: it cannot be copied.
    """
    if "://" not in path:
        yield path
        return
    handle, temporary = tempfile.mkstemp(prefix="checkpoint")
    os.close(handle)
    try:
        _copy(path, temporary)
        yield temporary
    finally:
        os.unlink(temporary)


def _copy(path: str, target: str) -> None:
    import tensorflow as tf

    try:
        size = tf.io.gfile.stat(path).length
        bar = tqdm(total=size, unit="B", unit_scale=True, desc=os.path.basename(path))
        with bar, tf.io.gfile.GFile(path, "rb") as source, open(target, "wb") as copy:
            for chunk in iter(lambda: source.read(_CHUNK), b""):
                copy.write(chunk)
                bar.update(len(chunk))
    except (tf.errors.OpError, OSError) as error:
        raise CheckpointError(f"{path} cannot be copied to this machine: {error}") from error
