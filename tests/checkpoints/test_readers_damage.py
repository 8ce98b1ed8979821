"""Files cut short and with wrong bytes: always an error that names the file, or arrays."""

import pickle
import random
import time

import h5py
import numpy as np
import pytest
import reader_files
from reader_files import refusal, tensor, write

from panoptic_tf.checkpoints import readers

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
CONTENT = {"model": {"a": VALUES, "b": np.arange(5)}, "epoch": 3}
MUTATIONS = 2_000


def _torch(write_file):
    weights = reader_files.StateDict(a=tensor(0, VALUES), b=tensor(1, np.arange(5)))
    return lambda path: write_file(path, {"model": weights, "epoch": 3})


def _pickle(protocol):
    return lambda path: write(path, pickle.dumps(CONTENT, protocol))


def _safetensors(path):
    entry = {"dtype": "F32", "shape": [2, 3, 4], "data_offsets": [0, 96]}
    return reader_files.safetensors(path, {"a": entry}, VALUES.tobytes())


def _hdf5(path):
    with h5py.File(path, "w") as file:
        file.create_group("conv").attrs["weight_names"] = ["conv/kernel:0"]
        file.create_dataset("conv/conv/kernel:0", data=VALUES, chunks=(1, 3, 4), compression=1)
        file["conv/conv/bias:0"] = np.zeros(4, np.float32)
    return str(path)


FILES = {
    "pickle 0": _pickle(0),
    "pickle 2": _pickle(2),
    "pickle 5": _pickle(5),
    "torch zip": _torch(reader_files.torch_zip),
    "torch stream": _torch(reader_files.torch_stream),
    "safetensors": _safetensors,
    "hdf5": _hdf5,
}


def _read(path):
    """Reads all there is; an error must be the one that is said to come."""
    try:
        reader_files.values_of(path)
    except readers.CheckpointError as error:
        assert str(path) in str(error)
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_cut_anywhere(name, tmp_path):
    whole = tmp_path / "whole"
    FILES[name](whole)
    data = whole.read_bytes()
    assert _read(whole)
    for size in range(0, len(data), max(1, len(data) // 150)):
        # Without its last bytes HDF5 may still have all its arrays.
        path = tmp_path / f"cut_{size}"
        path.write_bytes(data[:size])
        assert not _read(path) or name == "hdf5", size
        path.unlink()


@pytest.mark.parametrize("name", FILES)
def test_wrong_bytes_anywhere(name, tmp_path):
    draw = random.Random(0)
    whole = tmp_path / "whole"
    FILES[name](whole)
    data = whole.read_bytes()
    start = time.monotonic()
    for number in range(MUTATIONS // len(FILES)):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 5))):
            changed[draw.randrange(len(data))] = draw.choice((0, 0x80, 0xFF, draw.randrange(256)))
        # A file of HDF5 that is open is not read anew by the same name.
        path = tmp_path / f"changed_{number}"
        path.write_bytes(changed)
        _read(path)
        path.unlink()
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", FILES)
def test_half_a_file_is_said_to_end_early(name, tmp_path):
    path = tmp_path / "whole"
    FILES[name](path)
    size = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:size])
    message = refusal(path)
    assert "ends early" in message and f"({size} bytes)" in message
