"""The audit says where in the code an operator comes from."""

from unittest import mock

import pytest


@pytest.fixture(scope="module", autouse=True)
def operators_know_where_they_were_made(cheap_graphs):
    """As in the commands."""
    from tensorflow.python.util import tf_stack

    with mock.patch.object(tf_stack, "extract_stack", cheap_graphs):
        yield
