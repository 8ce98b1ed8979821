"""`Client`: an image goes to a server of an exported model, a `PanopticResult` comes back.

TensorFlow is not needed for that: a JPEG or PNG is sent as it is. Only what the server would not
read, or not as a photograph is meant (another format, an EXIF orientation), is decoded here first,
as `Predictor` does, and sent as PNG; that imports TensorFlow.
"""

from __future__ import annotations

import collections
import io
import os
import threading
import urllib.parse
from concurrent import futures
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files, images, png
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.serving import prediction
from panoptic_tf.serving.client import responses, retries
from panoptic_tf.serving.client.grpc_transport import GrpcTransport
from panoptic_tf.serving.client.rest_transport import RestTransport
from panoptic_tf.serving.client.retries import CallError, RetryPolicy
from panoptic_tf.serving.result import PanopticResult

SIGNATURES = ("image_bytes", "panoptic_png", "serving_default")
MAX_RESPONSE_BYTES = 2**28
MAX_TIMEOUT = 86_400.0
"""A day; clocks of sockets end at some weeks."""

_INPUT_NAME = "image_bytes"
_SCHEMES = ("grpc", "http", "https")
_ADDRESSES = "grpc://host:port, http://host:port or https://host:port, the port in 1..65535"
_MOST_FAILURES = 10


class RequestError(ValueError):
    """The request for one image failed, in the end; the message names it."""


class ServerError(OSError):
    """No request would succeed: the model is not there, or the server does not answer."""


