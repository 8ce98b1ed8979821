"""PNG files whose chunks claim more than there is: libpng would allocate it."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.serving import decoding

MEMORY_OF_BATCH = """
import sys
import tensorflow as tf
from panoptic_tf.serving import decoding

def most_megabytes():  # ru_maxrss would begin with the most of the process that started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) // 1024

contents = [open(path, "rb").read() for path in sys.argv[1:]]
decoding.decode_images(tf.constant(contents[:1]), (20, 30))
before = most_megabytes()
print(decoding.decode_images(tf.constant(contents), (20, 30)).valid.numpy().tolist())
print(most_megabytes() - before)
"""


def chunk(kind, data, length=None):
    length = len(data) if length is None else length
    return struct.pack(">I", length) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(content, inserted):
    """Behind IHDR, which ends at byte 33."""
    return content[:33] + inserted + content[33:]


@pytest.fixture
def bombs(make_image, encode):
    png = encode(make_image(20, 30))
    return [
        with_chunk(png, chunk(kind, b"text\0\0", length))
        for kind in (b"zTXt", b"iCCP", b"tEXt", b"eXIf")
        for length in (2**31 - 1, 2**30, 2**32 - 1)
    ]


def test_long_chunks_are_refused(bombs, make_image, encode):
    image = make_image(20, 30)
    png = encode(image)
    whole = with_chunk(png, chunk(b"tEXt", b"key\0value"))
    decoded = decoding.decode_images(tf.constant([png, *bombs, whole, png + b"more"]), (20, 30))
    assert decoded.valid.numpy().tolist() == [True, *[False] * len(bombs), True, True]
    for row in (0, -2, -1):
        np.testing.assert_array_equal(decoded.images[row], image)
    for bomb in bombs:
        with pytest.raises(ValueError, match=r"x\.png is damaged .*chunks that are not whole"):
            decoding.decode_image(bomb, name="x.png")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_long_chunks_take_no_memory(bombs, make_image, encode, tmp_path):
    """In a process whose most memory nothing else has raised."""
    paths = []
    for number, content in enumerate([encode(make_image(20, 30)), *bombs]):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(content)
    ended = subprocess.run(
        [sys.executable, "-c", MEMORY_OF_BATCH, *map(str, paths)],
        check=True,
        capture_output=True,
        text=True,
    )
    valid, megabytes = ended.stdout.splitlines()
    assert valid == str([True, *[False] * len(bombs)])
    assert int(megabytes) < 500


@pytest.mark.parametrize("count, is_valid", [(20_000, True), (20_001, False), (100_000, False)])
def test_the_number_of_chunks_is_bounded(encode, make_image, count, is_valid):
    image = make_image(4, 4)
    png = encode(image)  # IHDR, IDAT, IEND
    many = with_chunk(png, chunk(b"tEXt", b"a\0") * (count - 3))
    assert bool(decoding.decode_images(tf.constant([many]), (4, 4)).valid[0]) is is_valid
    if is_valid:
        np.testing.assert_array_equal(decoding.decode_image(many, name="x.png"), image)
    else:
        with pytest.raises(ValueError, match=r"x\.png is damaged .*chunks that are not whole"):
            decoding.decode_image(many, name="x.png")


def test_one_image_is_refused_where_the_batch_would_refuse_it(encode, make_image):
    """Every length, and lengths of chunks that say too little or too much."""
    png = with_chunk(encode(make_image(4, 4)), chunk(b"tEXt", b"a\0"))
    contents = [png[:end] for end in range(8, len(png) + 1)]
    for start in (8, 33, 33 + 14):  # IHDR, tEXt, IDAT
        for length in (0, 1, 13, len(png) - start - 13, len(png) - start - 12, len(png), 2**31):
            contents.append(png[:start] + struct.pack(">I", length) + png[start + 4 :])
    valid = decoding.decode_images(tf.constant(contents), (4, 4)).valid.numpy()
    assert 0 < valid.sum() < len(contents)
    for content, is_valid in zip(contents, valid):
        if is_valid:
            decoding.decode_image(content, name="x.png")
        else:
            with pytest.raises(ValueError, match=r"x\.png is damaged or truncated"):
                decoding.decode_image(content, name="x.png")
