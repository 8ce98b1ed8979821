"""The folder of a run: one training writes to it, and what a killed one left is removed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
from typing import Any, Dict, Iterator, Optional, Set

import tensorflow as tf
import yaml
from official.core import config_definitions as cfg

from panoptic_tf.datasets import files

METRICS_FILE = "metrics.json"
PARAMS_FILE = "params.yaml"
EVALUATIONS_FILE = "early_stopping.json"
_LOCK_FILE = ".lock"
_PART = re.compile(r"(ckpt-\d+)\.(?:index|data-\d{5}-of-(\d{5}))")
_TEMPORARY = re.compile(
    r"ckpt-\d+_temp|ckpt-\d+\.\S+\.tempstate\d+|checkpoint\.tmp[0-9a-f]{32}"
    rf"|\.(?:{re.escape(METRICS_FILE)}|{re.escape(EVALUATIONS_FILE)}|{re.escape(PARAMS_FILE)})"
    r"\w{8}\.tmp"
)


class _Dumper(yaml.Dumper):
    """Writes a list in one line."""


_Dumper.add_representer(
    list,
    lambda dumper, value: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", value, flow_style=True
    ),
)


def write_params(
    params: cfg.ExperimentConfig,
    model_dir: str,
    experiment: Optional[str] = None,
    mode: Optional[str] = None,
) -> None:
    """Writes `params.yaml`: name of the experiment and mode, where given, and all of the values.

    Raises:
      OSError: it cannot be written.
    """
    named = {"experiment": experiment, "mode": mode}
    head = {key: value for key, value in named.items() if value is not None}
    text = yaml.dump(head) if head else ""
    text += yaml.dump(params.as_dict(), Dumper=_Dumper, default_flow_style=False)
    write_bytes(os.path.join(model_dir, PARAMS_FILE), text.encode())


def write_bytes(path: str, content: bytes) -> None:
    """Writes a whole file, of this machine or a remote one (gs://...).

    Raises:
      OSError: it cannot be written.
    """
    if "://" not in path:
        return files.write_bytes(path, content)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def write_json(path: str, content: Any) -> None:
    """As `write_bytes`; NaN and infinity are refused."""
    write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode())


def latest_checkpoint(path: str) -> Optional[str]:
    """The prefix of the checkpoint that a path means: itself, or the last one of a folder."""
    prefix = tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path
    return prefix if prefix and tf.io.gfile.exists(f"{prefix}.index") else None


@contextlib.contextmanager
def lock(model_dir: str) -> Iterator[None]:
    """Holds the lock of a folder while the block runs: a file that names the process.

    The lock of a process of this machine that is gone is taken over. Remote folders (gs://...) have
    no lock.

    Args:
      model_dir: an existing folder.

    Raises:
      ValueError: another training has the lock.
      OSError: the file cannot be written.
    """
    if "://" in model_dir:
        yield
        return
    path = os.path.join(model_dir, _LOCK_FILE)
    own = _describe_process(os.getpid())
    with _alone(model_dir):
        _remove_stale_lock(path)
        _create(path, json.dumps(own))
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if _read_object(path) == own:
                os.unlink(path)


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Only one process of this machine at a time, where the file system can tell."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale_lock(path: str) -> None:
    """Removes the lock of a process of this machine that is gone.

    Raises:
      ValueError: there is another lock.
    """
    how = f"Give another --model_dir; if no training runs there any more, remove {path}."
    try:
        holder = _read_object(path)
    except FileNotFoundError:
        return
    except ValueError as error:
        if not os.path.getsize(path):  # Its process was killed before it could write.
            os.unlink(path)
            return
        raise ValueError(f"{path} is no lock that a training wrote. {how}") from error
    host, pid = holder.get("host"), holder.get("pid")
    is_here = host == socket.gethostname() and isinstance(pid, int)
    if is_here and not _is_running(pid, holder.get("started")):
        os.unlink(path)
        return
    raise ValueError(
        f"another training writes to {os.path.dirname(path)}: process {pid} of host {host}, as "
        f"{path} says. {how}"
    )


def _create(path: str, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:  # Of another machine, this moment.
        raise ValueError(f"another training has just started, according to {path}.") from error
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error


def _describe_process(pid: int) -> Dict[str, Any]:
    return {"host": socket.gethostname(), "pid": pid, "started": _start_of(pid)}


def _start_of(pid: int) -> Optional[str]:
    """Tells a process from a later one of equal number; None where the system does not say it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in parentheses, may hold spaces.
            return f"{boot}/{file.read().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return None


def _is_running(pid: int, started: Any) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return None in (started, _start_of(pid)) or started == _start_of(pid)


def remove_leftovers(model_dir: str) -> None:
    """Removes what a process that was killed while it wrote left behind, by the names we write.

    These are temporary files and checkpoints without all of their parts, the last one apart.
    """
    names = {name.rstrip("/") for name in tf.io.gfile.listdir(model_dir)}
    state = tf.train.get_checkpoint_state(model_dir)
    last = os.path.basename(state.model_checkpoint_path) if state is not None else None
    for name in sorted(names):
        path, part = os.path.join(model_dir, name), _PART.fullmatch(name)
        if _TEMPORARY.fullmatch(name) and tf.io.gfile.isdir(path):
            tf.io.gfile.rmtree(path)
        elif _TEMPORARY.fullmatch(name):
            tf.io.gfile.remove(path)
        elif part and part[1] != last and not _is_whole(part[1], names):
            tf.io.gfile.remove(path)


def _is_whole(checkpoint: str, names: Set[str]) -> bool:
    parts = [_PART.fullmatch(name) for name in names]
    totals = {int(part[2]) for part in parts if part and part[1] == checkpoint and part[2]}
    data = {f"{checkpoint}.data-{i:05d}-of-{total:05d}" for total in totals for i in range(total)}
    return bool(data) and {f"{checkpoint}.index", *data} <= names


def evaluated_step(model_dir: str) -> Optional[int]:
    """The step of the last evaluation, as `metrics.json` says; None without one."""
    step = read_or_empty(model_dir, METRICS_FILE).get("step")
    return step if isinstance(step, int) else None


def read_or_empty(folder: str, name: str) -> Dict[str, Any]:
    """The JSON object of a file, empty where the file is not there or holds none."""
    try:
        return _read_object(os.path.join(folder, name))
    except (OSError, ValueError, tf.errors.OpError):
        return {}


def _read_object(path: str) -> Dict[str, Any]:
    """A JSON object.

    Raises:
      OSError: the file cannot be read; tf.errors.OpError: a remote one cannot.
      ValueError: it holds something else.
    """
    if "://" in path:
        with tf.io.gfile.GFile(path) as file:
            content = json.loads(file.read())
    else:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object.")
    return content