class Client:
    """Predicts images on a server: TensorFlow Serving, or what speaks its protocols.

    It may be called from several threads at once.

    Args:
      address: grpc://host:port, or http(s)://host:port (the REST API; a path before `/v1` is fine).
      dataset_info: the model's categories: `dataset_info.json` of its assets, which a server does
        not tell, or a built-in name.
      model: name that the server has for the model.
      version: None is the server's choice: the newest.
      signature: of `SIGNATURES`; `panoptic_png` has the smallest response.
      timeout: deadline of one attempt, in seconds, at most `MAX_TIMEOUT`.
      retry: of what may succeed later: no connection, a full queue, a deadline.
      connections: that are opened and kept.
      max_pixels, exif, score_threshold: see `Predictor`.

    Attributes:
      dataset_info: the categories.

    Raises:
      ValueError: an argument is out of its range; `dataset_info` cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        dataset_info: Union[str, os.PathLike[str], DatasetInfo],
        model: str = "panoptic",
        version: Optional[int] = None,
        signature: str = "image_bytes",
        timeout: float = 60.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  (frozen)
        connections: int = 4,
        max_pixels: int = 50_000_000,
        exif: str = images.APPLY,
        score_threshold: Optional[float] = None,
    ):
        for name, value, is_right, expected in (
            ("signature", signature, signature in SIGNATURES, f"one of {', '.join(SIGNATURES)}"),
            ("exif", exif, exif in images.EXIF, f"one of {', '.join(images.EXIF)}"),
            (
                "timeout",
                timeout,
                0.0 < timeout <= MAX_TIMEOUT,
                f"above 0 and at most {MAX_TIMEOUT:,.0f} seconds",
            ),
            ("connections", connections, connections >= 1, "at least 1"),
            ("model", model, files.is_printable(model) and model != "", "printable text"),
        ):
            if not is_right:
                raise ValueError(f"{name} must be {expected}, got {value!r}.")
        if not isinstance(dataset_info, DatasetInfo):
            dataset_info = DatasetInfo.load(os.fspath(dataset_info))
        self.address = address
        self.dataset_info = dataset_info
        self._retry = retry
        self._max_pixels = max_pixels
        self._exif = exif
        self._score_threshold = score_threshold
        self._closed = threading.Event()
        self._transport = _connect(
            address,
            model=model,
            version=version,
            signature=signature,
            timeout=timeout,
            connections=connections,
            max_response_bytes=MAX_RESPONSE_BYTES,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; what is under way is not tried again."""
        self._closed.set()
        self._transport.close()

    def __call__(self, image: Any, *, name: str = "the image") -> PanopticResult:
        """Predicts one image.

        Args:
          image: what `Predictor` takes: a path, bytes of a file, uint8 [H, W, 3] RGB, or a Pillow
            image.
          name: of the image where it is no path, for messages.

        Raises:
          ValueError: the image cannot be read, by the server or here; the response is malformed; or
            the client is closed.
          RequestError: the request failed, after all attempts; a ValueError, too.
          ServerError: no other request would succeed.
        """
        if self._closed.is_set():
            raise ValueError("the client is closed: make another one.")
        if isinstance(image, (str, os.PathLike)):
            name = os.fsdecode(image)
            image = files.read_bytes(name, expected="a photograph")
        sent = self._prepare(image, name)
        try:
            outputs = retries.call(
                lambda: self._transport.predict(sent.content, _INPUT_NAME),
                self._retry,
                sleep=self._closed.wait,
            )
        except CallError as error:
            if error.is_of_server:
                raise ServerError(f"{self.address}: {error}") from error
            raise RequestError(f"{name}: {self.address}: {error}") from error
        try:
            if not responses.is_valid(outputs):
                raise ValueError(
                    "the server could not read it: damaged, or above the model's limit of pixels"
                )
            arrays = responses.read_prediction(outputs, sent.size, self.dataset_info.num_categories)
            return PanopticResult(
                sent.read_pixels(),
                arrays,
                self.dataset_info,
                score_threshold=self._score_threshold,
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _prepare(self, image: Any, name: str) -> _Sent:
        if isinstance(image, bytes):
            picture = self._open_as_it_is(image)
            if picture is not None:
                return _Sent(
                    image, (picture.height, picture.width), lambda: _pixels(picture, image)
                )
        from panoptic_tf.serving import image_source

        pixels = image_source.read_image(
            image, name=name, max_pixels=self._max_pixels, exif=self._exif
        )
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        return _Sent(buffer.getvalue(), (pixels.shape[0], pixels.shape[1]), lambda: pixels)

    def _open_as_it_is(self, content: bytes) -> Optional[Image.Image]:
        """The header of a file that the server reads as it is meant, else None."""
        if not content.startswith((png.SIGNATURE, images.JPEG_SIGNATURE)):
            return None
        if self._exif == images.APPLY and images.orientation(content) != 1:
            return None
        try:
            picture = images.open_picture(content)
        except Exception:  # Pillow raises what it meets; the other way says what is wrong.
            return None
        return picture if picture.height * picture.width <= self._max_pixels else None


class _Sent(NamedTuple):
    """The bytes for the server, the size they decode to, and the pixels, decoded when needed."""

    content: bytes
    size: Tuple[int, int]
    read_pixels: Callable[[], np.ndarray]


def _pixels(picture: Image.Image, content: bytes) -> np.ndarray:
    """The pixels of a file that the server could read, which Pillow may not."""
    if picture.mode.startswith(("I", "F")):  # 16 bits, which Pillow would clip
        from panoptic_tf.serving import image_source

        return image_source.read_image(content, max_pixels=picture.height * picture.width)
    try:
        return np.asarray(picture.convert("RGB"))
    except Exception as error:  # Pillow raises what it meets.
        text = str(error) or type(error).__name__
        raise ValueError(f"its pixels cannot be decoded here: {text}") from error


def _connect(address: str, **options: Any) -> Union[GrpcTransport, RestTransport]:
    if not address.isascii() or not address.isprintable() or " " in address:
        raise ValueError(
            f"address must be ASCII without spaces, its path percent-encoded, got {address!r}."
        )
    try:
        parts = urllib.parse.urlsplit(address)
        host = (parts.hostname or "").encode("idna")  # which the look-up of its name does
        has_port = parts.port != 0 and (parts.port is not None or parts.scheme != "grpc")
    except ValueError:  # the port, half an IPv6 address, a name of 64 letters
        host, has_port = b"", False
    if not host or not has_port or parts.scheme not in _SCHEMES:
        raise ValueError(f"address must be {_ADDRESSES}, got {address!r}.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"address must be {_ADDRESSES} and nothing else, got {address!r}.")
    if parts.scheme == "grpc":
        if parts.path.strip("/"):
            raise ValueError(f"an address grpc://host:port has no path, got {address!r}.")
        return GrpcTransport(parts.netloc, **options)
    return RestTransport(address, **options)


def request_files(
    client: Client, paths: Sequence[str], output_dir: str, *, concurrency: int = 8, **options: Any
) -> List[str]:
    """Predicts files on a server and writes what was found, in their order.

    Args:
      client: of the server.
      paths: of the images.
      output_dir: folder of the results.
      concurrency: requests at a time. While results are written, the next are on their way.
      **options: of `prediction.predict_files`.

    Returns:
      One message for each image that could not be read, or whose request failed.

    Raises:
      ValueError: see `prediction.predict_files`.
      ServerError: the server does not have the model, or ten requests failed one after another.
    """
    with _Ahead(client, paths, concurrency) as ahead:
        predictor: Any = ahead
        return prediction.predict_files(predictor, paths, output_dir, **options)


class _Ahead:
    """A predictor for `predict_files`, which has the next images predicted meanwhile."""

    def __init__(self, client: Client, paths: Sequence[str], concurrency: int):
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}.")
        self.dataset_info = client.dataset_info
        self._client = client
        self._paths = iter(paths)
        self._executor = futures.ThreadPoolExecutor(concurrency)
        self._waiting: Deque[Tuple[str, futures.Future[PanopticResult]]] = collections.deque()
        self._failures = 0
        for _ in range(2 * concurrency):  # As many results wait in memory, at most.
            self._submit()

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, error_type: Any, *unused: Any) -> None:
        try:
            for _, future in self._waiting:
                future.cancel()
            if error_type is not None:
                self._client.close()
        finally:
            self._executor.shutdown()

    def __call__(self, image: str) -> PanopticResult:
        while True:
            path, future = self._waiting.popleft()
            self._submit()
            if path == image:  # `predict_files` leaves out what it cannot name.
                break
        try:
            result = future.result()
        except RequestError as error:
            self._failures += 1
            if self._failures == _MOST_FAILURES:
                raise ServerError(
                    f"{error}. {_MOST_FAILURES} requests failed, one after another."
                ) from error
            raise
        except ValueError:
            self._failures = 0
            raise
        self._failures = 0
        return result

    def _submit(self) -> None:
        path = next(self._paths, None)
        if path is not None:
            self._waiting.append((path, self._executor.submit(self._client, path)))
