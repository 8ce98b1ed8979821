"""Files of PyTorch in both forms, without PyTorch: tensors, and what is no tensor."""

import collections
import os
import re
import struct
import zipfile

import numpy as np
import pytest
import reader_files
from reader_files import Tensor, refusal, storage, tensor, torch_stream, torch_zip, write

from panoptic_tf.checkpoints import readers

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
WRITERS = {"zip": torch_zip, "stream": torch_stream}


def _bfloat16(values):
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@pytest.fixture(params=WRITERS)
def save(request, tmp_path):
    """Writes in one form and then the other; returns the path."""
    path = tmp_path / "weights.pth"
    return lambda content, **options: WRITERS[request.param](path, content, **options)


@pytest.mark.parametrize("protocol", [2, 4])
def test_types(save, protocol):
    arrays = {code: VALUES.astype(code) for code in ("f8", "f4", "f2", "i8", "i4", "u1")}
    content = {code: tensor(i, values) for i, (code, values) in enumerate(arrays.items())}
    # Multiples of 1/2 up to 12 have no more digits than bfloat16.
    halves = VALUES / 2
    content["bfloat16"] = Tensor(
        storage("b", _bfloat16(halves), "BFloat16"), 0, (2, 3, 4), (12, 4, 1)
    )
    flags = np.array([0, 1, 7], np.uint8)
    content["bool"] = Tensor(storage("c", flags, "Bool"), 0, (3,), (1,))
    content["number"] = tensor("d", np.array(7, np.int64))
    content["empty"] = tensor("e", np.zeros((0, 3), np.float32))
    expected = {
        **arrays,
        "bfloat16": halves,
        "bool": np.array([False, True, True]),
        "number": np.array(7),
        "empty": np.zeros((0, 3)),
    }
    reader_files.assert_holds(save(content, protocol=protocol), expected)


