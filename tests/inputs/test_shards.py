"""Files of a data set that are missing, emptied, cut or of another kind."""

import os

import pytest
import tensorflow as tf

from panoptic_tf.datasets import manifest
from panoptic_tf.inputs.shards import find_damaged_record, find_shards

NUM_SHARDS, RECORDS_EACH = 4, 3


def name(index, total=NUM_SHARDS):
    return manifest.shard_name("train", index, total)


@pytest.fixture
def folder(tmp_path, draw_record, write_records):
    """Four shards of three records; a manifest where a test saves one."""
    for shard in range(NUM_SHARDS):
        numbers = range(shard * RECORDS_EACH, (shard + 1) * RECORDS_EACH)
        write_records(tmp_path / name(shard), [draw_record(1 + n, 12, 14) for n in numbers])
    return tmp_path


def save_manifest(folder):
    shards = [manifest.Shard(name(i), RECORDS_EACH, "") for i in range(NUM_SHARDS)]
    manifest.Manifest("train", {}, {}, shards).save(str(folder))


def cut_at_a_record(path, write_records):
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
    write_records(path, records[:-1])


def test_a_whole_data_set(folder):
    for _ in range(2):
        shards = find_shards(str(folder / "train-*"))
        assert [os.path.basename(p) for p in shards.paths] == [name(i) for i in range(NUM_SHARDS)]
        assert shards.num_records == NUM_SHARDS * RECORDS_EACH
        save_manifest(folder)  # The second time with it.


@pytest.mark.parametrize("with_manifest", [False, True])
@pytest.mark.parametrize("index", [0, 2, 3])
def test_a_missing_shard_is_named(folder, with_manifest, index):
    if with_manifest:
        save_manifest(folder)
    (folder / name(index)).unlink()
    pattern = str(folder / "train-*")
    with pytest.raises(ValueError, match=f"{name(index)} is missing: 3 of 4.*data.allow_partial"):
        find_shards(pattern, name="task.train_data.input_path")
    assert find_shards(pattern, allow_partial=True).num_records == 9


@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_pattern_that_leaves_shards_out(folder, with_manifest):
    if with_manifest:
        save_manifest(folder)
    pattern = str(folder / "train-0000[01]-of-00004*")
    with pytest.raises(ValueError, match=f"{name(2)} is there, but the pattern leaves it out: 2 "):
        find_shards(pattern)
    assert len(find_shards(pattern, allow_partial=True).paths) == 2


@pytest.mark.parametrize("with_manifest", [False, True])
def test_an_emptied_shard_is_named(folder, with_manifest):
    if with_manifest:
        save_manifest(folder)
    (folder / name(1)).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name(1)} (is empty|has 0 records).*allow_partial"):
        find_shards(str(folder / "train-*"))
    assert find_shards(str(folder / "train-*"), allow_partial=True).num_records == 9


def test_a_shard_without_its_last_record_is_named(folder, write_records):
    save_manifest(folder)
    assert find_shards(str(folder / "train-*")).num_records == 12
    cut_at_a_record(folder / name(3), write_records)
    with pytest.raises(ValueError, match=f"{name(3)} has 2 records, .*manifest.json says 3"):
        find_shards(str(folder / "train-*"))


@pytest.mark.parametrize("kept", [5, 30, -1])
def test_a_shard_that_ends_in_a_record_is_an_error_even_of_a_part(folder, kept):
    path = folder / name(2)
    path.write_bytes(path.read_bytes()[:kept])
    for allow_partial in (False, True):
        with pytest.raises(ValueError, match=f"{name(2)} (ends within record 2|is not a TFRecord)"):
            find_shards(str(folder / "train-*"), allow_partial=allow_partial)


def test_shards_of_another_conversion(folder, draw_record, write_records):
    save_manifest(folder)
    write_records(folder / name(0, 1), [draw_record(99, 12, 14)])
    with pytest.raises(ValueError, match=f"{name(0, 1)} is not among the shards of .*manifest"):
        find_shards(str(folder / "train-*"))


def test_other_names_and_no_manifest_are_fine(tmp_path, draw_record, write_records):
    for stem in ("a.tfrecord", "b {0}"):
        write_records(tmp_path / stem, [draw_record(1, 12, 14)])
    assert find_shards(str(tmp_path / "*")).num_records == 2


def test_two_splits_of_one_pattern_are_looked_at_each(folder, draw_record, write_records):
    write_records(folder / "val {x}-00001-of-00002.tfrecord", [draw_record(50, 12, 14)])
    with pytest.raises(ValueError, match=r"val \{x\}-00000-of-00002.tfrecord is missing: 1 of 2"):
        find_shards(str(folder / "*"))


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + bytes(500), b"a text\n" * 100, b"{}", b"x"],
    ids=["png", "text", "json", "short"],
)
def test_other_files_are_no_records(tmp_path, content):
    (tmp_path / "train-0").write_bytes(content)
    with pytest.raises(ValueError, match="train-0 is not a TFRecord file.*expected the records of"):
        find_shards(str(tmp_path / "train-*"))


def test_folders_and_pipes_are_no_records(tmp_path):
    (tmp_path / "train-0").mkdir()
    with pytest.raises(ValueError, match="train-0: is a folder"):
        find_shards(str(tmp_path / "train-*"))
    os.mkfifo(tmp_path / "train-00")
    with pytest.raises(ValueError, match="train-00: is a pipe"):
        find_shards(str(tmp_path / "train-00"))


@pytest.mark.parametrize("pattern", ["", "nothing-*", "no/folder/train-*"])
def test_nothing_matches(tmp_path, pattern):
    path = str(tmp_path / pattern) if pattern else ""
    with pytest.raises(ValueError, match="no file matches task.train_data.input_path"):
        find_shards(path, name="task.train_data.input_path")


def test_files_without_a_record(tmp_path):
    (tmp_path / "train-0").write_bytes(b"")
    with pytest.raises(ValueError, match="hold no record"):
        find_shards(str(tmp_path / "train-*"), allow_partial=True)


def test_a_flipped_byte_is_found(folder):
    path = folder / name(1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # In the second of three records.
    path.write_bytes(content)
    paths = find_shards(str(folder / "train-*")).paths
    assert f"{name(1)}: record 1 is damaged" in find_damaged_record(paths)
    assert find_damaged_record(paths[:1]) is None
