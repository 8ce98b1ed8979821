"""Writing whole files, and staying inside a folder."""

import errno
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


def test_links_are_followed_where_that_is_meant(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    path = files.inside(str(tmp_path / "in"), "link/a.png", source="x", follow_links=True)
    assert path == str(tmp_path / "in" / "link" / "a.png")
    with pytest.raises(ValueError, match="must stay inside"):
        files.inside(str(tmp_path / "in"), "link/../a.png", source="x", follow_links=True)


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "a\x7f", "a\u2028b", "x" * 256, "\u00e4" * 128])
def test_names_that_no_file_should_have(tmp_path, name):
    with pytest.raises(ValueError, match="^images.file_name must be a file name") as error:
        files.inside(str(tmp_path), name, source="images.file_name")
    assert str(error.value).isprintable() and len(str(error.value)) < 200


@pytest.mark.parametrize(
    "name", ["\u65e5\u672c\u3000\u8a9e.png", "na\u00efve.png", "\U0001f408.png", "x" * 255]
)
def test_names_of_any_language(tmp_path, name):
    assert files.inside(str(tmp_path), name, source="x") == str(tmp_path / name)


def test_a_full_disk_names_the_file(tmp_path):
    path = str(tmp_path / "a.txt")
    with pytest.raises(OSError, match=f"cannot write {path}: No space left on device"):
        with files.atomic_path(path) as temporary:
            with open(temporary, "wb"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not os.listdir(tmp_path)


def test_other_errors_inside_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        with files.atomic_path(str(tmp_path / "a.txt")):
            open("nothing_here")


@pytest.mark.parametrize("most", [20, 100])
def test_shorten_keeps_both_ends(most):
    text = "begin" + "x" * 1000 + "end"
    short = files.shorten(text, most=most)
    assert len(short) <= most and short.startswith("begin") and short.endswith("end")
    assert files.shorten("begin", most=most) == "begin"


@pytest.mark.parametrize("name", ["a.png", "city/a..png", "a b/c.png"])
def test_names_inside(tmp_path, name):
    assert files.inside(str(tmp_path), name, source="x") == str(tmp_path / name)
