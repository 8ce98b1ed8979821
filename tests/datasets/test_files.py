"""Writing whole files, and staying inside a folder."""

import os

import pytest

from panoptic_tf.datasets import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_bytes(str(path), b"old")
    with pytest.raises(RuntimeError):
        with files.atomic_path(str(path)) as temporary:
            with open(temporary, "wb") as file:
                file.write(b"half")
            raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.txt"]


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "below" / "a.txt")
    with pytest.raises(OSError, match=f"cannot write {path}"):
        files.write_bytes(path, b"")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(str(tmp_path / "a.json"), {"PQ": float("nan")})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["..", "../a", "a/../../b", "/a", "a\\..\\b", "", None, "a\0b"])
def test_names_that_leave_a_folder(tmp_path, name):
    with pytest.raises(ValueError, match="^images.file_name must"):
        files.inside(str(tmp_path), name, source="images.file_name")


def test_a_link_that_leaves_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="must stay inside"):
        files.inside(str(tmp_path / "in"), "link/secret", source="x")


@pytest.mark.parametrize("name", ["a.png", "city/a..png", "a b/c.png"])
def test_names_inside(tmp_path, name):
    assert files.inside(str(tmp_path), name, source="x") == str(tmp_path / name)
