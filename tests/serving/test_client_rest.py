"""The client against sockets that speak HTTP badly, or stop in the middle."""

import contextlib
import io
import json
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.serving.client import Client, RequestError, RetryPolicy, ServerError
from panoptic_tf.serving.client import client as client_module

ONCE = RetryPolicy(max_attempts=1)
QUICK = RetryPolicy(max_attempts=3, first_seconds=0.01, max_seconds=0.05)
OUTPUTS = {
    "valid": [True],
    "semantic_mask": np.full([1, 4, 6], 2).tolist(),
    "image_size": [[4, 6]],
}
BODY = json.dumps({"outputs": OUTPUTS}).encode()


def response(body=BODY, *, length=None, headers=()):
    length = len(body) if length is None else length
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def photo():
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def read_request(connection):
    """Whether there was one."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return False
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(s.split(b":")[1]) for s in head.split(b"\r\n") if b"ength:" in s)
    while len(body) < length:
        body += connection.recv(65536)
    return True


class RawServer:
    """Runs one function for each connection, the last one for all that follow.

    Attributes:
      address: of the server.
      connections: how many were opened.
    """

    def __init__(self, *behaviours):
        self._behaviours = list(behaviours)
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                behave = self._behaviours[min(self.connections, len(self._behaviours) - 1)]
                self.connections += 1
                threading.Thread(target=self._run, args=(behave, connection), daemon=True).start()

    def _run(self, behave, connection):
        with connection, contextlib.suppress(OSError):
            behave(connection)

    def close(self):
        self._socket.close()


@pytest.fixture
def serve():
    servers = []

    def start(*behaviours):
        servers.append(RawServer(*behaviours))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def connect(dataset_info):
    with contextlib.ExitStack() as stack:
        yield lambda address, **options: stack.enter_context(
            Client(address, dataset_info=dataset_info, **options)
        )


def answer(connection):
    while read_request(connection):
        connection.sendall(response())


def answer_once(connection):
    read_request(connection)
    connection.sendall(response())


def answering(content):
    def behave(connection):
        read_request(connection)
        connection.sendall(content)

    return behave


def dripping(start, piece):
    def behave(connection):
        read_request(connection)
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(0.02)

    return behave


DRIPS = {
    "status": dripping(b"HTTP/1.1 ", b"2"),
    "interim responses": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": dripping(b"HTTP/1.1 200 OK\r\nx: ", b"x"),
    "body": dripping(response(b"", length=10**6), b" "),
    "chunks": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("what", DRIPS)
def test_the_deadline_is_that_of_the_whole_attempt(what, serve, connect):
    client = connect(serve(DRIPS[what]).address, timeout=0.3, retry=ONCE)
    ended = []

    def ask():
        with pytest.raises(RequestError, match=r"timed out \(1 attempt\)"):
            client(photo())
        ended.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout=20.0)
    assert ended


def test_a_server_that_reads_nothing_is_left_at_the_deadline(serve, connect):
    is_done = threading.Event()
    client = connect(serve(lambda _: is_done.wait(20.0)).address, timeout=0.3, retry=ONCE)
    try:
        with pytest.raises(RequestError, match="timed out"):
            client(np.random.default_rng(0).integers(0, 256, [1500, 1500, 3], np.uint8))
    finally:
        is_done.set()


@pytest.mark.parametrize("end", [0, 17, 30, 36, -len(BODY), 7 - len(BODY), -1])
def test_a_response_that_is_cut_short_is_asked_for_again(end, serve, connect):
    server = serve(answering(response()[:end]), answer)
    assert len(connect(server.address, retry=QUICK)(photo()).segments) == 1
    assert server.connections == 2


def test_connections_that_went_stale_use_up_no_attempt(serve, connect):
    server = serve(answer_once)
    client = connect(server.address, retry=ONCE)
    for _ in range(3):
        client(photo())
    assert server.connections == 3


def test_a_connection_is_kept_unless_the_server_closes_it(serve, connect):
    server = serve(answer)
    client = connect(server.address, retry=ONCE)
    for _ in range(3):
        client(photo())
    assert server.connections == 1

    server = serve(answering(response(headers=["Connection: close"])))
    client = connect(server.address, retry=ONCE)
    for _ in range(3):
        client(photo())
    assert server.connections == 3


def test_a_connection_in_use_is_not_kept_after_close(serve, connect):
    has_request, may_answer, is_closed = (threading.Event() for _ in range(3))

    def behave(connection):
        read_request(connection)
        has_request.set()
        may_answer.wait(20.0)
        connection.sendall(response())
        if connection.recv(1) == b"":
            is_closed.set()

    client = connect(serve(behave).address)
    results = []
    thread = threading.Thread(target=lambda: results.append(client(photo())))
    thread.start()
    assert has_request.wait(20.0)
    client.close()
    may_answer.set()
    thread.join(20.0)
    assert len(results) == 1
    assert is_closed.wait(20.0)
    with pytest.raises(ValueError, match="the client is closed"):
        client(photo())


def test_names_that_cannot_be_looked_up_for_a_while(serve, connect, monkeypatch):
    client = connect(serve(answer).address, retry=QUICK)
    faults = [socket.EAI_AGAIN, socket.EAI_AGAIN, socket.EAI_NONAME]
    look_up = socket.getaddrinfo

    def fail(*arguments, **options):
        if faults:
            raise socket.gaierror(faults.pop(0), "on purpose")
        return look_up(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ServerError, match="on purpose"):
        client(photo())
    assert not faults  # The first two were tried again.
    client(photo())


def test_responses_are_bounded(serve, connect, monkeypatch):
    assert client_module.MAX_RESPONSE_BYTES <= 2**28
    monkeypatch.setattr(client_module, "MAX_RESPONSE_BYTES", len(BODY) - 1)
    client = connect(serve(answer).address, retry=QUICK)
    with pytest.raises(RequestError, match="the response has more than"):
        client(photo())


def test_a_long_text_among_numbers_does_not_lengthen_them(serve, connect):
    """NumPy would make 20,000 texts of 4 MB each of it."""
    scores = ["x" * 10**6, *["y"] * 20_000]
    body = json.dumps({"outputs": {**OUTPUTS, "segment_score": [scores]}}).encode()
    with pytest.raises(RequestError, match="'segment_score' must hold numbers"):
        connect(serve(answering(response(body))).address)(photo())


def test_outputs_of_other_names_are_left_out(serve, connect):
    body = json.dumps({"outputs": {**OUTPUTS, "other": [["text"], 1]}}).encode()
    result = connect(serve(answering(response(body))).address)(photo())
    assert len(result.segments) == 1
