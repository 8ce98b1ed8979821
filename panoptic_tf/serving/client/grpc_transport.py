"""`Predict` of TensorFlow Serving over gRPC."""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import Any, Iterator, Mapping, Optional, Set

import numpy as np

from panoptic_tf.datasets import files
from panoptic_tf.serving.client import messages, responses
from panoptic_tf.serving.client.retries import CallError

_RETRIABLE = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED")
_OF_SERVER = ("NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
_LATE = "DEADLINE_EXCEEDED"
_TOO_LARGE = "larger than max"  # RESOURCE_EXHAUSTED as well, and the same next time


class _Channel:
    """A connection.

    Attributes:
      num_calls: that are under way.
    """

    def __init__(self, channel: Any):
        self.call = channel.unary_unary(messages.METHOD)
        self.close = channel.close
        self.num_calls = 0


class GrpcTransport:
    """Calls one signature of one model.

    A connection on which a call was late may be one that no answer will ever come from, which gRPC
    takes minutes to notice: the next call has a new one.

    Args:
      target: host:port.
      model, version, signature: see `client.Client`.
      timeout: deadline of a call, in seconds.
      connections: how many are opened; calls take turns.
      max_response_bytes: a longer response fails.

    Raises:
      ImportError: grpcio is missing.
    """

    def __init__(
        self,
        target: str,
        *,
        model: str,
        version: Optional[int],
        signature: str,
        timeout: float,
        connections: int,
        max_response_bytes: int,
    ):
        try:
            import grpc
        except ImportError as error:
            raise ImportError(
                "an address grpc://... needs grpcio: pip install 'panoptic-tf[serving]'. "
                "http:// needs nothing."
            ) from error
        self._error = grpc.RpcError
        self._spec: Any = {"model": model, "version": version, "signature": signature}
        self._timeout = timeout
        options = [
            ("grpc.max_receive_message_length", max_response_bytes),
            ("grpc.enable_retries", 0),  # They are counted and spaced by the caller.
            ("grpc.enable_http_proxy", 0),  # The address is the whole truth.
            ("grpc.use_local_subchannel_pool", 1),  # A connection for each channel.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        self._open = lambda: _Channel(grpc.insecure_channel(target, options))
        self._lock = threading.Lock()  # of the next four, and of `num_calls`
        self._turns = itertools.cycle(range(connections))
        self._channels = [self._open() for _ in range(connections)]
        self._replaced: Set[_Channel] = set()  # on which there are calls
        self._is_closed = False

    def predict(self, content: bytes, input_name: str) -> Mapping[str, np.ndarray]:
        """The outputs for one image, each with the batch dimension 1.

        Raises:
          CallError: the call failed.
        """
        request = messages.encode_request(content, input_name=input_name, **self._spec)
        with self._use_channel() as channel:
            try:
                response = channel.call(request, timeout=self._timeout)
            except self._error as error:
                if error.code().name == _LATE:
                    self._replace(channel)
                raise _describe(error) from error
            except ValueError as error:  # The channel was closed meanwhile.
                raise CallError(str(error)) from error
        try:
            return messages.decode_response(response, responses.KEYS)
        except ValueError as error:
            raise CallError(f"malformed response: {error}") from error

    def close(self) -> None:
        """Closes the connections, which ends all calls."""
        with self._lock:
            self._is_closed = True
            channels = [*self._channels, *self._replaced]
        for channel in channels:
            channel.close()

    @contextlib.contextmanager
    def _use_channel(self) -> Iterator[_Channel]:
        """The next one; if it is replaced meanwhile, the last call on it closes it."""
        with self._lock:
            channel = self._channels[next(self._turns)]
            channel.num_calls += 1
        try:
            yield channel
        finally:
            with self._lock:
                channel.num_calls -= 1
                is_left = channel.num_calls == 0 and channel in self._replaced
                if is_left:
                    self._replaced.remove(channel)
            if is_left:
                channel.close()

    def _replace(self, channel: _Channel) -> None:
        with self._lock:
            if channel in self._channels and not self._is_closed:
                self._channels[self._channels.index(channel)] = self._open()
                self._replaced.add(channel)


def _describe(error: Any) -> CallError:
    code, details = error.code().name, error.details() or ""
    text = " ".join(files.shorten(details).split())
    return CallError(
        f"{code}: {text}" if text else code,
        is_retriable=code in _RETRIABLE and _TOO_LARGE not in details,
        is_of_server=code in _OF_SERVER,
    )