def test_tensors_are_views_of_storages(save):
    shared = storage("7", VALUES)
    content = {
        "whole": Tensor(shared, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": Tensor(shared, 0, (4, 3, 2), (1, 4, 12)),
        "strided": Tensor(shared, 1, (2, 3, 2), (12, 4, 2)),
        "tail": Tensor(shared, 20, (4,), (1,)),
        "number": Tensor(shared, 23, (), (), "_rebuild_tensor"),
        "diagonal": Tensor(shared, 0, (2,), (13,)),
    }
    expected = {
        "whole": VALUES,
        "transposed": VALUES.transpose(2, 1, 0),
        "strided": VALUES[:, :, 1::2],
        "tail": VALUES[1, 2],
        "number": VALUES[1, 2, 3],
        "diagonal": VALUES.ravel()[[0, 13]],
    }
    reader_files.assert_holds(save(content), expected)


def test_storages_without_a_type(save):
    untyped = storage("0", VALUES.view(np.uint8), "Untyped", VALUES.nbytes)
    content = {"a": Tensor(untyped, 0, (2, 3, 4), (12, 4, 1), "_rebuild_tensor_v3")}
    reader_files.assert_holds(save(content), {"a": VALUES})


def test_a_whole_training(save):
    weights = reader_files.StateDict({"module.w": tensor(0, VALUES)})
    content = {
        "model": weights,
        "optimizer": {"state": {0: {"exp_avg": tensor(1, -VALUES)}}, "param_groups": [{"lr": 0.1}]},
        "scheduler": {"milestones": collections.Counter([3, 4])},
        "iteration": 9,
        "best": 0.5,
        "name": "run",
    }
    path = save(content)
    reader_files.assert_holds(path, {"w": VALUES})
    metadata = readers.read_checkpoint(path).metadata
    assert metadata == {"iteration": 9, "best": 0.5, "name": "run"}


def test_a_big_endian_archive(tmp_path):
    path = tmp_path / "a.pth"
    content = {"a": tensor(0, VALUES.astype(">f4").view("<f4"))}
    reader_files.assert_holds(torch_zip(path, content, byteorder="big"), {"a": VALUES})


def test_large_storages_are_not_copied(save):
    path = save({"a": tensor(0, np.zeros(1 << 20, np.uint8))})
    assert not readers.read_checkpoint(path).arrays["a"].read().flags.owndata


TENSORS = {
    "beyond the end": (Tensor(storage("0", VALUES), 0, (25,), (1,)), "beyond its storage of 24"),
    "beyond by its offset": (Tensor(storage("0", VALUES), 20, (5,), (1,)), "beyond its storage"),
    "beyond by its strides": (Tensor(storage("0", VALUES), 0, (2, 2), (23, 1)), "[2, 2]"),
    "negative strides": (Tensor(storage("0", VALUES), 23, (24,), (-1,)), "sizes of an array"),
    "a negative offset": (Tensor(storage("0", VALUES), -1, (2,), (1,)), "sizes of an array"),
    "no strides": (Tensor(storage("0", VALUES), 0, (2,), ()), "0 strides"),
    "many elements of one": (Tensor(storage("0", VALUES), 0, (2**40,), (0,)), "beyond its"),
    "a storage of 2**40": (
        Tensor(storage("0", VALUES, size=2**40), 0, (2**40,), (1,)),
        "storage|data/0|reaches to byte",
    ),
    "complex": (Tensor(storage("0", VALUES, "ComplexFloat"), 0, (2,), (1,)), "ComplexFloatStorage"),
    "sparse": (
        tensor(0, VALUES)._replace(function="_rebuild_sparse_tensor"),
        "_rebuild_sparse_tensor",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_not_there(save, name):
    value, said = TENSORS[name]
    message = refusal(save({"a": value}), peak_megabytes=8)
    assert re.search(re.escape(said) if "[" in said else said, message), message


class Call:
    def __init__(self, command):
        self._command = command

    def __reduce__(self):
        return os.system, (self._command,)


def test_what_is_not_weights_is_refused_by_name(save, tmp_path):
    marker = tmp_path / "made"
    message = refusal(save({"a": tensor(0, VALUES), "b": Call(f"touch {marker}")}))
    assert "system" in message and "torch.save({'state_dict'" in message
    assert not marker.exists()


@pytest.mark.parametrize("identifier", [b"Vsystem\n", b"(Vmodule\nVa\nVb\nVc\nt", b"(Vstorage\nt"])
def test_persistent_ids_that_are_no_storages(identifier, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + identifier + b"Q.")
    assert "persistent id that is no storage" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "archive/../../evil", "C:/evil", "a\\..\\evil"]
)
def test_names_that_leave_the_archive(name, tmp_path):
    path = torch_zip(tmp_path / "a.pth", {"a": tensor(0, VALUES)}, more=[(name, b"")])
    assert "leads out of it" in refusal(path)


def test_keys_that_leave_the_archive(tmp_path):
    path = torch_zip(tmp_path / "a.pth", {"a": tensor("../../a", VALUES)})
    assert "leads out of it" in refusal(path)


def test_entries_that_are_there_twice(tmp_path):
    more = [("archive/data/0", VALUES.tobytes())]
    with pytest.warns(UserWarning, match="Duplicate"):
        path = torch_zip(tmp_path / "a.pth", {"a": tensor(0, VALUES)}, more=more)
    assert "'archive/data/0' twice" in refusal(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    zeros = np.zeros(1 << 26, np.uint8)
    path = torch_zip(tmp_path / "a.pth", {"a": tensor(0, zeros)}, compression=zipfile.ZIP_DEFLATED)
    assert os.path.getsize(path) < 100_000
    assert "compressed" in refusal(path, peak_megabytes=4)


def test_entries_within_one_another(tmp_path):
    path = tmp_path / "a.pth"
    torch_zip(path, {"a": tensor(0, VALUES), "b": tensor(1, VALUES)})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"archive/data/{key}").header_offset for key in "01")
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/1"))
    place = struct.pack("<I", first)
    assert data[start + 42 : start + 46] == struct.pack("<I", second)
    write(path, data[: start + 42] + place + data[start + 46 :])
    assert "within another entry" in refusal(path)


OTHER_ARCHIVES = {
    "a program": (
        {"m/code/__torch__.py": b"", "m/data.pkl": b"", "m/constants.pkl": b""},
        "Script",
    ),
    "of Keras": ({"config.json": b"", "model.weights.h5": b""}, "a Keras archive"),
    "of anything": ({"readme.txt": b""}, "0 entries data.pkl"),
    "of two": ({"a/data.pkl": b"", "b/data.pkl": b""}, "2 entries data.pkl"),
    "of NumPy": ({"a.npy": b""}, "0 entries data.pkl"),
}


@pytest.mark.parametrize("name", OTHER_ARCHIVES)
def test_archives_of_something_else(name, tmp_path):
    entries, said = OTHER_ARCHIVES[name]
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    assert said in refusal(tmp_path / "b.pth")
    if "data.pkl" not in said:
        assert said in refusal(tmp_path / "a.pth")


def test_a_storage_that_is_not_there(tmp_path):
    pickled, _ = reader_files.torch_pickle({"a": tensor(0, VALUES)})
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    assert "lacks data/0" in refusal(tmp_path / "a.pth")


def test_counts_of_the_older_form(tmp_path):
    content = {"a": tensor(0, VALUES)}
    path = torch_stream(tmp_path / "a.pth", content, counts={"0": 2**40})
    assert f"storage of {2**40} elements" in refusal(path, peak_megabytes=4)
    assert "big-endian" in refusal(torch_stream(path, content, little_endian=False))
