"""Panoptic-DeepLab with aligned corners: what trains reads the same cells as what predicts."""

import numpy as np
import pytest
import tensorflow as tf
from small_systems import ROWS, draw_sample, make_batch, row_task

from panoptic_tf.systems.panoptic_deeplab import ideal
from panoptic_tf.systems.panoptic_deeplab.losses import PanopticDeepLabLoss

ROW = next(row for row in ROWS if row.system == "panoptic_deeplab")
SIZE = 65


def _ramp(step):
    """y + 2 x at every `step`-th pixel: linear, so that interpolation is exact."""
    axis = np.arange(0, SIZE, step, dtype=np.float32)
    return tf.constant((axis[:, None] + 2 * axis)[None, ..., None])


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_loss_upsamples_as_the_network_does(align_corners):
    loss = PanopticDeepLabLoss(align_corners=align_corners)
    ones = tf.ones([1, SIZE, SIZE, 1])
    labels = {
        "category_mask": tf.ones([1, SIZE, SIZE], tf.int32),
        "semantic_weights": ones[..., 0],
        "center_heatmap": _ramp(1),
        "center_weights": ones,
        "offsets": tf.repeat(_ramp(1), 2, axis=-1),
        "offset_weights": ones,
    }
    outputs = {
        "semantic_logits": tf.zeros([1, 17, 17, 3]),
        "center_heatmap": _ramp(4),
        "offsets": tf.repeat(_ramp(4), 2, axis=-1),
    }
    losses = loss(labels, outputs)
    for name in ("loss/center", "loss/offset"):
        assert (float(losses[name]) < 1e-6) == align_corners, name


def test_the_ceilings_cells_lie_on_pixels():
    labels = {
        "category_mask": tf.ones([1, SIZE, SIZE], tf.int32),
        "center_heatmap": _ramp(1),
        "offsets": tf.repeat(_ramp(1), 2, axis=-1),
    }
    outputs = ideal.ideal_outputs(labels, stride=4, num_categories=1, align_corners=True)
    assert outputs["semantic_logits"].shape == (1, 17, 17, 2)
    np.testing.assert_array_equal(outputs["offsets"][..., :1], _ramp(4))
    # The mean around a pixel of a linear map is the pixel, but at the border.
    inner = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(outputs["center_heatmap"][inner], _ramp(4)[inner], rtol=1e-6)


def test_sizes_must_fit():
    with pytest.raises(ValueError, match="multiples of 16 plus one, got .64, 64."):
        row_task(ROW, {"model": {"align_corners": True}}).build_model()


@pytest.mark.slow
def test_a_step_and_a_prediction(tmp_path):
    size = {"train_size": [SIZE, SIZE], "input_size": [SIZE, SIZE], "align_corners": True}
    task = row_task(ROW, {"model": size})
    model = task.build_model()
    features, labels = make_batch(task, [draw_sample(3, SIZE)])
    optimizer = tf.keras.optimizers.legacy.SGD(1e-3)
    logs = task.train_step((features, labels), model, optimizer)
    assert np.isfinite(float(logs[task.loss]))
    prediction = model({key: features[key] for key in ("image", "image_info")}, training=False)
    assert prediction["category_mask"].shape == (1, SIZE, SIZE)
