"""JPEG and PNG bytes to pixels, for untrusted input.

The size in the header is checked before any pixel is decoded. An image that cannot be decoded is
marked, not raised, so that it does not fail the batch it came in. What the decoders accept passes:
a JPEG whose scan ends early but in a proper end marker gives an image with a grey rest.
Everything but JPEG and PNG is refused, GIF included. EXIF orientation is not applied.
"""

from __future__ import annotations

import collections
import itertools
from typing import NamedTuple, Tuple, Union

import numpy as np
import tensorflow as tf

from panoptic_tf.datasets import images, png
from panoptic_tf.inputs import geometry

MAX_PIXELS = images.MAX_PIXELS

MAX_PNG_PIXELS = 25_000_000
"""Default limit of `panoptic_png`: 75 MB decoded, and as much again to be encoded."""

_OTHER_FORMATS = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"%PDF", "PDF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypavif", "AVIF"),
)
"""Where a file of another format has which bytes."""
_NOT_WHOLE = "a PNG with chunks that are not whole"
_MOST_CHUNKS = 20_000  # Encoders write one for every 8 to 64 KB.
_PARALLEL_IMAGES = 4  # a decoded image may take 3 * max_pixels bytes


class DecodedImages(NamedTuple):
    """A batch in the network's frame, B images.

    Attributes:
      images: float32 [B, H, W, 3], RGB 0..255; zeros where not valid.
      image_info: float32 [B, 4, 2]; an empty frame where not valid.
      valid: bool [B].
    """

    images: tf.Tensor
    image_info: tf.Tensor
    valid: tf.Tensor


def decode_images(
    image_bytes: tf.Tensor, network_size: geometry.Size, *, max_pixels: int = MAX_PIXELS
) -> DecodedImages:
    """Decodes and fits a batch of images of any sizes; graph-safe, never raises on content.

    tf.data does it because its `ignore_errors` is what catches a decoder's error inside a graph.
    An image that fails is dropped there and leaves its row of the batch empty.

    Args:
      image_bytes: string [B].
      network_size: static (height, width).
      max_pixels: larger images are not decoded and not valid.
    """
    count = tf.size(image_bytes, out_type=tf.int64)
    headers = tf.data.Dataset.from_tensor_slices(image_bytes).enumerate().map(_with_header_size)
    acceptable = headers.ignore_errors().filter(
        lambda index, content, size: _is_acceptable(size, max_pixels)
    )
    pixels = acceptable.map(
        lambda index, content, size: (index, _decode(content)), num_parallel_calls=_PARALLEL_IMAGES
    )
    fitted = pixels.ignore_errors().map(
        lambda index, image: (index, *geometry.fit_and_pad(image, network_size)),
        num_parallel_calls=_PARALLEL_IMAGES,
    )
    # A batch needs an element: a blank one goes to row B, which is cut off.
    blank = tf.data.Dataset.from_tensors((count, tf.zeros([*network_size, 3]), tf.zeros([4, 2])))
    elements = fitted.concatenate(blank).batch(count + 1).get_single_element()
    return _by_index(elements, count, network_size)


