"""Safetensors, HDF5, checkpoints of TensorFlow, files in parts, and files of other kinds."""

import json
import os
import pickle
import re
import struct

import h5py
import numpy as np
import pytest
import reader_files
import tensorflow as tf
from reader_files import refusal, safetensors, write

from panoptic_tf.checkpoints import readers
from panoptic_tf.checkpoints.readers import copies

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

# Safetensors


def _entry(kind, shape, first, last):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [first, last]}


def test_safetensors(tmp_path):
    arrays = {
        "F32": VALUES,
        "F16": VALUES.astype(np.float16),
        "I64": np.array(3, np.int64),
        "U8": np.zeros((0, 2), np.uint8),
        "BOOL": np.array([True, False]),
    }
    data, entries = b"", {"__metadata__": {"format": "pt"}}
    for kind, values in arrays.items():
        entries[kind] = _entry(kind, values.shape, len(data), len(data) + values.nbytes)
        data += values.tobytes()
    upper = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
    entries["BF16"] = _entry("BF16", VALUES.shape, len(data), len(data) + upper.nbytes)
    path = safetensors(tmp_path / "a.safetensors", entries, data + upper.tobytes())
    reader_files.assert_holds(path, {**arrays, "BF16": VALUES})
    assert readers.read_checkpoint(path).metadata == {"format": "pt"}


def _header(text):
    return {"entries": None, "data": b"", "header": text}


A = _entry("F32", [2], 0, 8)
DAMAGED_SAFETENSORS = {
    "2**40 elements": ({"entries": {"a": _entry("F32", [2**40], 0, 8)}}, "of 4398046511104 bytes"),
    "2**40 bytes": ({"entries": {"a": _entry("F32", [2**40], 0, 2**42)}}, "ends early"),
    "2**80 elements": ({"entries": {"a": _entry("F32", [2**40, 2**40], 0, 8)}}, "an array of"),
    "many digits": (_header(b'{"a": ' + b"9" * 10_000 + b"}"), "10000 digits"),
    "negative": ({"entries": {"a": _entry("F32", [2], -8, 0)}}, "sizes of an array"),
    "backwards": ({"entries": {"a": _entry("F32", [2], 8, 0)}}, "8 bytes, but -8"),
    "within another": ({"entries": {"a": A, "b": _entry("F32", [2], 4, 12)}}, "not after"),
    "a hole": ({"entries": {"a": A, "b": _entry("F32", [1], 12, 16)}}, "not after"),
    "more bytes": ({"entries": {"a": A}, "data": b"a" * 12}, "arrays end at byte"),
    "a name twice": (_header(b'{"a": 1, "a": 2}'), "occurs twice"),
    "an unknown type": ({"entries": {"a": _entry("F8_E4M3", [8], 0, 8)}}, "F8_E4M3"),
    "a type that is none": ({"entries": {"a": _entry(["F32"], [2], 0, 8)}}, "which is not read"),
    "another field": ({"entries": {"a": {**A, "x": 1}}}, "type, shape and place"),
    "no object": ({"entries": {"a": 3}}, "type, shape and place"),
    "metadata of numbers": ({"entries": {"__metadata__": {"a": 1}, "a": A}}, "__metadata__"),
    "not JSON": (_header(b'{"a": '), "header is not"),
    "not UTF-8": (_header(b'{"\xff": 1}'), "header is not"),
    "nested": (_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "header is not"),
    "nothing": ({"entries": {}}, "no arrays"),
}


@pytest.mark.parametrize("name", DAMAGED_SAFETENSORS)
def test_damaged_safetensors(name, tmp_path):
    options, said = DAMAGED_SAFETENSORS[name]
    path = safetensors(tmp_path / "a.safetensors", **{"data": b"a" * 8, **options})
    assert said in refusal(path, peak_megabytes=8)


def test_a_long_header_is_not_read(tmp_path):
    path = write(tmp_path / "a.safetensors", struct.pack("<Q", 90_000_000) + b'{"a"')
    assert "a header of 90000000 bytes" in refusal(path)


# HDF5


def _network(**options):
    inputs = tf.keras.Input((8, 8, 3))
    outputs = tf.keras.layers.Conv2D(2, 3, name="z_first")(inputs)
    outputs = tf.keras.layers.BatchNormalization(name="a_second")(outputs)
    inner = tf.keras.Sequential([tf.keras.layers.Dense(3, name="dense")], name="inner")
    return tf.keras.Model(inputs, inner(outputs), **options)


def _by_name(network):
    return {weight.name.partition(":")[0]: weight.numpy() for weight in network.weights}


