"""Parts of the mask transformers that recorded cases do not show."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory
from small_systems import draw_sample, get_params, get_task, make_batch

from panoptic_tf.structures import Prediction
from panoptic_tf.systems.mask_transformer import pixel_decoders, transformer_decoder

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
        ({"model": {"mask_stride": 8}}, "mask_stride must be 4, 2 or 1, got 8"),
        ({"model": {"decoder": {"levels": ["6"]}}}, r"some of 5, 4, 3, 2, .*got \['6'\]"),
        ({"model": {"decoder": {"levels": []}}}, "levels must be some of"),
        (
            {"model": {"pixel_decoder": {"name": "fpn"}, "decoder": {"levels": ["5", "4"]}}},
            "levels must be some of 5, which the pixel decoder 'fpn' returns",
        ),
        (
            {"model": {"pixel_decoder": {"dropout": 0.1}}},
            "pixel_decoder.dropout must be 0.0, its default, got 0.1: .*'deformable' does not read",
        ),
        (
            {"model": {"pixel_decoder": {"name": "fpn", "num_points": 8}}},
            "pixel_decoder.num_points must be 4, its default, got 8: .*'fpn' does not read it",
        ),
        ({"model": {"decoder": {"num_layers": 0}}}, "needs num_layers >= 1"),
        ({"model": {"decoder": {"learnt_start": False}}}, "learnt_start where masked is true"),
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


def test_a_semantic_branch_is_of_training_only():
    without = build_task({"semantic_branch": False, "mask_stride": 4})
    task = build_task({"semantic_branch": True, "mask_stride": 4})
    assert set(task.loss_names()) - set(without.loss_names()) == {"loss/semantic"}
    model, plain = task.build_model(), without.build_model()
    logits = model.training_network.output["semantic_logits"]
    assert logits.shape.as_list() == [None, 16, 16, 10] and logits.dtype == tf.float32
    assert "semantic_logits" not in plain.training_network.output
    names = [
        {variable.name for variable in network.weights}
        for network in (model.training_network, model.inference_network, plain.training_network)
    ]
    assert names[0] - names[1] == {"semantic_predictor/kernel:0", "semantic_predictor/bias:0"}
    assert names[1] == names[2]


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_masks_of_a_finer_stride(stride):
    model = build_task({"mask_stride": stride}).build_model()
    features = model.training_network.output["mask_features"]
    assert features.shape.as_list() == [None, 64 // stride, 64 // stride, 32]
    factor = 4 // stride
    kernels = [v.shape.as_list() for v in model.weights if v.name == "upscale/kernel:0"]
    assert kernels == ([] if stride == 4 else [[factor, factor, 32, 32]])
    # At the start those of stride 4 are repeated.
    image = tf.random.stateless_uniform([1, 64, 64, 3], seed=[0, 1])
    info = tf.constant([[[64.0, 64.0], [64.0, 64.0], [1.0, 1.0], [0.0, 0.0]]])
    outputs = model.training_network({"image": image, "image_info": info})
    cells = tf.reshape(outputs["mask_features"], [16, factor, 16, factor, 32]).numpy()
    np.testing.assert_array_equal(cells, np.broadcast_to(cells[:, :1, :, :1], cells.shape))
    assert np.ptp(cells[:, 0, :, 0], axis=(0, 1)).min() > 0.0


def test_vectors_of_levels_learn_from_the_second_step_on():
    """Before, where a cell looks and how much a sample weighs do not depend on positions."""
    decoder = pixel_decoders.DeformablePixelDecoder(
        32, num_layers=1, num_heads=4, hidden_channels=32, name="pixel_decoder"
    )
    rng = np.random.default_rng(0)

    def draw(*shape):
        return tf.constant(rng.normal(size=shape), tf.float32)

    inputs = {level: draw(1, 64 >> int(level), 64 >> int(level), 16) for level in "2345"}
    targets = {key: draw(*x.shape) for key, x in decoder(inputs).items()}

    def gradients():
        with tf.GradientTape() as tape:
            outputs = decoder(inputs, training=True)
            loss = tf.add_n([tf.reduce_sum((outputs[k] - targets[k]) ** 2) for k in targets])
        return tape.gradient(loss, {v.name: v for v in decoder.trainable_variables})

    first = gradients()
    assert not np.any(first.pop("pixel_decoder/level_embedding:0"))
    assert all(np.any(gradient) for gradient in first.values())
    for variable in decoder.trainable_variables:
        if variable.name in first:
            variable.assign_sub(1e-4 * first[variable.name])
    assert np.all(np.any(gradients()["pixel_decoder/level_embedding:0"], axis=1))  # of each level


def test_encoder_layer_equals_numpy():
    layer = pixel_decoders._EncoderLayer(
        8, num_heads=2, hidden_channels=6, dropout=0.0, name="layer"
    )
    rng = np.random.default_rng(0)
    x, positions = (rng.normal(size=[1, 5, 8]).astype(np.float32) for _ in range(2))
    layer(x, positions)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.3)
    query = x + positions
    attended = x + layer.attention(query, query, x).numpy()
    attended -= attended.mean(axis=-1, keepdims=True)
    attended /= np.sqrt(attended.var(axis=-1, keepdims=True) + 1e-5)
    attended = attended * layer.norm.gamma.numpy() + layer.norm.beta.numpy()
    np.testing.assert_allclose(
        layer(x, positions), layer.feed_forward(tf.constant(attended)), atol=1e-5
    )


# As published: rate, of the backbone, decay, batch, steps, queries, layers of attention, weights.
PUBLISHED = {
    "mask2former_resnet50_coco": (1e-4, 0.1, 0.05, 16, 368_750, 100, 6, (2, 5, 5)),
    "mask2former_swin_large_coco": (1e-4, 0.1, 0.05, 16, 737_500, 200, 6, (2, 5, 5)),
    "mask2former_swin_large_cityscapes": (1e-4, 0.1, 0.05, 16, 90_000, 200, 6, (2, 5, 5)),
    "mask2former_resnet50_ade20k": (1e-4, 0.1, 0.05, 16, 160_000, 100, 6, (2, 5, 5)),
    "maskformer_resnet50_coco": (1e-4, 0.1, 1e-4, 64, 554_400, 100, 6, (1, 20, 1)),
    "maskformer_swin_tiny_coco": (6e-5, 1.0, 0.01, 64, 554_400, 100, 0, (1, 20, 1)),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_values(name):
    params = exp_factory.get_exp_config(name)
    task, trainer = params.task, params.trainer
    config = trainer.optimizer_config
    rate = config.learning_rate.get()
    first = getattr(rate, "initial_learning_rate", None) or rate.values[0]
    factors = [row.learning_rate for row in config.by_variable if row.pattern == "^backbone/"]
    losses = task.losses
    assert (
        first,
        *(factors or [1.0]),
        config.optimizer.adamw.weight_decay_rate,
        task.train_data.global_batch_size,
        trainer.train_steps,
        task.model.decoder.num_queries,
        task.model.pixel_decoder.num_layers,
        (losses.class_weight, losses.mask_weight, losses.dice_weight),
    ) == PUBLISHED[name]
    assert config.optimizer.adamw.global_clipnorm == 0.01
    if name == "mask2former_resnet50_coco":
        assert list(rate.boundaries) == [327_778, 355_092]
        np.testing.assert_allclose(rate.values, [1e-4, 1e-5, 1e-6])


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


@pytest.mark.parametrize(
    ("size", "stride", "share"), [(64, 4, 0.9), (62, 4, 0.9), (62, 2, 0.95), (62, 1, 1.0)]
)
def test_ideal_outputs_are_the_truth(size, stride, share):
    task = build_task(
        {
            "input_size": [size, size],
            "mask_stride": stride,
            "postprocessor": {"void_outside_masks": True},
        }
    )
    sample = draw_sample(3, size)
    features, labels = make_batch(task, [sample])
    prediction = task.ideal_prediction({**features, **labels}, features["image_info"])
    truth = np.where(sample.crowd_mask, 0, sample.category_mask)
    found = prediction[Prediction.CATEGORY_MASK][0].numpy()
    # Where segments meet, a pixel may be another's, but for masks of stride 1.
    assert (found == truth)[~sample.crowd_mask.numpy()].mean() >= share
    # One of a few pixels may lose them all.
    count = int(labels["segment_valid"][0].numpy().sum())
    assert count - 1 <= int(prediction[Prediction.NUM_SEGMENTS][0]) <= count
