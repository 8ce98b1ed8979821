"""Predicting on a server: `Client`, over gRPC or REST."""

from panoptic_tf.serving.client.client import (
    Client,
    RequestError,
    ServerError,
    request_files,
)
from panoptic_tf.serving.client.retries import RetryPolicy

__all__ = [
    "Client",
    "RequestError",
    "RetryPolicy",
    "ServerError",
    "request_files",
]
