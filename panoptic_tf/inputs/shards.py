"""The files of a data set as a whole: none is missing, emptied, shortened or of another kind.

What is compared: the names with each other (`-of-00004`), and the number of records of each file
with the manifest beside it. The records themselves stay unread, only their lengths are.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import re
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf

from panoptic_tf.datasets import files, manifest

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.tfrecord)?", re.DOTALL)
_EXPECTED = "expected the records of `convert`, such as data/train-*"
_LENGTH = struct.Struct("<Q")
_HEADER_BYTES, _FOOTER_BYTES = 12, 4  # The length and its checksum; the checksum of the content.
_THREADS = 8  # Where files are on another machine, each look takes a while.


class Shards(NamedTuple):
    """The files of a data set.

    Attributes:
      paths: in order.
      num_records: of all together, or None where the files are remote.
    """

    paths: List[str]
    num_records: Optional[int]


def find_shards(
    input_path: str, *, name: str = "input_path", allow_partial: bool = False
) -> Shards:
    """The files that match a pattern, which have to be a whole data set.

    Of remote files (gs://...) only the names are looked at, and that none is empty.

    Args:
      input_path: the pattern.
      name: of the setting, for error messages; it ends in `_path`.
      allow_partial: take what there is, though shards or records are missing.

    Raises:
      ValueError: no file matches, one is no file of records or ends within a record, all are empty,
        or, unless `allow_partial`, something is missing; the message names the file.
    """
    paths = sorted(tf.io.gfile.glob(input_path)) if input_path else []
    if not paths:
        raise ValueError(f"no file matches {name} {input_path!r}; {_EXPECTED}.")
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        counts = dict(zip(paths, pool.map(_count_records, paths)))
    if not allow_partial:
        setting = re.sub("[a-z]*_path$", "allow_partial", name)
        problem = _missing_part(counts)
        if problem:
            raise ValueError(
                f"{problem} Convert the data set again, or set {setting}=true where a part of it "
                "is meant."
            )
    if not any(count != 0 for count in counts.values()):
        raise ValueError(f"{name} {input_path!r}: the files hold no record; {_EXPECTED}.")
    numbers = [count for count in counts.values() if count is not None]
    return Shards(paths, sum(numbers) if len(numbers) == len(paths) else None)


def find_damaged_record(paths: Sequence[str]) -> Optional[str]:
    """Says which record is the first whose checksum is wrong, if there is one; reads up to it.

    Args:
      paths: files of records.
    """
    for path in paths:
        number = 0
        try:
            for _ in tf.data.TFRecordDataset(path):
                number += 1
        except tf.errors.DataLossError:
            return (
                f"{path}: record {number} is damaged, or the file was cut or written while it was "
                "read. Convert the data set again."
            )
    return None


def _is_remote(path: str) -> bool:
    return "://" in path


def _count_records(path: str) -> Optional[int]:
    """Number of records of a file; of a remote one 0, or None for any other number."""
    if _is_remote(path):
        return None if tf.io.gfile.stat(path).length else 0
    problem = files.file_problem(path)
    if problem:
        raise ValueError(f"{path}: {problem}; {_EXPECTED}.")
    status = os.stat(path)
    return _count_of_version(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _count_of_version(path: str, size: int, modified: int) -> int:
    del modified
    with open(path, "rb", buffering=0) as file:
        return sum(1 for _ in _lengths(file.fileno(), path, size))


def _lengths(descriptor: int, path: str, size: int) -> Iterator[int]:
    """Bytes of every record, found from one to the next."""
    start = number = 0
    while start < size:
        header = os.pread(descriptor, _LENGTH.size, start)
        length = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else size
        start += _HEADER_BYTES + length + _FOOTER_BYTES
        if start > size:
            what = f"ends within record {number}" if number else "is not a TFRecord file, or cut"
            raise ValueError(f"{path} {what}; {_EXPECTED}.")
        yield length
        number += 1


def _missing_part(counts: Dict[str, Optional[int]]) -> Optional[str]:
    """What of the data sets is not among the files, in a sentence, or None.

    Args:
      counts: records by path, None where that is not known.
    """
    splits: Dict[Tuple[str, str], List[str]] = {}
    for path in counts:
        match = _SHARD.fullmatch(os.path.basename(path))
        if match:
            splits.setdefault((os.path.dirname(path), match[1]), []).append(path)
    for (folder, split), paths in splits.items():
        listed = manifest.manifest_path(folder, split)
        if not _is_remote(folder) and os.path.exists(listed):
            problem = _unlike_manifest(listed, paths, counts)
        else:
            problem = _unlike_names(paths, counts)
        if problem:
            return problem
    return None


def _unlike_manifest(
    path: str, paths: Sequence[str], counts: Dict[str, Optional[int]]
) -> Optional[str]:
    folder, shards = os.path.dirname(path), manifest.Manifest.load(path).shards
    expected = {os.path.join(folder, shard.name): shard.num_records for shard in shards}
    missing = [shard for shard in expected if shard not in counts]
    if missing:
        return _without(missing[0], len(expected) - len(missing), len(expected))
    strange = [shard for shard in paths if shard not in expected]
    if strange:
        return f"{strange[0]} is not among the shards of {path}."
    for shard, number in expected.items():
        if counts[shard] != number:
            return f"{shard} has {counts[shard]} records, {path} says {number}."
    return None


def _unlike_names(paths: Sequence[str], counts: Dict[str, Optional[int]]) -> Optional[str]:
    """Compares with the number of shards that the names tell."""
    for form, total in sorted({_form_and_total(path) for path in paths}):
        names = (form.format(i) for i in range(total))
        missing = next((name for name in names if name not in counts), None)
        if missing:
            present = sum(_form_and_total(path) == (form, total) for path in paths)
            return _without(missing, present, total)
    empty = [path for path in paths if counts[path] == 0]
    return f"{empty[0]} is empty." if empty else None


def _form_and_total(path: str) -> Tuple[str, int]:
    """The name of a shard with a place for its index, and the number of shards that it tells."""
    match = _SHARD.fullmatch(path)
    assert match is not None
    stem, index, total, suffix = (
        text.replace("{", "{{").replace("}", "}}") for text in match.groups(default="")
    )
    return f"{stem}-{{:0{len(index)}d}}-of-{total}{suffix}", int(total)


def _without(missing: str, present: int, total: int) -> str:
    exists = tf.io.gfile.exists(missing)
    what = "is there, but the pattern leaves it out" if exists else "is missing"
    return f"{missing} {what}: {present} of {total} shards are read."
