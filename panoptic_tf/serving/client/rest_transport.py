"""`predict` of TensorFlow Serving's REST API, with the standard library alone."""

from __future__ import annotations

import base64
import http.client
import json
import queue
import socket
import ssl
import time
import urllib.parse
from typing import Any, Callable, Dict, Mapping, Optional

import numpy as np

from panoptic_tf.datasets import files
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
      timeout: of a call, in seconds.
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
        self._open = _opener(parts, timeout)
        versions = "" if version is None else f"/versions/{version}"
        name = urllib.parse.quote(model, safe="")
        self._path = f"{parts.path.rstrip('/')}/v1/models/{name}{versions}:predict"
        self._signature = signature
        self._timeout = timeout
        self._max_bytes = max_response_bytes
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue(connections)

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
        """Closes the connections."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def _post(self, body: bytes) -> bytes:
        """What the server answers, of a connection that is kept if it is still good."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._open()
        try:
            content = self._exchange(connection, body)
            self._idle.put_nowait(connection)
        except queue.Full:
            connection.close()
        except CallError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _describe(error) from error
        return content

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout
        connection.request("POST", self._path, body, _HEADERS)
        response = connection.getresponse()
        received = bytearray()
        while True:
            chunk = response.read(_CHUNK)
            if not chunk:
                break
            received += chunk
            if len(received) > self._max_bytes:
                raise CallError(f"the response has more than {self._max_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise socket.timeout("timed out")
        if response.status != 200:
            raise _refusal(response, bytes(received))
        return bytes(received)


def _opener(
    parts: urllib.parse.SplitResult, timeout: float
) -> Callable[[], http.client.HTTPConnection]:
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "http":
        return lambda: http.client.HTTPConnection(host, port, timeout=timeout)
    context = ssl.create_default_context()
    return lambda: http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


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
    """What a connection raised; it may have been closed since the last call."""
    is_wrong = isinstance(error, (socket.gaierror, ssl.SSLCertVerificationError))
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
    return {str(key): _to_array(key, value) for key, value in outputs.items()}


def _to_array(key: str, value: Any) -> np.ndarray:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        array = np.empty(len(value), object)
        array[:] = [base64.b64decode(_text(key, item), validate=True) for item in value]
        return array
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"the output {key!r} is no array") from error
    if array.dtype.kind not in "bif":
        raise ValueError(f"the output {key!r} must hold numbers, got {files.shown(value)}")
    return array


def _text(key: str, item: Any) -> str:
    text = item.get("b64") if isinstance(item, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'the output {key!r} must be {{"b64": ...}}, got {files.shown(item)}')
    return text
