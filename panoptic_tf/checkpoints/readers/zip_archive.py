"""Where the entries of an untrusted zip archive lie; nothing is unpacked.

PyTorch's archives are not compressed, so that an entry is a range of the file's bytes. One that is
compressed is refused, and with it every archive that grows when it is unpacked.
"""

from __future__ import annotations

import struct
import zipfile
from typing import Callable, Dict, Iterable

from panoptic_tf.checkpoints.readers.arrays import CheckpointError
from panoptic_tf.checkpoints.readers.mapped import MappedFile

# A tensor has an entry; above what a pickle of as many tensors is read of.
_MAX_ENTRIES = 500_000
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_END_SIGNATURE = b"PK\x05\x06"
# The record at the end has 22 bytes and a comment of up to 64 KiB.
_END_SIZE = 22 + 65_535
_ENCRYPTED = 1


def entries(
    file: MappedFile, check_names: Callable[[Iterable[str]], None] = lambda names: None
) -> Dict[str, range]:
    """The bytes of each entry, as the list at the end of the archive says.

    Args:
      file: the archive.
      check_names: looks at the names before anything else does, to say what an archive is.

    Raises:
      CheckpointError: the file ends early, is damaged, or an entry is compressed, is there twice,
        lies in another or has a name that leads out of the archive.
    """
    if file.content.rfind(_END_SIGNATURE, max(0, file.size - _END_SIZE)) < 0:
        raise file.ends_early("the list of an archive's entries, its end, is missing")
    found: Dict[str, range] = {}
    listed = _listed(file)
    check_names([info.orig_filename for info in listed])
    for info in listed:
        name = info.orig_filename
        if name in found:
            raise file.error(f"holds {name[:200]!r} twice.")
        _check_name(file, name)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise file.error(
                f"holds {name[:200]!r} compressed or encrypted, as PyTorch writes none. Save it "
                "with torch.save."
            )
        found[name] = _place(file, info)
    _check_apart(file, found)
    return found


def _listed(file: MappedFile) -> list:
    try:
        file.content.seek(0)
        listed = zipfile.ZipFile(file.content).infolist()  # type: ignore[call-overload]
    except CheckpointError:
        raise
    except Exception as error:  # Of damaged archives, zipfile raises nearly anything.
        raise file.error(f"is a damaged archive ({error}).") from error
    if len(listed) > _MAX_ENTRIES:
        raise file.error(f"holds {len(listed)} entries, where {_MAX_ENTRIES} are read.")
    return listed


def _check_name(file: MappedFile, name: str) -> None:
    is_absolute = name.startswith("/") or ":" in name.partition("/")[0]
    if is_absolute or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise file.error(f"holds an entry whose name leads out of it: {name[:200]!r}.")


def _place(file: MappedFile, info: zipfile.ZipInfo) -> range:
    header_end = info.header_offset + _LOCAL_HEADER.size
    if info.header_offset < 0 or header_end > file.size:
        raise file.ends_early(f"{info.filename[:200]!r} starts at byte {info.header_offset}")
    signature, name_size, extra_size = _LOCAL_HEADER.unpack(
        file.view(info.header_offset, header_end)
    )
    start = header_end + name_size + extra_size
    if signature != _LOCAL_SIGNATURE or info.compress_size != info.file_size:
        raise file.error(f"is a damaged archive: {info.filename[:200]!r} is not where it says.")
    if start + info.file_size > file.size:
        raise file.ends_early(f"{info.filename[:200]!r} reaches to byte {start + info.file_size}")
    return range(start, start + info.file_size)


def _check_apart(file: MappedFile, found: Dict[str, range]) -> None:
    """Raises where entries overlap, which makes much of little, too."""
    end = 0
    for name, place in sorted(found.items(), key=lambda item: item[1].start):
        if place.start < end:
            raise file.error(f"holds {name[:200]!r} within another entry.")
        end = max(end, place.stop)