@pytest.mark.parametrize("whole", [False, True])
def test_weights_of_keras(whole, tmp_path):
    network, path = _network(), str(tmp_path / "a.h5")
    if whole:
        network.compile("adam", "mse")
        network.save(path)
    else:
        network.save_weights(path)
    # Sorted by layer, as Keras writes them; a layer's weights as they are.
    layers = ("a_second", "dense", "z_first")
    named = _by_name(network)
    expected = {k: v for layer in layers for k, v in named.items() if k.startswith(layer)}
    assert list(expected)[:2] == ["a_second/gamma", "a_second/beta"] and len(expected) == len(named)
    reader_files.assert_holds(path, expected)


def test_hdf5_without_layers_and_packed(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "layers/conv/vars/0", data=VALUES, chunks=(1, 3, 4), compression="gzip", shuffle=True
        )
        file["layers/conv/vars/1"] = np.arange(3, dtype=">i4")
    reader_files.assert_holds(
        path, {"layers/conv/vars/0": VALUES, "layers/conv/vars/1": np.arange(3)}
    )


def test_weights_of_one_name_in_two_layers(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for layer in ("one", "two"):
            file.create_group(layer).attrs["weight_names"] = ["conv/kernel:0"]
            file[f"{layer}/conv/kernel:0"] = VALUES
    reader_files.assert_holds(path, {"conv/kernel": VALUES, "two/conv/kernel": VALUES})


def _secret(folder):
    with h5py.File(folder / "secret.h5", "w") as file:
        file["a"] = VALUES
    (folder / "secret.bin").write_bytes(VALUES.tobytes())


def _external_link(file, folder):
    file["a"] = h5py.ExternalLink(str(folder / "secret.h5"), "/a")


def _soft_link(file, folder):
    file["b"] = VALUES
    file["a"] = h5py.SoftLink("/b")


def _external_data(file, folder):
    file.create_dataset("a", (24,), "f4", external=[(str(folder / "secret.bin"), 0, 96)])


def _virtual_data(file, folder):
    layout = h5py.VirtualLayout((2, 3, 4), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "a", (2, 3, 4))
    file.create_virtual_dataset("a", layout)


def _text(file, folder):
    file["a"] = ["x", "y"]


def _records(file, folder):
    file["a"] = np.zeros(2, [("x", "f4")])


def _claimed(file, folder):
    file.create_dataset("a", (2**40,), "f4")


def _claimed_in_chunks(file, folder):
    file.create_dataset("a", (2**40,), "f4", chunks=(1024,), compression="gzip")


def _bomb(file, folder):
    file.create_dataset("a", data=np.zeros(1 << 25, np.float32), chunks=(1 << 20,), compression=9)


def _cycle(file, folder):
    file["a/b"] = VALUES
    file["a/c"] = file["/"]


def _nothing(file, folder):
    file.create_group("a")


REFUSED_HDF5 = {
    _external_link: r"holds a link, //?a to /a in .*secret\.h5",
    _soft_link: r"holds a link, //?a to /b",
    _external_data: "'a' in other files",
    _virtual_data: "'a' in other files",
    _text: "no numbers at 'a'",
    _records: "no numbers at 'a'",
    _claimed: r"'a' of shape \[1099511627776\]",
    _claimed_in_chunks: r"'a' of shape \[1099511627776\]",
    _bomb: "take more than",
    _cycle: "a group that contains itself",
    _nothing: "no weights",
}


@pytest.mark.parametrize("make", REFUSED_HDF5)
def test_hdf5_that_leads_elsewhere_or_claims_much(make, tmp_path):
    _secret(tmp_path)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file, tmp_path)
    message = refusal(tmp_path / "a.h5", peak_megabytes=16)
    assert re.search(REFUSED_HDF5[make], message), message


# Checkpoints of TensorFlow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The prefix of a checkpoint of a network and its optimizer, and the network."""
    network = _network(name="network")
    optimizer = tf.keras.optimizers.legacy.SGD(0.1, momentum=0.9)
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in network.trainable_variables])
    half = tf.Variable(tf.cast(VALUES, tf.bfloat16), name="half")
    saved = tf.train.Checkpoint(
        model=network, optimizer=optimizer, half=half, text=tf.Variable("a")
    )
    return saved.save(str(tmp_path_factory.mktemp("tensorflow") / "ckpt")), network


def test_checkpoints_of_tensorflow(checkpoint):
    prefix, network = checkpoint
    folder = os.path.dirname(prefix)
    for path in (prefix, f"{prefix}.index", folder):
        found = reader_files.values_of(path)
        read = readers.read_checkpoint(path)
        assert read.path == prefix
        names = read.metadata["variable_names"]
        np.testing.assert_array_equal(found.pop("half"), VALUES)
        by_name = {names[key]: values for key, values in found.items()}
        expected = _by_name(network)
        assert set(by_name) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(by_name[name], values)


def test_a_saved_model(tmp_path):
    module = tf.Module()
    module.kernel = tf.Variable(VALUES)
    tf.saved_model.save(module, str(tmp_path))
    np.testing.assert_array_equal(reader_files.values_of(tmp_path)["kernel"], VALUES)


