"""PNG files whose chunks claim more than there is: libpng would allocate it."""

import resource
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.serving import decoding


def chunk(kind, data, length=None):
    length = len(data) if length is None else length
    return struct.pack(">I", length) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(content, inserted):
    """Behind IHDR, which ends at byte 33."""
    return content[:33] + inserted + content[33:]


def test_long_chunks_are_refused_and_take_no_memory(make_image, encode):
    image = make_image(20, 30)
    png = encode(image)
    bombs = [
        with_chunk(png, chunk(kind, b"text\0\0", length))
        for kind in (b"zTXt", b"iCCP", b"tEXt", b"eXIf")
        for length in (2**31 - 1, 2**30, 2**32 - 1)
    ]
    whole = with_chunk(png, chunk(b"tEXt", b"key\0value"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decoded = decoding.decode_images(tf.constant([png, *bombs, whole, png + b"more"]), (20, 30))
    assert decoded.valid.numpy().tolist() == [True, *[False] * len(bombs), True, True]
    for row in (0, -2, -1):
        np.testing.assert_array_equal(decoded.images[row], image)
    for bomb in bombs:
        with pytest.raises(ValueError, match=r"x\.png is damaged or truncated"):
            decoding.decode_image(bomb, name="x.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


def test_the_number_of_chunks_is_bounded(encode, make_image):
    many = with_chunk(encode(make_image(4, 4)), chunk(b"tEXt", b"a\0") * 25_000)
    assert not decoding.decode_images(tf.constant([many]), (4, 4)).valid[0]
