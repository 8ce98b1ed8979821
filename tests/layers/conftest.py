import pytest
import tensorflow as tf


@pytest.fixture
def mixed_bfloat16():
    """The policy mixed_bfloat16 for one test."""
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
