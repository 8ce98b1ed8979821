"""Files of `torch.save`: zip archives, and the older form that is none; PyTorch is not needed.

A zip archive holds `data.pkl`, a table of contents, and `data/<key>`, the bytes of a storage.
The older form holds pickles in a row: a magic number, a version, facts about the machine, what
there is, the keys of the storages; then each storage, after its number of elements.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterable, Tuple

from panoptic_tf.checkpoints.readers import restricted_pickle, zip_archive
from panoptic_tf.checkpoints.readers.arrays import StoredCheckpoint
from panoptic_tf.checkpoints.readers.flatten import flatten
from panoptic_tf.checkpoints.readers.mapped import MappedFile
from panoptic_tf.checkpoints.readers.torch_symbols import Storage, Storages

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_COUNT_SIZE = 8
_PICKLE = re.compile(r"(?:[^/]+/)?data\.pkl")
_SCRIPT = re.compile(r"(?:[^/]+/)?(?:code/.*|constants\.pkl)")


def read_zip(file: MappedFile) -> StoredCheckpoint:
    """Reads a zip archive."""
    entries = zip_archive.entries(file, lambda names: _check_kind(file, names))
    root = _root(file, entries)
    storages = Storages(is_big_endian=_is_big_endian(file, entries, root))
    pickled = entries[f"{root}data.pkl"]
    content, _ = _load(file, storages, pickled.start, pickled.stop)
    for storage in storages.by_key.values():
        entry = entries.get(f"{root}data/{storage.key}")
        if entry is None:
            raise file.error(f"lacks data/{storage.key[:200]}, of which it has a tensor.")
        if len(entry) != storage.num_bytes:
            raise file.error(
                f"has tensors in a storage of {storage.num_bytes} bytes, but {len(entry)} in "
                f"data/{storage.key[:200]}."
            )
        storage.data = file.view(entry.start, entry.stop)
    return flatten(file, content)


def _root(file: MappedFile, entries: Dict[str, range]) -> str:
    """The folder within the archive that everything is in, with its slash."""
    pickles = [name for name in entries if _PICKLE.fullmatch(name)]
    if len(pickles) != 1:
        raise file.error(
            f"is a zip archive with {len(pickles)} entries data.pkl, where torch.save writes one. "
            "If it was zipped for the way, unzip it."
        )
    return pickles[0][: -len("data.pkl")]


def _check_kind(file: MappedFile, entries: Iterable[str]) -> None:
    """Raises for archives that are known and hold something else."""
    if any(_SCRIPT.fullmatch(name) for name in entries):
        raise file.error(
            "is a TorchScript archive, which is a program. Save its weights instead: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
        )
    if "model.weights.h5" in entries:
        raise file.error("is a Keras archive. Save its weights with model.save_weights('x.h5').")


def _is_big_endian(file: MappedFile, entries: Dict[str, range], root: str) -> bool:
    place = entries.get(f"{root}byteorder")
    order = b"little" if place is None else bytes(file.view(place.start, place.stop)[:20])
    if order not in (b"little", b"big"):
        raise file.error(f"says that its byte order is {order!r}, not little or big.")
    return order == b"big"


def _load(file: MappedFile, storages: Storages, start: int, stop: int) -> Tuple[Any, int]:
    return restricted_pickle.load(
        file, start, stop, symbols=storages.symbols(), persistent_load=storages.load
    )


def read_stream(file: MappedFile) -> StoredCheckpoint:
    """Reads the older form."""
    magic, position = restricted_pickle.load(file)
    version, position = restricted_pickle.load(file, position)
    machine, position = restricted_pickle.load(file, position)
    if magic != MAGIC_NUMBER or version != _VERSION or not isinstance(machine, dict):
        raise file.error("is a file of torch.save in a form that is not known.")
    if machine.get("little_endian") is not True:
        raise file.error("was written on a big-endian machine in the old form. Save it anew.")
    storages = Storages()
    content, position = _load(file, storages, position, file.size)
    keys, position = restricted_pickle.load(file, position)
    if not isinstance(keys, list) or len(keys) != len(storages.by_key):
        raise file.error("does not list the storages that its tensors are in.")
    for key in keys:
        storage = storages.by_key.get(key) if isinstance(key, str) else None
        if storage is None or storage.data is not None:
            raise file.error("lists storages that are not those of its tensors.")
        position = _place_next(file, storage, position)
    return flatten(file, content)


def _place_next(file: MappedFile, storage: Storage, position: int) -> int:
    """Gives a storage its bytes; returns where the next one starts."""
    start = position + _COUNT_SIZE
    stop = start + storage.num_bytes
    if start <= file.size:
        size = int.from_bytes(file.view(position, start), "little")
        if size != storage.size:
            raise file.error(
                f"has a storage of {size} elements, where tensors need {storage.size}."
            )
    if stop > file.size:
        raise file.ends_early(f"a storage reaches to byte {stop}")
    storage.data = file.view(start, stop)
    return stop
