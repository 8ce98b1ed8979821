"""`Predict` of TensorFlow Serving over gRPC."""

from __future__ import annotations

import itertools
from typing import Any, Mapping, Optional

import numpy as np

from panoptic_tf.datasets import files
from panoptic_tf.serving.client import messages, responses
from panoptic_tf.serving.client.retries import CallError

_RETRIABLE = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED")
_OF_SERVER = ("NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
_TOO_LARGE = "larger than max"  # RESOURCE_EXHAUSTED as well, and the same next time


class GrpcTransport:
    """Calls one signature of one model.

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
        self._channels = [grpc.insecure_channel(target, options) for _ in range(connections)]
        self._calls = itertools.cycle(
            [channel.unary_unary(messages.METHOD) for channel in self._channels]
        )

    def predict(self, content: bytes, input_name: str) -> Mapping[str, np.ndarray]:
        """The outputs for one image, each with the batch dimension 1.

        Raises:
          CallError: the call failed.
        """
        request = messages.encode_request(content, input_name=input_name, **self._spec)
        try:
            response = next(self._calls)(request, timeout=self._timeout)
        except self._error as error:
            raise _describe(error) from error
        except ValueError as error:  # The channel was closed meanwhile.
            raise CallError(str(error)) from error
        try:
            return messages.decode_response(response, responses.KEYS)
        except ValueError as error:
            raise CallError(f"malformed response: {error}") from error

    def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels:
            channel.close()


def _describe(error: Any) -> CallError:
    code, details = error.code().name, error.details() or ""
    text = " ".join(files.shorten(details).split())
    return CallError(
        f"{code}: {text}" if text else code,
        is_retriable=code in _RETRIABLE and _TOO_LARGE not in details,
        is_of_server=code in _OF_SERVER,
    )
