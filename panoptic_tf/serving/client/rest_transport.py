"""`predict` of TensorFlow Serving's REST API, with the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.parse
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set

import numpy as np

from panoptic_tf.datasets import files
from panoptic_tf.serving.client import responses
from panoptic_tf.serving.client.retries import CallError

_RETRIABLE = (429, 502, 503, 504)
_OF_SERVER = (401, 403, 404, 405, 501)
_CHUNK = 1 << 20
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


class RestTransport:
    """Calls one signature of one model; see `grpc_transport.GrpcTransport`.

    Args:
      address: http(s)://host:port, and a path where a proxy has one.
      model, version, signature: see `client.Client`.
      timeout: deadline of a call, in seconds, from the look-up of the host's addresses, which alone
        may take longer, to the last byte of the response.
      connections: how many are kept open between calls.
      max_response_bytes: a longer response fails.
    """

    def __init__(
        self,
        address: str,
        *,
        model: str,
        version: Optional[int],
        signature: str,
        timeout: float,
        connections: int,
        max_response_bytes: int,
    ):
        parts = urllib.parse.urlsplit(address)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        versions = "" if version is None else f"/versions/{version}"
        name = urllib.parse.quote(model, safe="")
        self._path = f"{parts.path.rstrip('/')}/v1/models/{name}{versions}:predict"
        self._signature = signature
        self._timeout = timeout
        self._max_bytes = max_response_bytes
        self._most_idle = connections
        self._lock = threading.Lock()  # of the next two
        self._idle: List[http.client.HTTPConnection] = []
        self._is_closed = False

    def predict(self, content: bytes, input_name: str) -> Mapping[str, np.ndarray]:
        """The outputs for one image, each with the batch dimension 1.

        Raises:
          CallError: the call failed.
        """
        value = [{"b64": base64.b64encode(content).decode()}]
        body = {"signature_name": self._signature, "inputs": {input_name: value}}
        response = self._post(json.dumps(body).encode())
        try:
            return _outputs(response)
        except (ValueError, RecursionError) as error:
            text = files.shorten(" ".join(str(error).split()))
            raise CallError(f"malformed response: {text}") from error

    def close(self) -> None:
        """Closes the connections; those in use are closed after the response."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _post(self, body: bytes) -> bytes:
        """The body of the server's response.

        A kept connection may have been closed meanwhile; a new one is opened then at once.
        """
        deadline = time.monotonic() + self._timeout
        try:
            if kept := self._take():
                with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                    return self._exchange(kept, body, deadline)
            return self._exchange(self._open(deadline), body, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise _describe(error) from error

    def _take(self) -> Optional[http.client.HTTPConnection]:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        """For the next call, if the server leaves it open and there is room."""
        with self._lock:
            has_room = len(self._idle) < self._most_idle and not self._is_closed
            if has_room and connection.sock is not None:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self, deadline: float) -> http.client.HTTPConnection:
        """A new connection to the first address of the host that can be reached."""
        failure = OSError(f"{self._host} has no address")
        addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        for i, (family, kind, protocol, _, address) in enumerate(addresses):
            # An address that does not answer leaves the others their share of the time.
            seconds = _seconds_until(deadline) / (len(addresses) - i)
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                failure = error
                continue
            try:
                return self._connect(sock, address, time.monotonic() + seconds)
            except OSError as error:
                sock.close()
                failure = error
        raise failure

    def _connect(
        self, sock: socket.socket, address: Any, deadline: float
    ) -> http.client.HTTPConnection:
        sock.settimeout(_seconds_until(deadline))
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = http.client.HTTPConnection(self._host, self._port)
        if self._context is not None:
            connection = http.client.HTTPSConnection(self._host, self._port, context=self._context)
            sock.settimeout(_seconds_until(deadline))
            sock = self._context.wrap_socket(sock, server_hostname=self._host)
        sock.settimeout(self._timeout)
        connection.sock = sock
        return connection

    def _exchange(
        self, connection: http.client.HTTPConnection, body: bytes, deadline: float
    ) -> bytes:
        try:
            with _shut_down_at(deadline, connection.sock):
                connection.request("POST", self._path, body, _HEADERS)
                response = connection.getresponse()
                content = self._read(response)
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        if response.status != 200:
            raise _refusal(response, content)
        return content

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        received = bytearray()
        while True:
            chunk = response.read(_CHUNK)
            received += chunk
            if not chunk:
                break
            if len(received) > self._max_bytes:
                raise CallError(f"the response has more than {self._max_bytes:,} bytes")
        # `read` does not say that the connection ended early, nor do headers that were cut short.
        is_without = not received and response.getheader("Content-Length") is None
        if response.status == 200 and (response.length or is_without):
            raise http.client.IncompleteRead(bytes(received), response.length)
        return bytes(received)


