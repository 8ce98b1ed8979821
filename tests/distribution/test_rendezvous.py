"""Processes meet before TensorFlow connects them; threads stand for them here."""

import concurrent.futures
import socket
import time

import pytest
from jobs import free_ports

from panoptic_tf.training import rendezvous
from panoptic_tf.training.cluster import Cluster


@pytest.fixture
def processes():
    """The clusters of a chief and two workers, each as one of them sees it."""

    def build(start_timeout):
        hosts = [f"localhost:{port}" for port in free_ports(3)]
        addresses = {"chief": tuple(hosts[:1]), "worker": tuple(hosts[1:])}
        return [
            Cluster(addresses, job, index, start_timeout=start_timeout)
            for job, index in (("chief", 0), ("worker", 0), ("worker", 1))
        ]

    return build


def meet(clusters):
    """What each of them ends with, None or an error."""
    with concurrent.futures.ThreadPoolExecutor(len(clusters)) as pool:
        futures = [pool.submit(rendezvous.wait_for_all, cluster) for cluster in clusters]
        return [future.exception() for future in futures]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_come(processes, order):
    clusters = processes(30.0)
    assert meet([clusters[i] for i in order]) == [None] * 3
    port = int(clusters[0].addresses["chief"][0].rpartition(":")[2])
    socket.create_server(("", port)).close()  # free for TensorFlow


def test_one_alone_opens_no_connection(monkeypatch):
    opened = []
    for name in ("create_server", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *args, **options: opened.append(args))
    rendezvous.wait_for_all(Cluster({"worker": ("nowhere:1",)}, "worker", 0))
    assert not opened


@pytest.mark.parametrize(
    "absent, named", [(2, r"worker 1 \(localhost:\d+\) did not"), (0, "chief")]
)
def test_who_is_missing_is_named(processes, absent, named):
    clusters = processes(1.0)
    errors = meet([cluster for i, cluster in enumerate(clusters) if i != absent])
    assert [type(error) for error in errors] == [TimeoutError] * 2
    with pytest.raises(TimeoutError, match="not all of the 3 workers came within 1 s.*" + named):
        raise errors[0]


def _connect(host, port):
    for _ in range(100):
        try:
            return socket.create_connection((host, port), 2.0)
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise AssertionError("nobody listens")


def test_a_stranger_does_not_count(processes):
    clusters = processes(2.0)
    host, port = clusters[0].addresses["chief"][0].split(":")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(rendezvous.wait_for_all, cluster) for cluster in clusters[:2]]
        with _connect(host, int(port)) as stranger:
            stranger.sendall(b"worker 7\n")
            assert isinstance(waiting[0].exception(), TimeoutError)
    assert "worker 1" in str(waiting[0].exception())
