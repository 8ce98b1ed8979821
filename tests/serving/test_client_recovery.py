"""One attempt that passes its deadline, and what the same client does next."""

import io
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow_serving")

from prediction_server import Server  # noqa: E402

from panoptic_tf.serving.client import Client, RequestError, RetryPolicy  # noqa: E402

ONCE = RetryPolicy(max_attempts=1)
APIS = ("grpc", "rest")
LATE = "DEADLINE_EXCEEDED|timed out"


def photo(level):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


PHOTOS = {category: photo(category) for category in (1, 2, 3)}


def category_of(result):
    (segment,) = result.segments
    return segment.category_id


@pytest.fixture
def server():
    """It finds in a photograph the category that `PHOTOS` has it under."""

    def answer(signature, images):
        (category,) = (c for c, content in PHOTOS.items() if content == images[0])
        return {
            "valid": np.array([True]),
            "semantic_mask": np.full([1, 4, 6], category, np.int32),
            "image_size": np.array([[4, 6]], np.int32),
        }

    server = Server(answer=answer)
    yield server
    server.close()


@pytest.fixture
def connect(dataset_info):
    """Clients of one connection and one attempt."""
    clients = []

    def connect(address, timeout):
        options = {"timeout": timeout, "retry": ONCE, "connections": 1}
        clients.append(Client(address, dataset_info=dataset_info, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


class Connection:
    """One that a `Proxy` forwards.

    Attributes:
      is_silent: once set, bytes of both sides go nowhere.
      is_closed: the client has closed it.
    """

    def __init__(self, client, server):
        self.is_silent, self.is_closed = threading.Event(), threading.Event()
        self._ends = ((client, server, self.is_closed), (server, client, threading.Event()))

    def start(self):
        for arguments in self._ends:
            threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def _forward(self, source, sink, has_ended):
        try:
            while data := source.recv(65536):
                if not self.is_silent.is_set():
                    sink.sendall(data)
        except OSError:
            pass
        has_ended.set()
        source.close()
        if not self.is_silent.is_set():
            sink.close()


class Proxy:
    """Stands before a server of this machine.

    Attributes:
      connections: that were opened.
      address: to connect to.
    """

    def __init__(self, address):
        scheme, _, self._target = address.partition("://")
        self.connections = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        host, _, port = self._target.rpartition(":")
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection((host, int(port)))
            self.connections.append(Connection(client, server))
            self.connections[-1].start()

    def close(self):
        self._listener.close()


@pytest.fixture
def proxy_of():
    proxies = []

    def start(address):
        proxies.append(Proxy(address))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_answers_late_once(api, server, connect):
    """The late answer belongs to nobody."""
    may_answer = threading.Event()
    client = connect(getattr(server, api), timeout=1.0)
    server.faults.append(may_answer)
    with pytest.raises(RequestError, match=LATE):
        client(PHOTOS[1])
    may_answer.set()
    for category in (2, 3):
        assert category_of(client(PHOTOS[category])) == category
    assert server.calls == 3


@pytest.mark.parametrize("api", APIS)
def test_a_connection_that_goes_silent(api, server, connect, proxy_of):
    """No end of it ever comes: a network that drops what it had, a server that hangs."""
    proxy = proxy_of(getattr(server, api))
    client = connect(proxy.address, timeout=1.0)
    assert category_of(client(PHOTOS[1])) == 1
    (silent,) = proxy.connections
    silent.is_silent.set()
    with pytest.raises(RequestError, match=LATE):
        client(PHOTOS[2])
    for category in (3, 2):
        assert category_of(client(PHOTOS[category])) == category
    assert len(proxy.connections) == 2
    assert silent.is_closed.wait(10.0)


@pytest.fixture
def one_late_one_under_way(server, connect):
    """A client, the event that the second call waits for, results so far, and that call's thread.

    Both calls are on one connection, as gRPC has them.
    """
    never, later = threading.Event(), threading.Event()
    server.faults += [never, later]
    client = connect(server.grpc, timeout=2.0)
    results = []

    def ask(category):
        try:
            results.append(category_of(client(PHOTOS[category])))
        except RequestError as error:
            results.append(str(error))

    threads = [threading.Thread(target=ask, args=[category]) for category in (1, 2)]
    try:
        threads[0].start()
        time.sleep(1.0)
        threads[1].start()
        threads[0].join()
        assert "DEADLINE_EXCEEDED" in results[0]
        yield client, later, results, threads[1]
    finally:
        never.set()
        later.set()
        threads[1].join()


def test_other_calls_of_a_connection_go_on_when_one_is_late(one_late_one_under_way):
    _, later, results, thread = one_late_one_under_way
    later.set()
    thread.join()
    assert results[1:] == [2]


def test_closing_ends_calls_on_a_connection_that_was_replaced(one_late_one_under_way):
    client, _, results, thread = one_late_one_under_way
    client.close()
    thread.join(0.5)  # The call's own deadline is a second away.
    assert len(results) == 2 and results[1] != 2