def _parts(prefix, folder):
    """A copy's prefix, its index and its values."""
    copies = []
    for suffix in (".index", ".data-00000-of-00001"):
        with open(prefix + suffix, "rb") as file:
            copies.append(folder / f"copy{suffix}")
            copies[-1].write_bytes(file.read())
    return str(folder / "copy"), *copies


def test_damaged_checkpoints_of_tensorflow(checkpoint, tmp_path):
    prefix, index, values = _parts(checkpoint[0], tmp_path)
    content = index.read_bytes()
    write(index, content[: len(content) // 2])
    assert "no checkpoint, or damaged" in refusal(prefix)
    assert "no file of weights, or ends early" in refusal(index)
    write(index, content)
    write(values, values.read_bytes()[:64])
    assert "ends early" in refusal(prefix)
    values.unlink()
    assert "0 are there" in refusal(prefix)


# Files in several parts


def _sharded(folder, places):
    for name, key in (("a.safetensors", "a"), ("b.safetensors", "b")):
        safetensors(folder / name, {key: _entry("F32", VALUES.shape, 0, 96)}, VALUES.tobytes())
    return write(folder / "x.index.json", json.dumps({"weight_map": places}).encode())


def test_files_in_parts(tmp_path):
    path = _sharded(tmp_path, {"b": "b.safetensors", "a": "a.safetensors"})
    reader_files.assert_holds(path, {"b": VALUES, "a": VALUES})


@pytest.mark.parametrize(
    "places, said",
    [
        ({"a": "../a.safetensors"}, "not beside it"),
        ({"a": "/a.safetensors"}, "not beside it"),
        ({"a": ["a"]}, "not beside it"),
        ({"a": "b.safetensors"}, "which it is not"),
        ({}, "no index"),
        ([], "no index"),
    ],
)
def test_damaged_indexes(places, said, tmp_path):
    assert said in refusal(_sharded(tmp_path, places))


def test_an_index_of_itself(tmp_path):
    for name in ("x.index.json", "x.bin"):
        path = write(tmp_path / name, f'{{"weight_map": {{"a": "{name}"}}}}'.encode())
        assert "is named by an index" in refusal(path)


# Files of other kinds, and in other places

OTHERS = {
    "a page": (b"\n<!DOCTYPE html><html>", "a page of the web"),
    "an error of a store": (b'<?xml version="1.0"?><Error>', "a page of the web"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip"),
    "tar": (b"pickle".ljust(257, b"\0") + b"ustar\x0000", "tar archive"),
    "an array": (b"\x93NUMPY\x01\x00", "single array"),
    "JSON": (b'{"error": "no"}', "no index"),
    "a text": (b"hello", "no file of weights"),
    "a zip archive cut short": (b"PK\x03\x04", "ends early"),
    "nothing": (b"", "is empty (0 bytes)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_kinds_are_told(name, tmp_path):
    data, said = OTHERS[name]
    for ending in ("pkl", "pth"):
        assert said in refusal(write(tmp_path / f"a.{ending}", data))


def test_the_content_counts_not_the_name(tmp_path):
    data = pickle.dumps({"a": VALUES})
    reader_files.assert_holds(write(tmp_path / "a.safetensors", data), {"a": VALUES})


def test_paths_without_a_file(tmp_path):
    assert "does not exist" in refusal(tmp_path / "a.pkl")
    assert "without a checkpoint" in refusal(tmp_path)


def test_files_elsewhere_are_copied_and_stay_readable(tmp_path, monkeypatch, capfd):
    """What tf.io.gfile knows by a scheme; here that of files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(copies, "_CHUNK", 100)
    write(tmp_path / "a.pkl", pickle.dumps({"a": VALUES}))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = VALUES
    for name in ("a.pkl", "a.h5"):
        stored = readers.read_checkpoint(f"file://{tmp_path / name}")
        assert not os.listdir(tmp_path / "copies")
        np.testing.assert_array_equal(stored.arrays["a"].read(), VALUES)
        assert stored.path == f"file://{tmp_path / name}"
    assert "a.pkl: 100%" in capfd.readouterr().err
    write(tmp_path / "b.pkl", b"(N")
    refusal(f"file://{tmp_path / 'b.pkl'}")
    assert not os.listdir(tmp_path / "copies")


def test_a_folder_without_its_list_gives_the_highest_number(tmp_path):
    for step in (9, 10):
        tf.train.Checkpoint(a=tf.Variable(float(step))).write(str(tmp_path / f"ckpt-{step}"))
    assert readers.read_checkpoint(str(tmp_path)).path == str(tmp_path / "ckpt-10")


def test_a_list_that_leads_out_of_its_folder_is_refused(tmp_path):
    elsewhere = tf.train.Checkpoint(a=tf.Variable(1.0)).write(str(tmp_path / "ckpt-1"))
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "checkpoint", f'model_checkpoint_path: "{elsewhere}"'.encode())
    assert "outside of the folder" in refusal(folder)
