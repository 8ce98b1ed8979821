"""One training writes to a folder; what a killed one left is removed."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from panoptic_tf.training import run_folder
from panoptic_tf.training.run import CheckpointManager


@pytest.fixture
def stranger():
    """A process that does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def write_lock(folder, **values):
    process = {**run_folder._describe_process(os.getpid()), **values}
    (folder / ".lock").write_text(json.dumps(process))


def test_the_lock_is_there_only_while_it_is_held(tmp_path):
    for error in (None, ValueError, SystemExit):
        try:
            with run_folder.lock(str(tmp_path)):
                held = json.loads((tmp_path / ".lock").read_text())
                if error is not None:
                    raise error
        except (ValueError, SystemExit):
            pass
        assert held["pid"] == os.getpid() and held["host"] and held["started"]
        assert list(tmp_path.iterdir()) == []


def test_a_second_training_is_refused_and_leaves_the_lock(tmp_path, stranger):
    write_lock(tmp_path, pid=stranger.pid, started=run_folder._start_of(stranger.pid))
    before = (tmp_path / ".lock").read_text()
    with pytest.raises(ValueError, match=f"another training.*process {stranger.pid} .*remove .*lo"):
        with run_folder.lock(str(tmp_path)):
            raise AssertionError
    assert (tmp_path / ".lock").read_text() == before


def test_the_lock_is_refused_to_a_second_training_of_one_process(tmp_path):
    with run_folder.lock(str(tmp_path)):
        with pytest.raises(ValueError, match="another training"):
            with run_folder.lock(str(tmp_path)):
                raise AssertionError
        assert (tmp_path / ".lock").exists()


def test_remote_files_are_written_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remote = f"file://{tmp_path}/run"  # As gs://... is written and read.
    assert run_folder.read_or_empty(remote, "metrics.json") == {}
    (tmp_path / "run").mkdir()
    run_folder.write_json(f"{remote}/metrics.json", {"step": 3})
    assert run_folder.evaluated_step(remote) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with pytest.raises(ValueError):
        run_folder.write_json(f"{remote}/metrics.json", {"PQ": float("nan")})


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path, stranger):
    write_lock(tmp_path, pid=stranger.pid, started=run_folder._start_of(stranger.pid))
    stranger.kill()
    stranger.wait()
    with run_folder.lock(str(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_the_lock_of_an_earlier_process_of_equal_number_is_taken_over(tmp_path, stranger):
    write_lock(tmp_path, pid=stranger.pid, started="another boot/17")
    with run_folder.lock(str(tmp_path)):
        pass
    assert not (tmp_path / ".lock").exists()


def test_an_empty_lock_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_text("")
    with run_folder.lock(str(tmp_path)):
        pass


@pytest.mark.parametrize("content", ['{"host": "another machine", "pid": 1}', "[]", "text"])
def test_other_locks_are_refused_and_say_how_to_go_on(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(ValueError, match=f"remove {tmp_path}/.lock"):
        with run_folder.lock(str(tmp_path)):
            raise AssertionError
    assert (tmp_path / ".lock").read_text() == content


def test_a_lock_that_was_removed_or_replaced_meanwhile_is_no_error(tmp_path):
    with run_folder.lock(str(tmp_path)):
        (tmp_path / ".lock").unlink()
    with run_folder.lock(str(tmp_path)):
        (tmp_path / ".lock").write_text("another's")
    assert (tmp_path / ".lock").read_text() == "another's"


LEFT_BEHIND = (
    "ckpt-5_temp/part-00000-of-00001.data-00000-of-00001",
    "ckpt-80.data-00000-of-00001",
    "ckpt-85.index",
    "ckpt-90.data-00001-of-00002",
    "ckpt-95.data-00000-of-00001.tempstate123",
    "checkpoint.tmp0123456789abcdef0123456789abcdef",
    ".metrics.jsonabcd_123.tmp",
    ".params.yamlabcd_123.tmp",
)
OTHERS = (
    "ckpt-70.data-00000-of-00001",
    "ckpt-70.index",
    "my_temp/file",
    "ckpt-5_temp_mine",
    "best-3.index",
    "notes.tmp",
    "ckpt-3.index.bak",
    "train/events",
    "params.yaml",
)


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    for name in (*LEFT_BEHIND, *OTHERS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(step=tf.Variable(1)), str(tmp_path), 2, checkpoint_name="ckpt"
    )
    kept = {os.path.basename(manager.save(checkpoint_number=number)) for number in (100, 101)}
    run_folder.remove_leftovers(str(tmp_path))
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {
        *OTHERS,
        "checkpoint",
        *(f"{name}.{part}" for name in kept for part in ("index", "data-00000-of-00001")),
    }
    assert not (tmp_path / "ckpt-5_temp").exists()


def test_the_last_checkpoint_is_never_removed(tmp_path):
    checkpoint = tf.train.Checkpoint(step=tf.Variable(1))
    prefix = tf.train.CheckpointManager(checkpoint, str(tmp_path), 2).save(checkpoint_number=4)
    os.unlink(prefix + ".index")
    run_folder.remove_leftovers(str(tmp_path))
    assert (tmp_path / "ckpt-4.data-00000-of-00001").exists()


def test_a_checkpoint_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch):
    manager = CheckpointManager(
        tf.train.Checkpoint(step=tf.Variable(1)),
        restore_from=str(tmp_path),
        directory=str(tmp_path),
        max_to_keep=2,
    )
    manager.save(checkpoint_number=1)
    whole = sorted(p.name for p in tmp_path.iterdir())

    def fail(*args, **kwargs):
        (tmp_path / "ckpt-2_temp").mkdir()
        (tmp_path / "ckpt-2_temp" / "part-0").write_text("half")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.CheckpointManager, "save", fail)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        manager.save(checkpoint_number=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == whole


@pytest.mark.parametrize(
    "content, step", [('{"step": 7}', 7), ("{}", None), ('{"st', None), ("[7]", None), (None, None)]
)
def test_step_of_the_last_evaluation(tmp_path, content, step):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert run_folder.evaluated_step(str(tmp_path)) == step
