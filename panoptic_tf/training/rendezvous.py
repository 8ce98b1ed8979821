"""All processes of a job meet before TensorFlow connects them.

TensorFlow waits for a process that never comes without a limit that holds, and no thread of Python
runs meanwhile. Here the first process listens at its address, the others say who they are there,
and all go on when all are there, or end with the names of those that are missing.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Dict, List

from panoptic_tf.training.cluster import Cluster

_GO = b"go\n"
_LONGEST_NAME = 64
_PAUSE = 0.2


def wait_for_all(cluster: Cluster) -> None:
    """Returns when every process of the cluster has called it.

    Args:
      cluster: the processes; one alone does not wait.

    Raises:
      TimeoutError: after `start_timeout` seconds, with the processes that did not come.
      OSError: the first process cannot listen at its address.
    """
    if cluster.size == 1:
        return
    deadline = time.monotonic() + cluster.start_timeout
    if (cluster.job, cluster.index) == (cluster.leader, 0):
        _let_in(cluster, deadline)
    else:
        _report(cluster, deadline)


def _let_in(cluster: Cluster, deadline: float) -> None:
    """What the first process does."""
    missing = _others(cluster)
    came: Dict[bytes, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        port = int(cluster.addresses[cluster.leader][0].rpartition(":")[2])
        with socket.create_server(("", port), backlog=128) as server:
            while len(came) < len(missing):
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    connection = stack.enter_context(server.accept()[0])
                    connection.settimeout(5.0)
                    name = connection.makefile("rb").readline(_LONGEST_NAME).strip()
                except (socket.timeout, OSError):
                    if time.monotonic() < deadline:
                        continue  # A caller that hung up.
                    absent = [text for key, text in missing.items() if key not in came]
                    raise TimeoutError(_describe(cluster, absent)) from None
                if name in missing:
                    came[name] = connection  # One that was started again takes its own place.
        # The port is free again, for TensorFlow.
        for connection in came.values():
            with contextlib.suppress(OSError):
                connection.sendall(_GO)


def _report(cluster: Cluster, deadline: float) -> None:
    """What the others do."""
    host, _, port = cluster.addresses[cluster.leader][0].rpartition(":")
    while time.monotonic() < deadline:
        remaining = max(deadline - time.monotonic(), 0.001)
        try:
            with socket.create_connection((host.strip("[]"), int(port)), min(remaining, 5.0)) as s:
                s.sendall(_name(cluster.job, cluster.index) + b"\n")
                s.settimeout(remaining)
                if s.makefile("rb").readline() == _GO:
                    return
        except OSError:
            pass  # It does not listen yet.
        time.sleep(_PAUSE)
    raise TimeoutError(_describe(cluster, [cluster.describe(cluster.leader, 0) + " or others"]))


def _others(cluster: Cluster) -> Dict[bytes, str]:
    """All but the first process: what they call themselves, and how a message does."""
    leader = (cluster.leader, 0)
    others = [process for process in cluster.processes if process != leader]
    return {_name(*process): cluster.describe(*process) for process in others}


def _name(job: str, index: int) -> bytes:
    return f"{job} {index}".encode()


def _describe(cluster: Cluster, absent: List[str]) -> str:
    hosts = ", ".join(host for hosts in cluster.addresses.values() for host in hosts)
    return (
        f"not all of the {cluster.size} workers came within {cluster.start_timeout:g} s: "
        f"{', '.join(absent)} did not. Every one of {hosts} must be started and be able to reach "
        "the others; --worker_start_seconds is how long they wait."
    )