def decode_image(content: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes one image eagerly, as `decode_images` does.

    Args:
      content: the bytes.
      name: of the image, for error messages.
      max_pixels: larger images are refused.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      ValueError: not JPEG or PNG, too large, or damaged; the message names the image.
    """
    if not content.startswith((png.SIGNATURE, images.JPEG_SIGNATURE)):
        raise ValueError(
            f"{name} is not an image that can be read: expected JPEG or PNG, "
            f"got {describe(content)}."
        )
    try:
        if content.startswith(png.SIGNATURE):
            height, width = _png_size_of_bytes(content)
        else:
            height, width = header_size(tf.constant(content)).numpy().tolist()
        check_size(height, width, name=name, max_pixels=max_pixels)
        return _decode(tf.constant(content)).numpy()
    except OSError as error:
        raise ValueError(f"{name} is damaged or truncated: {error}") from error
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0] if error.message else type(error).__name__
        raise ValueError(f"{name} is damaged or truncated: {reason}") from error


def check_size(height: int, width: int, *, name: str, max_pixels: int) -> None:
    """Checks the size of an image before its pixels are decoded.

    Raises:
      ValueError: it is empty or has more than `max_pixels`; the message names the image.
    """
    if not 1 <= height * width <= max_pixels:
        raise ValueError(
            f"{name} has {height} x {width} pixels (height x width); the limit is "
            f"{max_pixels:,} pixels. Raise max_pixels if that is meant."
        )


def describe(content: bytes) -> str:
    """What a file that cannot be read begins like, for error messages."""
    if not content:
        return "an empty file"
    for start, magic, name in _OTHER_FORMATS:
        if content[start:].startswith(magic):
            return f"{name}. Convert it first"
    return f"{len(content)} bytes that start with {content[:8]!r}"


def header_size(content: tf.Tensor) -> tf.Tensor:
    """Reads (height, width) from the header of a JPEG or PNG: int64 [2].

    Anything else raises an InvalidArgumentError where it runs.

    Args:
      content: string [].
    """
    is_png = tf.equal(tf.strings.substr(content, 0, len(png.SIGNATURE)), png.SIGNATURE)
    return tf.cond(
        is_png,
        lambda: _png_size(content),
        lambda: tf.cast(tf.io.extract_jpeg_shape(content)[:2], tf.int64),
    )


def _png_size(content: tf.Tensor) -> tf.Tensor:
    """The first chunk, IHDR, starts with width and height at byte 16, big-endian."""
    with tf.control_dependencies([_check_chunks(content)]):
        width, height = _big_endian(content, 16), _big_endian(content, 20)
    return tf.stack([height, width])


def _check_chunks(content: tf.Tensor) -> tf.Operation:
    """Fails where a chunk is longer than the file: libpng allocates what it says, up to 2 GiB."""
    size = tf.cast(tf.strings.length(content), tf.int64)

    def is_before_end(start: tf.Tensor, is_end: tf.Tensor) -> tf.Tensor:
        return tf.logical_not(is_end) & (start + 12 <= size)

    def skip(start: tf.Tensor, is_end: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        kind = tf.strings.substr(content, start + 4, tf.constant(4, tf.int64))
        return start + 12 + _big_endian(content, start), tf.equal(kind, b"IEND")

    start = tf.constant(len(png.SIGNATURE), tf.int64)
    end, is_end = tf.while_loop(
        is_before_end, skip, (start, tf.constant(False)), maximum_iterations=_MOST_CHUNKS
    )
    return tf.debugging.assert_equal(is_end & (end <= size), True, _NOT_WHOLE)


def _png_size_of_bytes(content: bytes) -> Tuple[int, int]:
    """`_png_size` of bytes at hand: eagerly, its operators take milliseconds for each chunk.

    Raises:
      OSError: a chunk is not whole, or there are too many.
    """
    last = collections.deque(itertools.islice(png.chunks(content), _MOST_CHUNKS), maxlen=1)
    if not last or last[0].kind != b"IEND" or len(last[0].checksum) < 4:
        raise OSError(_NOT_WHOLE)
    return png.header_size(content)


def _big_endian(content: tf.Tensor, start: Union[int, tf.Tensor]) -> tf.Tensor:
    """The four bytes from `start` as a number: int64 []."""
    start = tf.cast(start, tf.int64)
    word = tf.strings.substr(content, start, tf.constant(4, tf.int64))
    values = tf.cast(tf.io.decode_raw(word, tf.uint8), tf.int64)
    return tf.reduce_sum(values * tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64))


def _with_header_size(index: tf.Tensor, content: tf.Tensor) -> Tuple[tf.Tensor, ...]:
    return index, content, header_size(content)


def _is_acceptable(size: tf.Tensor, max_pixels: int) -> tf.Tensor:
    # Each side first: the product of two 32-bit sides may not fit int64's sign.
    sides = tf.reduce_all(tf.logical_and(size >= 1, size <= max_pixels))
    return tf.logical_and(sides, tf.reduce_prod(tf.cast(size, tf.float64)) <= max_pixels)


def _decode(content: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def _by_index(
    elements: Tuple[tf.Tensor, ...], count: tf.Tensor, network_size: geometry.Size
) -> DecodedImages:
    """Puts every element back to the row it came from."""
    index, images, image_info = elements
    rows = index[:, tf.newaxis]

    def place(values: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([[count + 1], tf.shape(values, tf.int64)[1:]], axis=0)
        placed = tf.scatter_nd(rows, values, shape)[:count]
        return tf.ensure_shape(placed, [None, *values.shape[1:]])

    valid = place(tf.ones_like(index)) > 0
    size = tf.constant(network_size, tf.float32)
    empty = tf.stack([size, size, tf.ones([2]), tf.zeros([2])])  # [4, 2]
    image_info = tf.where(valid[:, tf.newaxis, tf.newaxis], place(image_info), empty)
    return DecodedImages(place(images), image_info, valid)
