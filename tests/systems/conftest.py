"""The rows of `small_systems.py`, built once and trained once."""

import numpy as np
import pytest
import tensorflow as tf
from small_systems import ROWS, Row, draw_sample, make_batch, row_task, step_in_graph


@pytest.fixture(scope="session", params=ROWS, ids=lambda row: row.system)
def row(request) -> Row:
    return request.param


@pytest.fixture(scope="session")
def built(row):
    """Task and model of the row; tests must not train it."""
    task = row_task(row)
    return task, task.build_model()


@pytest.fixture(scope="session")
def trained(row):
    """Task and model after some steps on four images: no more near-ties between categories."""
    tf.keras.utils.set_random_seed(1)
    task = row_task(row)
    model = task.build_model()
    optimizer = tf.keras.optimizers.legacy.Adam(1e-2)
    batch = make_batch(task, [draw_sample(seed) for seed in range(4)])
    metrics = task.build_metrics(training=True)
    step = step_in_graph(task, model, optimizer, metrics)
    losses = [float(step(*batch)[task.loss]) for _ in range(100)]
    assert np.isfinite(losses).all() and losses[-1] < 0.3 * losses[0], losses
    return task, model