@contextlib.contextmanager
def _shut_down_at(deadline: float, sock: socket.socket) -> Iterator[None]:
    """Ends what waits for a socket at the deadline, however often a byte comes.

    Raises:
      socket.timeout: the deadline passed, whatever the end of the connection looked like.
    """
    is_late, is_done = threading.Event(), threading.Event()
    lock = threading.Lock()

    def shut_down() -> None:
        with lock, contextlib.suppress(OSError):
            if not is_done.is_set():
                is_late.set()
                # Not the method of an SSLSocket, after which that would go on without encryption.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(deadline - time.monotonic(), shut_down)
    timer.daemon = True
    timer.start()
    failure: Optional[Exception] = None
    try:
        yield
    except Exception as error:
        failure = error
    finally:
        timer.cancel()
        with lock:
            is_done.set()
    if is_late.is_set():
        raise socket.timeout("timed out") from failure
    if failure is not None:
        raise failure


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0.0:
        raise socket.timeout("timed out")
    return seconds


def _refusal(response: http.client.HTTPResponse, content: bytes) -> CallError:
    try:
        text = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = content[:500].decode(errors="replace")
    text = " ".join(files.shorten(f"{response.reason}: {text}").split())
    asked = response.getheader("Retry-After", "")
    return CallError(
        f"HTTP {response.status} {text}",
        is_retriable=response.status in _RETRIABLE,
        is_of_server=response.status in _OF_SERVER,
        retry_after=float(asked) if asked.isdecimal() else None,
    )


def _describe(error: Exception) -> CallError:
    """What a connection raised."""
    is_unknown = isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN
    is_wrong = is_unknown or isinstance(error, ssl.SSLCertVerificationError)
    is_broken = isinstance(error, (OSError, http.client.IncompleteRead)) and not is_wrong
    if isinstance(error, socket.timeout):
        return CallError("timed out", is_retriable=True)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return CallError(text, is_retriable=is_broken, is_of_server=is_wrong)


def _outputs(content: bytes) -> Dict[str, np.ndarray]:
    parsed = json.loads(content)
    outputs = parsed.get("outputs") if isinstance(parsed, dict) else None
    if not isinstance(outputs, dict) or not outputs:
        raise ValueError(f"expected an object 'outputs', got {files.shown(parsed)}")
    return {key: _to_array(key, outputs[key]) for key in responses.KEYS if key in outputs}


def _to_array(key: str, value: Any) -> np.ndarray:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        array = np.empty(len(value), object)
        array[:] = [base64.b64decode(_text(key, item), validate=True) for item in value]
        return array
    # Before NumPy sees it, which would make all values as long as the longest text among them.
    if not _leaf_types(value) <= {bool, int, float}:
        raise ValueError(f"the output {key!r} must hold numbers, got {files.shown(value)}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"the output {key!r} is no array") from error
    if array.dtype.kind not in "bif":  # integers of more than 64 bits
        raise ValueError(f"the output {key!r} must hold numbers, got {files.shown(value)}")
    return array


def _leaf_types(value: Any) -> Set[type]:
    if not isinstance(value, list):
        return {type(value)}
    types = set(map(type, value))
    if list in types:
        types.remove(list)
        for item in value:
            types |= _leaf_types(item)
    return types


def _text(key: str, item: Any) -> str:
    text = item.get("b64") if isinstance(item, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'the output {key!r} must be {{"b64": ...}}, got {files.shown(item)}')
    return text
