"""Positions as sines."""

import math

import numpy as np
import pytest

from panoptic_tf.layers.position_encoding import sine_positions


def test_equals_loops():
    height, width, channels = 3, 5, 12
    rows, columns = sine_positions(height, width, channels)
    assert rows.shape == (1, height, 1, channels) and columns.shape == (1, 1, width, channels)
    found = (rows + columns)[0]
    half = channels // 2
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                position, size = (y, height) if c < half else (x, width)
                angle = (position + 1) / (size + 1e-6) * 2 * math.pi
                angle /= 10000 ** (2 * ((c % half) // 2) / half)
                expected = math.sin(angle) if c % 2 == 0 else math.cos(angle)
                assert found[y, x, c] == pytest.approx(expected, abs=1e-6)


def test_wrong_channels():
    with pytest.raises(ValueError, match="multiple of 4 channels, got 6"):
        sine_positions(2, 2, 6)


def test_parts_are_zero_where_the_other_is():
    rows, columns = sine_positions(2, 2, 8)
    assert not np.any(rows[..., 4:]) and not np.any(columns[..., :4])
