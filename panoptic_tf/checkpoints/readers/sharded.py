"""Weights in several files, with an index of what is where: `*.index.json` of Hugging Face."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Callable, Dict

from panoptic_tf.checkpoints.readers.arrays import StoredArray, StoredCheckpoint
from panoptic_tf.checkpoints.readers.mapped import MappedFile

_MAX_INDEX = 32 * 1024 * 1024
_MAX_FILES = 1_000
_FILE_NAME = re.compile(r"\w[\w.-]*")


def read(file: MappedFile, read_file: Callable[[str], StoredCheckpoint]) -> StoredCheckpoint:
    """Reads the files that an index names, all in its own folder.

    Args:
      file: the index.
      read_file: reads one of them.

    Raises:
      CheckpointError: it is no index, or what it names is not there.
    """
    places = _places(file)
    names = sorted(set(places.values()))
    if len(names) > _MAX_FILES:
        raise file.error(f"names {len(names)} files, where {_MAX_FILES} are read.")
    folder = os.path.dirname(file.path)
    parts = {name: read_file(os.path.join(folder, name)) for name in names}
    arrays: Dict[str, StoredArray] = {}
    metadata: Dict[str, Any] = {}
    for name, place in places.items():
        if name not in parts[place].arrays:
            raise file.error(f"says that {name[:200]!r} is in {place}, which it is not.")
        arrays[name] = parts[place].arrays[name]
    for part in parts.values():
        metadata.update(part.metadata)
    return StoredCheckpoint(file.path, arrays, metadata)


def _places(file: MappedFile) -> Dict[str, str]:
    """The file that each array is in."""
    try:
        content = json.loads(bytes(file.view(0))) if file.size <= _MAX_INDEX else None
    except (ValueError, RecursionError) as error:
        raise file.error(f"is damaged: it is not JSON ({error}).") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise file.error("is JSON, but no index of files of weights.")
    for name, place in places.items():
        if not isinstance(place, str) or not _FILE_NAME.fullmatch(place):
            raise file.error(f"says that {name[:200]!r} is in {str(place)[:200]!r}, not beside it.")
    return places
