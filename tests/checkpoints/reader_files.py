"""Writes files for the tests of readers of checkpoints; those of PyTorch without PyTorch."""

import collections
import contextlib
import io
import json
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from typing import NamedTuple

import numpy as np
import pytest

from panoptic_tf.checkpoints import readers

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_STORAGES = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte"}
_TYPES = {"f4": "float32", "u2": "uint16"}


class Storage(NamedTuple):
    """Elements that tensors share; `kind` as "Float", or "Untyped"; `size` is what is claimed."""

    key: str
    values: np.ndarray
    kind: str
    size: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple
    strides: tuple
    function: str = "_rebuild_tensor_v2"


def storage(key, values, kind=None, size=None):
    values = np.ravel(values)
    kind = kind or _STORAGES[values.dtype.str[1:]]
    return Storage(str(key), values, kind, len(values) if size is None else size)


def tensor(key, values):
    """A contiguous tensor in a storage of its own."""
    strides = tuple(step // values.itemsize for step in np.array(values, order="C").strides)
    return Tensor(storage(key, values), 0, values.shape, strides)


class StateDict(collections.OrderedDict):
    """Has an attribute beside its items, as `state_dict` of PyTorch."""

    def __reduce__(self):
        state = {"_metadata": collections.OrderedDict({"": {"version": 1}})}
        return collections.OrderedDict, (), state, None, iter(self.items())


class _Pickler(pickle.Pickler):
    def __init__(self, file, protocol, more):
        super().__init__(file, protocol)
        self.storages = {}
        self._more = more

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value
        module = sys.modules["torch.storage" if value.kind == "Untyped" else "torch"]
        kind = getattr(module, f"{value.kind}Storage")
        return ("storage", kind, value.key, "cpu", value.size, *self._more)

    def reducer_override(self, value):
        if not isinstance(value, Tensor):
            return NotImplemented
        kind = _TYPES.get(value.storage.values.dtype.str[1:], "float32")
        more = (getattr(sys.modules["torch"], kind),) if value.function.endswith("v3") else ()
        function = getattr(sys.modules["torch._utils"], value.function)
        arguments = (value.storage, value.offset, value.shape, value.strides)
        if value.function != "_rebuild_tensor":
            arguments += (False, collections.OrderedDict(), *more)
        return function, arguments


@contextlib.contextmanager
def _named(names):
    """Modules with symbols of these names, for as long as something is pickled."""
    modules = {name.rpartition(".")[0]: types.ModuleType(name) for name in names}
    for name in names:
        module, _, symbol = name.rpartition(".")
        made = type(symbol, (), {"__module__": module, "__qualname__": symbol})
        setattr(modules[module], symbol, made)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


_TORCH = (
    *(f"torch.{name}Storage" for name in (*_STORAGES.values(), "BFloat16", "Bool", "ComplexFloat")),
    *(f"torch.{name}" for name in _TYPES.values()),
    "torch.storage.UntypedStorage",
    *(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")),
    "torch._utils._rebuild_sparse_tensor",
)


def torch_pickle(content, protocol=2, more=()):
    """The pickle of what `torch.save` writes, and its storages by key."""
    file = io.BytesIO()
    with _named(_TORCH):
        pickler = _Pickler(file, protocol, more)
        pickler.dump(content)
    return file.getvalue(), pickler.storages


def torch_zip(path, content, protocol=2, byteorder="little", more=(), compression=0):
    """A zip archive of `torch.save`; `more`: entries beside those that belong there."""
    pickled, storages = torch_pickle(content, protocol)
    entries = [("data.pkl", pickled), ("byteorder", byteorder.encode())]
    entries += [(f"data/{key}", item.values.tobytes()) for key, item in storages.items()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in [*entries, ("version", b"3\n")]:
            archive.writestr(f"archive/{name}", data)
        for name, data in more:
            archive.writestr(name, data)
    return str(path)


def torch_stream(path, content, protocol=2, counts=None, little_endian=True):
    """The older form of `torch.save`; `counts`: of a storage's elements, where they are wrong."""
    pickled, storages = torch_pickle(content, protocol, more=(None,))
    facts = {"protocol_version": 1001, "little_endian": little_endian}
    with open(path, "wb") as file:
        for part in (MAGIC_NUMBER, 1001, facts):
            pickle.dump(part, file, protocol)
        file.write(pickled)
        pickle.dump(sorted(storages), file, protocol)
        for key in sorted(storages):
            values = storages[key].values
            file.write(struct.pack("<q", (counts or {}).get(key, len(values))))
            file.write(values.tobytes())
    return str(path)


def write(path, data):
    path.write_bytes(data)
    return str(path)


def safetensors(path, entries, data, header=None):
    text = json.dumps(entries).encode() if header is None else header
    return write(path, struct.pack("<Q", len(text)) + text + data)


def refusal(path, *, peak_megabytes=None):
    """What is said of a file that is not read; names the file."""
    tracemalloc.start()
    try:
        with pytest.raises(readers.CheckpointError) as caught:
            readers.read_checkpoint(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert str(path) in message
    assert peak_megabytes is None or peak < peak_megabytes * 2**20, f"{peak} bytes"
    return message


def values_of(path):
    """All arrays of a file, as they were promised."""
    found = {}
    for name, array in readers.read_checkpoint(str(path)).arrays.items():
        values = array.read()
        assert isinstance(values, np.ndarray)
        assert (values.shape, values.dtype) == (array.shape, array.dtype)
        assert values.flags.c_contiguous and values.flags.aligned and values.dtype.isnative
        found[name] = values
    return found


def assert_holds(path, expected):
    found = values_of(path)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
