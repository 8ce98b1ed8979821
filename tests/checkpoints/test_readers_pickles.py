"""Pickles: arrays of every protocol are read, and nothing that is not weights."""

import argparse
import collections
import copyreg
import os
import pathlib
import pickle
import re
import struct

import numpy as np
import pytest
import reader_files
from reader_files import refusal, write

from panoptic_tf.checkpoints import readers

PROTOCOLS = range(6)
VALUES = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
STATE = {
    "conv1_w": VALUES,
    "fortran": np.asfortranarray(VALUES),
    "strided": VALUES[:, ::2],
    "big_endian": np.arange(5, dtype=">i4"),
    "half": VALUES.astype(np.float16),
    "bool": np.array([True, False]),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    # Longer than what is taken out of the file at once; with zeros, line ends and backslashes.
    "long": np.arange(40_000, dtype=np.float32),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_every_protocol(protocol, tmp_path):
    content = {
        "blobs": {**STATE, "conv1_w_momentum": VALUES},
        "__author__": "Caffe2",
        "matching_heuristics": True,
        "epoch": np.float64(2.5),
        "seen": {1, 2},
        "order": frozenset([1]),
        "cfg": ("a", [b"b", None, 1 << 80]),
    }
    path = write(tmp_path / "a.pkl", pickle.dumps(content, protocol))
    reader_files.assert_holds(path, STATE)
    metadata = readers.read_checkpoint(path).metadata
    assert metadata == {"__author__": "Caffe2", "matching_heuristics": True, "epoch": 2.5}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_both_names_of_numpy(core, protocol, tmp_path):
    data = pickle.dumps({"a": VALUES}, protocol)
    for name in (b"numpy._core", b"numpy.core"):
        for part in (b"multiarray", b"numeric"):
            old, new = name + b"." + part, core + b"." + part
            data = data.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
            data = data.replace(b"c" + old, b"c" + new)
    start = data.find(b"\x95") + 1
    if protocol >= 4:  # The frame has another length now.
        data = data[:start] + struct.pack("<Q", len(data) - start - 8) + data[start + 8 :]
    reader_files.assert_holds(write(tmp_path / "a.pkl", data), {"a": VALUES})


def _array_of_python_2(name, values):
    """As Python 2 pickles it: text and bytes are both str."""
    data = values.tobytes()
    long = b"T" + struct.pack("<i", len(data)) if len(data) > 255 else b"U" + bytes([len(data)])
    shape = b"(" + b"".join(b"M" + struct.pack("<H", size) for size in values.shape) + b"t"
    kind = (
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return (
        b"U"
        + bytes([len(name)])
        + name
        + array
        + b"(K\x01"
        + shape
        + kind
        + b"\x89"
        + long
        + data
        + b"tb"
    )


def test_strings_of_python_2(tmp_path):
    large = np.arange(20_000, dtype=np.float32)
    items = _array_of_python_2(b"a_w", VALUES) + _array_of_python_2(b"long", large)
    path = write(tmp_path / "a.pkl", b"\x80\x02}(" + items + b"u.")
    reader_files.assert_holds(path, {"a_w": VALUES, "long": large})


def test_a_long_array_is_a_view_of_the_file(tmp_path):
    path = write(tmp_path / "a.pkl", pickle.dumps({"a": np.zeros(1 << 20, np.uint8)}, 4))
    values = readers.read_checkpoint(path).arrays["a"].read()
    assert not values.flags.owndata and not values.flags.writeable


CONTAINERS = {
    "container": ({"model": {"a": VALUES}, "iteration": 3}, {"a": VALUES}),
    "beside an average": ({"model_ema": {"a": -VALUES}, "model": {"a": VALUES}}, {"a": VALUES}),
    "only an average": ({"ema_state_dict": {"a": VALUES}}, {"a": VALUES}),
    "twice": ({"state_dict": {"model": {"a": VALUES}}}, {"a": VALUES}),
    "a layer called model": (
        {"state_dict": {"model": {"a": VALUES}, "head": {"b": VALUES}}},
        {"model.a": VALUES, "head.b": VALUES},
    ),
    "a configuration called model": (
        {"model": {"depth": 50}, "state_dict": {"a": VALUES}},
        {"a": VALUES},
    ),
    "optimizer": (
        {"a": VALUES, "optimizer": {"state": {0: {"m": VALUES}}}, "scheduler": {"m": VALUES}},
        {"a": VALUES},
    ),
    "nested": ({"a": {"b": {"c": VALUES, 3: VALUES}}}, {"a.b.c": VALUES, "a.b.3": VALUES}),
    "data-parallel": ({"module.a": VALUES, "module.b": VALUES}, {"a": VALUES, "b": VALUES}),
    "one module": ({"module.a": VALUES, "b": VALUES}, {"module.a": VALUES, "b": VALUES}),
    "bytes": ({b"model": 1, b"a": VALUES}, {"a": VALUES}),
    "milestones": (
        {"model": {"a": VALUES}, "scheduler": {"milestones": collections.Counter([3, 4])}},
        {"a": VALUES},
    ),
    "ordered": (reader_files.StateDict(a=VALUES), {"a": VALUES}),
    "no metadata of ours": ({"a": VALUES, "variable_names": "x"}, {"a": VALUES}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_weights_are_found(name, tmp_path):
    content, expected = CONTAINERS[name]
    path = write(tmp_path / "a.pkl", pickle.dumps(content))
    reader_files.assert_holds(path, expected)
    assert "variable_names" not in readers.read_checkpoint(path).metadata


# What is refused; a payload that was run would make the file that it is given.


class OwnArray(np.ndarray):
    """No array of NumPy's own."""


class Reduced:
    """Pickles as a call, and a state that is set then."""

    def __init__(self, *parts):
        self._parts = parts

    def __reduce__(self):
        return self._parts


def _array(shape, element_type, data, function=None, kind=np.ndarray):
    function = function or np.zeros(1).__reduce__()[0]
    return Reduced(function, (kind, (0,), b"b"), (1, shape, element_type, False, data))


def _command(marker):
    return f"touch {marker}"


PAYLOADS = {
    "a call of os.system": (lambda m: pickle.dumps(Reduced(os.system, (_command(m),))), "system"),
    "the same, old": (lambda m: pickle.dumps(Reduced(os.system, (_command(m),)), 0), "system"),
    "within weights": (
        lambda m: pickle.dumps({"a": VALUES, "b": Reduced(os.system, (_command(m),))}),
        "system",
    ),
    "pathlib": (
        lambda m: pickle.dumps(Reduced(pathlib.Path.touch, (pathlib.Path(m),))),
        "builtins.getattr|pathlib",
    ),
    "eval": (
        lambda m: pickle.dumps(Reduced(eval, (f"open({str(m)!r}, 'w')",))),
        "builtins.eval",
    ),
    "GLOBAL": (lambda m: b"cos\nsystem\n(S'touch %b'\ntR." % m.encode(), r"os\.system"),
    "STACK_GLOBAL": (
        lambda m: b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'touch %b'\ntR." % m.encode(),
        r"os\.system",
    ),
    "a method by a dotted name": (
        lambda m: b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        r"numpy\.ndarray\.tofile",
    ),
    "another function of numpy": (lambda m: b"cnumpy\nload\n(S'a'\ntR.", r"numpy\.load"),
    "INST": (lambda m: b"(S'touch %b'\nios\nsystem\n." % m.encode(), r"INST of os\.system"),
    "OBJ": (lambda m: b"(cos\nsystem\nS'touch %b'\no." % m.encode(), r"os\.system"),
    "OBJ of a known name": (
        lambda m: b"(ccollections\nOrderedDict\no.",
        r"OBJ of collections\.OrderedDict",
    ),
    "NEWOBJ": (
        lambda m: b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        r"NEWOBJ of collections\.OrderedDict",
    ),
    "NEWOBJ_EX": (
        lambda m: b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
        r"NEWOBJ_EX of collections\.OrderedDict",
    ),
    "a class": (lambda m: pickle.dumps({"args": argparse.Namespace(a=1)}), r"argparse\.Namespace"),
    "BUILD on a dict": (lambda m: b"}}b.", "BUILD on a dict"),
    "BUILD on a list": (lambda m: b"]}b.", "BUILD on a list"),
    "BUILD on a name": (lambda m: b"cnumpy\nndarray\n}b.", r"BUILD on numpy\.ndarray"),
    "BUILD with setstate": (
        lambda m: b"ccollections\nOrderedDict\n)R(N}S'__setstate__'\ncos\nsystem\nstb.",
        r"os\.system",
    ),
    "BUILD on an array": (
        lambda m: pickle.dumps({"a": Reduced(*_array((1,), VALUES.dtype, b"aaaa")._parts[:2], {})}),
        "state that an array does not have",
    ),
    "a persistent id": (lambda m: b"(Pstorage\n.", "PERSID of storage"),
    "a persistent id, binary": (lambda m: b"\x80\x02X\x01\x00\x00\x00aQ.", "BINPERSID"),
    "EXT1": (lambda m: b"\x80\x02\x82\xf0N\x85R.", "EXT1 of 240"),
    "EXT2": (lambda m: b"\x80\x02\x83\xf0\x00N\x85R.", "EXT2 of 240"),
    "EXT4": (lambda m: b"\x80\x02\x84\xf0\x00\x00\x00N\x85R.", "EXT4 of 240"),
    "a buffer of elsewhere": (lambda m: b"\x80\x05\x97.", "NEXT_BUFFER"),
    "a later protocol": (lambda m: b"\x80\x06N.", "protocol 6"),
    "a call of an array": (lambda m: b"cnumpy\nndarray\n)R.", r"call of numpy\.ndarray"),
    "a call of a list": (lambda m: b"](K\x01tR.", "call of a list"),
    "objects in an array": (
        lambda m: pickle.dumps({"a": np.array([Reduced(os.system, (_command(m),))], object)}),
        "'O8'|system",
    ),
    "an array of objects": (lambda m: pickle.dumps({"a": np.array([None], object)}), "'O8'"),
    "records": (lambda m: pickle.dumps({"a": np.zeros(2, [("x", "f4")])}), "'V4'"),
    "records of objects": (lambda m: pickle.dumps({"a": np.zeros(2, [("x", "O")])}), "'V8'"),
    "text": (lambda m: pickle.dumps({"a": np.array(["ab"])}), "'U2'"),
    "times": (lambda m: pickle.dumps({"a": np.zeros(1, "M8[s]")}), "'M8'"),
    "records by their state": (
        lambda m: pickle.dumps(
            Reduced(np.dtype, ("f4", False, True), (3, "<", None, ("x",), {}, 4, 1, 0))
        ),
        "array of records",
    ),
    "a scalar that is an object": (
        lambda m: pickle.dumps(Reduced(np.float32(0).__reduce__()[0], (np.dtype("O"), b"a" * 8))),
        "'O8'",
    ),
    "an array of a class of its own": (
        lambda m: pickle.dumps({"a": VALUES.view(OwnArray)}),
        "OwnArray",
    ),
    "fewer bytes than the shape": (
        lambda m: pickle.dumps({"a": _array((3,), VALUES.dtype, b"a" * 8)}),
        "12 bytes, but 8",
    ),
    "text that is no bytes": (
        lambda m: pickle.dumps({"a": _array((1,), np.dtype(np.int8), "\u20ac")}),
        "latin1",
    ),
    "another encoding": (lambda m: b"c_codecs\nencode\n(Va\nVrot13\ntR.", r"_codecs\.encode"),
    "a key that is a tuple": (lambda m: pickle.dumps({(1, 2): VALUES}), "key.*a tuple"),
    "a key whose hash is chosen": (lambda m: pickle.dumps({2**61 - 1: VALUES}), "key.*a int"),
    "an array without content": (
        lambda m: pickle.dumps({"a": Reduced(*_array((), VALUES.dtype, b"")._parts[:2])}),
        "without content, 'a'",
    ),
    "two arrays of one name": (lambda m: pickle.dumps({"a": VALUES, b"a": VALUES}), "two.*'a'"),
    "no dict": (lambda m: pickle.dumps([VALUES]), "holds a list"),
    "no arrays": (lambda m: pickle.dumps({"epoch": 3}), "no arrays.*'epoch'"),
    "a long name": (lambda m: pickle.dumps({"a" * 2000: VALUES}), "2000 characters"),
}


@pytest.fixture(autouse=True)
def extension():
    """A registered extension, which Python's unpickler would call."""
    copyreg.add_extension("os", "system", 240)
    yield
    copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize("name", PAYLOADS)
def test_what_is_not_weights_is_refused_by_name(name, tmp_path):
    make, said = PAYLOADS[name]
    marker = tmp_path / "made"
    path = write(tmp_path / "a.pkl", make(str(marker)))
    message = refusal(path)
    assert not marker.exists()

    assert re.search(said, message), message


def _laughs(depth):
    inner = {"a": VALUES}
    for _ in range(depth):
        inner = {str(i): inner for i in range(10)}
    return inner


def _itself():
    found = {"a": VALUES}
    found["again"] = found
    return found


def _itself_as_container():
    found = {"a": VALUES}
    found["model"] = found
    return found


def _deep(depth):
    found = {"a": VALUES}
    for _ in range(depth):
        found = {"x": found}
    return found


def _laughing_key(depth):
    """A tuple whose hash takes 2**depth steps."""
    return b"}N" + b"\x85" + b"2\x86" * depth + b"Ns."


def _claimed(shape):
    return pickle.dumps({"a": _array(shape, VALUES.dtype, b"a" * 4)})


# Files of a few bytes that claim to be, or to become, large.
BOMBS = {
    "dicts of dicts": (pickle.dumps({"model": _laughs(20)}), "itself or occurs twice"),
    "a key of keys": (_laughing_key(60), "key"),
    "a dict within itself": (pickle.dumps(_itself()), "itself"),
    "a container within itself": (pickle.dumps(_itself_as_container()), "itself"),
    "dicts 40 deep": (pickle.dumps(_deep(40)), "nested more than 32"),
    "a list within itself": (b"]2a0N.", "NoneType"),
    "lists without end": (b"(" * 2000 + b"t" * 2000 + b".", "more than 1000 containers"),
    "lists 20,000 deep": (b"]" * 20_000 + b"a" * 19_999 + b".", "holds a list"),
    "2**40 elements": (_claimed((2**40,)), "bytes, but 4"),
    "2**60 elements": (_claimed((2**60,)), "sizes of an array"),
    "2**80 elements": (_claimed((2**40, 2**40)), "an array of shape"),
    "2**40 elements of nothing": (_claimed((2**40, 2**40, 0)), "an array of shape"),
    "negative sizes": (_claimed((-1, -1)), "sizes of an array"),
    "1000 dimensions": (_claimed((1,) * 1000), "sizes of an array"),
    "2**40 bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**40), "ends early"),
    "2**40 bytes of an array": (b"\x80\x05\x96" + struct.pack("<Q", 2**40), "ends early"),
    "2**40 characters": (b"\x80\x04\x8d" + struct.pack("<Q", 2**40), "ends early"),
    "a frame of 2**40 bytes": (b"\x80\x04\x95" + struct.pack("<Q", 2**40), "ends early"),
    "a number of 2**31 bytes": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1), "a number of"),
    "a number of many digits": (b"(I" + b"9" * 10_000 + b"\n.", "a number of 10000 digits"),
    "a string of -1 bytes": (b"(T" + struct.pack("<i", -1) + b".", "a string of -1"),
    "entry 2**32 of the memo": (b"}r\xff\xff\xff\xff.", "no arrays"),
    "an entry that is not there": (b"(h\x05.", "KeyError"),
    "much of little": (
        pickle.dumps(dict.fromkeys(map(str, range(51)), np.zeros(1 << 20, np.float32))),
        "take 213909504 bytes",
    ),
}


def _again(function, argument, arguments, count):
    """A list of what a function makes of one argument, again and again."""
    start = b"\x80\x02" + argument + b"q\x000" + b"c" + function + b"q\x010]"
    return start + (b"h\x01h\x00" + arguments + b"Ra") * count + b"."


_PAIRS = b"".join(b"M" + i.to_bytes(2, "little") + b"N\x86" for i in range(50_000))
AMPLIFIED = {
    "text as bytes": _again(
        b"_codecs\nencode\n", b"X\x00\x00\x01\x00" + b"a" * 65536, b"X\x06\0\0\0latin1\x86", 5000
    ),
    "sets": _again(b"builtins\nset\n", b"](" + b"K\x01" * 50_000 + b"e", b"\x85", 2000),
    "dicts": _again(b"collections\nOrderedDict\n", b"](" + _PAIRS + b"e", b"\x85", 2000),
}


@pytest.mark.parametrize("name", AMPLIFIED)
def test_what_is_made_again_and_again_takes_little(name, tmp_path):
    path = write(tmp_path / "a.pkl", AMPLIFIED[name])
    assert "a list" in refusal(path, peak_megabytes=40)


@pytest.mark.parametrize("name", BOMBS)
def test_what_claims_much_takes_little(name, tmp_path):
    data, said = BOMBS[name]
    path = write(tmp_path / "a.pkl", data)
    message = refusal(path, peak_megabytes=40)
    assert said in message, message


def test_more_opcodes_than_any_checkpoint_has(tmp_path, monkeypatch):
    from panoptic_tf.checkpoints.readers import restricted_pickle

    monkeypatch.setattr(restricted_pickle, "MAX_OPCODES", 100)
    assert "more than 100 opcodes" in refusal(write(tmp_path / "a.pkl", b"(" + b"N0" * 200 + b"."))
    monkeypatch.setattr(restricted_pickle, "MAX_MEMO", 3)
    assert "of the memo" in refusal(write(tmp_path / "a.pkl", b"(" + b"N\x94" * 5 + b"."))
