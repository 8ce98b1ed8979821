"""What a file is, by its first bytes: names of files say what someone thought they were."""

from __future__ import annotations

import re

from panoptic_tf.checkpoints.readers import hdf5_file, tensorflow_file, torch_file
from panoptic_tf.checkpoints.readers.mapped import MappedFile

_HEAD = 512
_MAGIC = torch_file.MAGIC_NUMBER.to_bytes(10, "little")
_LARGEST_HEADER = 100_000_000
# What is taken for weights by those who download it.
_OTHERS = (
    (rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|\?xml|!--)", "a page of the web, not weights"),
    (rb"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the file itself"),
    (rb"\x1f\x8b", "compressed with gzip; unpack it"),
    (rb"BZh|\xfd7zXZ\x00|\x28\xb5\x2f\xfd", "compressed; unpack it"),
    (rb"\x93NUMPY", "a single array of NumPy, not weights by name"),
    (
        rb"(?s:.{257})ustar",
        "a tar archive, as PyTorch wrote before 0.1.10; save it anew with torch.save",
    ),
)
KNOWN = (
    ".pkl, .pth, .pt and .bin of pickle and torch.save, .safetensors, .h5 of Keras, and "
    "checkpoints of TensorFlow"
)


def recognise(file: MappedFile) -> str:
    """The kind of a file.

    Returns:
      zip, torch, pickle, hdf5, safetensors, tensorflow or json.

    Raises:
      CheckpointError: of none that is read.
    """
    head = bytes(file.view(0, _HEAD))
    for pattern, what in _OTHERS:
        if re.match(pattern, head, re.IGNORECASE):
            raise file.error(f"is {what}.")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(hdf5_file.SIGNATURE):
        return "hdf5"
    if bytes(file.view(max(0, file.size - 8))) == tensorflow_file.FOOTER:
        return "tensorflow"
    if _is_safetensors(head):
        return "safetensors"
    if head.startswith(b"\x80"):
        return "torch" if _MAGIC in head[:32] else "pickle"
    if re.match(rb"\s*\{\s*\"", head):
        return "json"
    # Protocols 0 and 1 have no mark of their own: a container or a name comes first.
    if head[:1] in (b"(", b"}", b"]", b"c"):
        return "pickle"
    raise file.error(
        f"is no file of weights, or ends early: it starts with {head[:12]!r}. Known are {KNOWN}."
    )


def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and 2 <= length <= _LARGEST_HEADER and head[8:9] == b"{"
