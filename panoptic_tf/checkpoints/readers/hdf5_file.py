"""Weights of Keras in HDF5: `.h5` of `save_weights` and of `model.save`.

A layer is a group, in which a weight lies under its name, as `conv1_conv/kernel:0`: that name,
without ":0", is the array's. Where two layers have weights of one name, the later's has its layer's
before it. A file without such groups, as Keras 3 writes it, has the datasets' paths for names.

The lists of names that Keras puts beside the layers are not read: where they are damaged, HDF5's
library may never come back. Layers come by name, which is how Keras writes them, and a layer's
weights in the order in which they lie in the file.

Only what is in the file itself is read: links and data that lead elsewhere are refused.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from panoptic_tf.checkpoints.readers.arrays import CheckpointError, StoredArray, StoredCheckpoint
from panoptic_tf.checkpoints.readers.mapped import MappedFile

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# deflate, shuffle, Fletcher's checksum and LZF, which h5py brings along.
_FILTERS = frozenset([1, 2, 3, 32000])
_KINDS = "fiub"
# Trained weights shrink by a tenth; what was never trained may be zeros.
_MAX_GROWTH = 64
_MAX_SMALL = 1 << 26
_MAX_DEPTH = 32
_MAX_ARRAYS = 250_000
_MODEL = "model_weights"
_OPTIMIZER = "optimizer_weights"
# The attribute that marks a layer; of very large ones it is split.
_LAYER = ("weight_names", "weight_names0")


def read(file: MappedFile) -> StoredCheckpoint:
    """Reads a file of HDF5.

    Raises:
      CheckpointError: it cannot be read, or leads elsewhere.
    """
    import h5py

    try:
        root = h5py.File(file.local, "r")
        try:
            return StoredCheckpoint(file.path, _Reader(file).arrays(root), {})
        except BaseException:
            root.close()
            raise
    except CheckpointError:
        raise
    except Exception as error:  # Of damaged files, h5py raises nearly anything.
        early = "ends early: it" if "truncated" in str(error) else "is damaged: it"
        raise file.error(f"{early} cannot be read as HDF5 ({error}).") from error


class _Reader:
    """Finds the datasets of a file.

    Args:
      file: for messages.
    """

    def __init__(self, file: MappedFile):
        self._file = file
        self._total = 0

    def arrays(self, root: Any) -> Dict[str, StoredArray]:
        """Arrays by name."""
        if _MODEL in root:
            root = self._child(root, _MODEL)
        found: Dict[str, StoredArray] = {}
        for layer, name, dataset in self._datasets(root):
            name = name[:-2] if name.endswith(":0") else name
            name = f"{layer}/{name}" if name in found else name
            if name in found or len(found) >= _MAX_ARRAYS:
                raise self._file.error(f"holds {name[:200]!r} twice, or too many arrays.")
            found[name] = self._array(name, dataset)
        if not found:
            raise self._file.error("holds no weights of layers.")
        return found

    # Groups

    def _child(self, group: Any, key: str) -> Any:
        """What a group has by a name, in the file itself."""
        import h5py

        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise self._file.error(
                f"holds a link, {group.name}/{key} to {_target(link)}, which is not followed."
            )
        return group[key]

    def _children(self, group: Any) -> List[Tuple[str, Any]]:
        """(name, object): datasets in the order of their places, then groups by name."""
        import h5py

        children = [(key, self._child(group, key)) for key in sorted(group) if key != _OPTIMIZER]

        def place(item: Tuple[str, Any]) -> Tuple[bool, int]:
            if isinstance(item[1], h5py.Group):
                return True, 0
            return False, h5py.h5o.get_info(item[1].id).addr

        return sorted(children, key=place)

    def _datasets(self, root: Any) -> Iterator[Tuple[str, str, Any]]:
        """(layer's name, weight's name, dataset)."""
        import h5py

        waiting: List[Tuple[Any, str, str, int]] = [(root, "", "", 0)]
        seen = set()
        while waiting:
            item, layer, name, depth = waiting.pop()
            if isinstance(item, h5py.Dataset):
                yield layer, name, item
            elif isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in seen or depth > _MAX_DEPTH:
                    raise self._file.error(f"holds a group that contains itself, {item.name!r}.")
                seen.add(address)
                if any(attribute in item.attrs for attribute in _LAYER):
                    layer, name = name, ""
                waiting += [
                    (child, layer, f"{name}/{key}" if name else key, depth + 1)
                    for key, child in reversed(self._children(item))
                ]

    # Datasets

    def _array(self, name: str, dataset: Any) -> StoredArray:
        import h5py

        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise self._file.error(f"has no array at {name[:200]!r}.")
        if dataset.external or dataset.is_virtual:
            raise self._file.error(f"has the data of {name[:200]!r} in other files.")
        if dataset.dtype.kind not in _KINDS or dataset.dtype.hasobject:
            raise self._file.error(f"has no numbers at {name[:200]!r}, but {dataset.dtype}.")
        self._check_filters(name, dataset)
        self._total += dataset.nbytes
        if self._total > max(_MAX_GROWTH * self._file.size, _MAX_SMALL):
            raise self._file.error(
                f"holds arrays that take more than {self._total - 1} bytes when they are read, "
                f"{name[:200]!r} of shape {list(dataset.shape)} among them."
            )
        given = dataset.dtype.newbyteorder("=")

        def read_array() -> np.ndarray:
            try:
                return np.asarray(dataset[()], given)
            except Exception as error:  # Also of what a filter says.
                raise self._file.error(f"is damaged at {name[:200]!r} ({error}).") from error

        return StoredArray(tuple(dataset.shape), given, read_array)

    def _check_filters(self, name: str, dataset: Any) -> None:
        properties = dataset.id.get_create_plist()
        filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
        if not filters <= _FILTERS:
            raise self._file.error(f"has {name[:200]!r} packed by a filter that is not read.")


def _target(link: Any) -> str:
    file_name = getattr(link, "filename", "")
    return f"{link.path[:200]} in {file_name[:200]}" if file_name else link.path[:200]
