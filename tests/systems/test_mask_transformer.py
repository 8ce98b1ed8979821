"""Parts of the mask transformers that recorded cases do not show."""

import numpy as np
import pytest
import tensorflow as tf
from small_systems import draw_sample, get_params, get_task, make_batch

from panoptic_tf.structures import Prediction
from panoptic_tf.systems.mask_transformer import transformer_decoder

TINY = {
    "train_size": [64, 64],
    "input_size": [64, 64],
    "channels": 32,
    "backbone": {
        "options": {"block": "basic", "num_blocks": [1] * 4, "widths": [16] * 4, "stem_width": 8}
    },
    "pixel_decoder": {"num_layers": 1, "hidden_channels": 32},
    "decoder": {"num_queries": 16, "num_layers": 3, "hidden_channels": 32},
}


def build_task(model=None, **others):
    override = {"targets": {"max_segments": 16}, **others, "model": {**TINY, **(model or {})}}
    return get_task(get_params("mask2former_shapes", override))


@pytest.mark.parametrize(
    "override, message",
    [
        ({"model": {"pixel_decoder": {"name": "fast"}}}, "name must be 'deformable' or 'fpn'"),
        ({"model": {"decoder": {"levels": ["2"]}}}, r"levels must be some of 5, 4, 3.*got \['2'\]"),
        ({"model": {"decoder": {"levels": []}}}, "levels must be some of"),
        (
            {"model": {"pixel_decoder": {"name": "fpn"}, "decoder": {"levels": ["5", "4"]}}},
            "levels must be some of 5, which the pixel decoder 'fpn' returns",
        ),
        ({"model": {"decoder": {"num_heads": 5}}}, "5 heads must divide 32 channels"),
        ({"targets": {"max_segments": 17}}, r"max_segments \(17\) must not be larger than"),
        ({"targets": {"max_segments": 0}}, "max_segments must be at least 1, got 0"),
        ({"losses": {"mask_loss": "dice"}}, "mask_loss must be one of points, whole, got 'dice'"),
        ({"losses": {"num_points": 0}}, "num_points >= 1"),
    ],
)
def test_wrong_configs(override, message):
    with pytest.raises(ValueError, match=message):
        task = build_task(**override)
        task.build_target_generator()
        task.build_model()


def test_training_and_inference_of_different_sizes():
    model = build_task({"input_size": [96, 64]}).build_model()
    info = tf.constant([[[96.0, 64.0], [96.0, 64.0], [1.0, 1.0], [0.0, 0.0]]])
    outputs = model({"image": tf.zeros([1, 96, 64, 3]), "image_info": info}, training=False)
    assert outputs[Prediction.CATEGORY_MASK].shape == (1, 96, 64)


def test_cells_outside_of_a_mask_are_blocked_unless_it_is_empty():
    features = np.random.default_rng(0).normal(size=[2, 5, 3]).astype(np.float32)
    embeddings = np.random.default_rng(1).normal(size=[2, 4, 3]).astype(np.float32)
    features[..., 0] = 1.0
    embeddings[0, 1] = [-1.0, 0.0, 0.0]  # negative everywhere
    embeddings[1, 2] = 0.0  # zero everywhere, which is inside
    bias = transformer_decoder._bias(tf.constant(embeddings), tf.constant(features))
    logits = embeddings @ features.transpose(0, 2, 1)
    blocked = logits < 0.0
    assert blocked[0, 1].all()
    blocked &= ~blocked.all(axis=-1, keepdims=True)
    np.testing.assert_array_equal(bias.numpy()[:, 0] < -1e8, blocked)
    assert not np.any(bias.numpy()[:, 0][~blocked])
    assert blocked.any() and not blocked[1, 2].any()


@pytest.mark.parametrize("size", [64, 62])
def test_ideal_outputs_are_the_truth(size):
    task = build_task({"input_size": [size, size]})
    sample = draw_sample(3, size)
    features, labels = make_batch(task, [sample])
    prediction = task.ideal_prediction({**features, **labels}, features["image_info"])
    truth = np.where(sample.crowd_mask, 0, sample.category_mask)
    found = prediction[Prediction.CATEGORY_MASK][0].numpy()
    # Masks are of stride 4: where segments meet, a pixel may be another's.
    assert (found == truth)[~sample.crowd_mask.numpy()].mean() > 0.9
    # One of a few pixels may lose them all.
    count = int(labels["segment_valid"][0].numpy().sum())
    assert count - 1 <= int(prediction[Prediction.NUM_SEGMENTS][0]) <= count
