"""float16, which is for GPUs, as far as a CPU can compute it."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import config_definitions as cfg
from small_systems import draw_sample, get_params, make_batch, row_task

from panoptic_tf.systems import runner

# Convolutions in float16 have no gradient on a CPU where they are dilated.
_ON_CPU = {
    "panoptic_deeplab": {
        "model": {
            "aspp_dilation_rates": [1, 1, 1],
            "backbone": {"output_stride": 32, "multi_grid": None},
        }
    }
}


@pytest.mark.slow
def test_the_loss_is_scaled_and_falls(row):
    runtime = cfg.RuntimeConfig(mixed_precision_dtype="float16")
    runner.set_precision(runtime)
    try:
        tf.keras.utils.set_random_seed(1)
        task = row_task(row, _ON_CPU.get(row.system, {}))
        model = task.build_model()
        config = get_params(row.experiment).trainer.optimizer_config
        config.ema = None
        optimizer = task.create_optimizer(config, runtime)
        batch = make_batch(task, [draw_sample(seed) for seed in range(2)])
        step = tf.function(lambda: task.train_step(batch, model, optimizer))
        losses = [float(step()[task.loss]) for _ in range(30)]
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.98 * losses[0], losses
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
