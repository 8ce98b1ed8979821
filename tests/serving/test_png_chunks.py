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


def test_the_number_of_chunks_is_bounded(encode, make_image):
    many = with_chunk(encode(make_image(4, 4)), chunk(b"tEXt", b"a\0") * 25_000)
    assert not decoding.decode_images(tf.constant([many]), (4, 4)).valid[0]
