"""EoMT: queries in a vision transformer, against recorded outputs of `transformers`."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from builtin_tflite import runner
from small_systems import draw_sample, get_params, get_task, make_batch, step_in_graph
from test_mask_transformer_golden import stored

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.sources import vision_transformers
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.layers import dynamic_conv
from panoptic_tf.ops import forms
from panoptic_tf.systems import variable_factors
from panoptic_tf.systems.mask_transformer import losses, query_heads, vision_transformer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "mask_transformer"
MODEL = {
    "train_size": [64, 64],
    "input_size": [64, 64],
    "encoder": {
        "channels": 24,
        "num_blocks": 4,
        "num_heads": 3,
        "num_registers": 2,
        "num_joint_blocks": 2,
        "num_queries": 7,
        "annealing_starts": [10, 20],
        "annealing_ends": [30, 21],
    },
}


def build(dataset_info="shapes", **encoder):
    override = {
        "dataset_info": dataset_info,
        "model": {**MODEL, "encoder": {**MODEL["encoder"], **encoder}},
        "targets": {"max_segments": 7},
        "losses": {"num_points": 64},
    }
    tf.keras.utils.set_random_seed(1)
    task = get_task(get_params("eomt_small_coco", override))
    return task, task.build_model()


@pytest.fixture(scope="module")
def recorded():
    return np.load(GOLDEN / "eomt.npz")


@pytest.fixture(scope="module")
def golden_model(recorded, tmp_path_factory):
    """The network that was recorded."""
    path = str(tmp_path_factory.mktemp("five") / "dataset_info.json")
    categories = [{"id": i, "name": str(i), "isthing": i % 2} for i in range(1, 6)]
    DatasetInfo.from_coco(categories, name="five").save(path)
    _, model = build(path)
    checkpoint = stored(recorded)
    source = names.find_source(checkpoint)
    assert source.describe(checkpoint).settings == {"model.encoder.num_queries": 7}
    translation = source.translate(checkpoint)
    for variable in model.training_network.weights:
        variable.assign(translation.pop(variable.name.partition(":")[0]).read())
    assert not translation, sorted(translation)
    return model


def inputs(recorded):
    image = np.random.RandomState(0).standard_normal([2, 64, 64, 3]).astype(np.float32)
    np.testing.assert_array_equal(image[0, 0, 0], recorded["first_of_image"])
    return {"image": tf.constant(image), "image_info": tf.zeros([2, 4, 2])}


def assert_near(found, expected):
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.reference
def test_all_predictions_equal_the_recorded_ones(recorded, golden_model):
    found = golden_model.training_network(inputs(recorded), training=False)
    masks = [
        dynamic_conv.mask_logits(found["mask_embeddings"][:, i], found["mask_features"][:, i])
        for i in range(3)
    ]
    assert_near(found["class_logits"], recorded["masked_class_logits"])
    assert_near(tf.stack(masks, axis=1), recorded["masked_mask_logits"])


@pytest.mark.reference
def test_inference_has_no_masks(recorded, golden_model):
    network = golden_model.inference_network
    raw = tf.keras.Model(network.input, network.get_layer("postprocessor").input)
    found = tf.nest.flatten(raw(inputs(recorded)))
    classes, masks = sorted(found, key=lambda x: x.shape.rank)[-2:]
    assert_near(classes, recorded["free_class_logits"])
    assert_near(masks, recorded["free_mask_logits"])
    difference = recorded["free_mask_logits"] - recorded["masked_mask_logits"][:, -1]
    assert np.abs(difference).max() > 0.1


@pytest.mark.reference
def test_dinov2_comes_in_at_other_patches_and_sizes():
    recorded = np.load(GOLDEN / "dinov2.npz")
    encoder = vision_transformer.VisionTransformer(
        channels=24,
        num_blocks=3,
        num_heads=3,
        patch_size=16,
        num_registers=2,
        num_joint_blocks=1,
        name="backbone",
    )
    image = np.random.RandomState(0).standard_normal([1, 96, 96, 3]).astype(np.float32)
    frame = tf.keras.Input([96, 96, 3])

    @tf.autograph.experimental.do_not_convert
    def encode(frame):
        return encoder(encoder(encoder(frame), step=0), step=vision_transformer.NORM)

    network = tf.keras.Model(frame, encode(frame))
    checkpoint = stored(recorded)
    translation = names.find_source(checkpoint).translate_for(checkpoint, network)
    for variable in network.weights:
        variable.assign(translation.pop(variable.name.partition(":")[0]).read())
    assert not translation, sorted(translation)
    assert_near(network(image), recorded["tokens"])


def test_a_kernel_gives_on_a_resized_patch_what_it_gave_on_the_patch():
    random = np.random.RandomState(0)
    kernel, patch = random.standard_normal([14, 14, 3, 5]), random.standard_normal([14, 14, 3])
    resized = tf.image.resize(patch, [16, 16], method="bicubic", antialias=True)
    found = vision_transformers.resize_kernel(kernel, 16)
    expected = np.einsum("yxc,yxcd->d", patch, kernel)
    np.testing.assert_allclose(np.einsum("yxc,yxcd->d", resized, found), expected, rtol=1e-4)
    assert vision_transformers.resize_kernel(kernel, 14) is kernel


def test_the_layers_that_int8_leaves_are_there():
    task, model = build()
    variables = {variable.name for variable in model.trainable_variables}
    assert task.float_layers()
    for layer in task.float_layers():
        assert f"query_heads/{layer}/kernel:0" in variables


def test_masks_go_block_by_block():
    heads = query_heads.QueryHeads(
        3,
        channels=4,
        num_queries=200,
        grid=(2, 2),
        patch_size=8,
        annealing_starts=[10, 20],
        annealing_ends=[30, 21],
    )
    heads(tf.zeros([1, 5, 4]), step=query_heads.JOIN)
    # Every mask is empty, so that a query is free of its mask or sees no patch.
    prediction = {
        "mask_embeddings": tf.ones([1, 200, 4]),
        "mask_features": -tf.ones([1, 4, 4, 4]),
    }

    def share(number):
        bias = heads(prediction, step=query_heads.BLOCK, number=number).numpy()[0, 0]
        assert bias.shape == (200, 4) and set(np.unique(bias)) <= {0.0, np.float32(-1e9)}
        assert (bias == bias[:, :1]).all()
        return (bias[:, 0] < 0).mean()

    # Of step s, the s + 1st; power 0.9 of what is left of the way.
    for step, expected in ((0, (1, 1)), (20, (0.5**0.9, 1)), (21, (0.45**0.9, 0)), (30, (0, 0))):
        heads.steps.assign(step)
        heads(tf.zeros([1, 5, 4]), step=query_heads.JOIN, training=True)
        assert heads.steps == step + 1
        for number in range(2):
            assert share(number) == pytest.approx(expected[number], abs=0.12)


def test_only_queries_miss_patches():
    bias = np.arange(1.0, 7.0).reshape([1, 1, 2, 3])
    spread = query_heads.spread_bias(tf.constant(bias), 7).numpy()[0, 0]
    assert (spread[:2, 4:] == bias[0, 0]).all()
    spread[:2, 4:] = 0.0
    assert not spread.any()


def test_loss_is_the_sum_over_predictions_with_features_of_their_own():
    random = np.random.RandomState(0)
    batch, count, queries = 2, 3, 5
    labels = {
        "segment_map": tf.constant(random.randint(0, 4, [batch, 16, 16])),
        "segment_classes": tf.constant(random.randint(0, 3, [batch, 4]), tf.int32),
        "segment_valid": tf.constant([[1, 1, 1, 0], [1, 1, 0, 0]], tf.float32) > 0,
        "seed": tf.constant([[1, 2], [3, 4]]),
        "is_annotated": tf.ones([batch]),
    }
    outputs = {
        "class_logits": random.standard_normal([batch, count, queries, 4]),
        "mask_embeddings": random.standard_normal([batch, count, queries, 8]),
        "mask_features": random.standard_normal([batch, count, 4, 4, 8]),
    }
    outputs = {key: tf.constant(value, tf.float32) for key, value in outputs.items()}
    loss = losses.MaskTransformerLoss(num_points=32)
    found = loss(labels, outputs)
    parts = []
    for i in range(count):
        of_one = {key: value[:, i : i + 1] for key, value in outputs.items()}
        of_one["mask_features"] = outputs["mask_features"][:, i]
        parts.append(loss(labels, of_one))
    for key, value in found.items():
        np.testing.assert_allclose(value, sum(part[key] for part in parts), rtol=1e-5)


@pytest.mark.slow
def test_it_learns_and_counts_its_steps():
    task, model = build(annealing_starts=[5, 10], annealing_ends=[15, 20])
    batch = make_batch(task, [draw_sample(seed) for seed in range(2)])
    optimizer = tf.keras.optimizers.legacy.Adam(2e-3)
    step = step_in_graph(task, model, optimizer)
    found = [float(step(*batch)[task.loss]) for _ in range(40)]
    assert np.mean(found[-5:]) < 0.7 * np.mean(found[:5]), found
    (steps,) = (v for v in model.variables if v.name == "query_heads/steps:0")
    assert float(steps) == 40.0


@pytest.mark.slow
def test_every_variable_has_a_gradient():
    task, model = build()
    features, labels = make_batch(task, [draw_sample(seed) for seed in range(2)])
    with tf.GradientTape() as tape, forms.use(forms.Form.CPU):
        loss = task.build_loss()(labels, model(features, training=True))["loss"]
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        assert gradient is not None and np.any(gradient), variable.name


@pytest.mark.slow
def test_tflite_equals_keras(recorded, golden_model):
    network = golden_model.inference_network
    raw = tf.keras.Model(network.input, network.get_layer("postprocessor").input)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, 64, 64, 3])])
    def predict(image):
        with forms.use(forms.Form.TFLITE):
            found = tf.nest.flatten(raw({"image": image, "image_info": tf.zeros([1, 4, 2])}))
        return sorted(found, key=lambda x: x.shape.rank)[-1]

    image = inputs(recorded)["image"][:1]
    run = runner(predict.get_concrete_function(), golden_model)
    (found,) = run(image=image).values()
    assert_near(found, recorded["free_mask_logits"][:1])


@pytest.mark.parametrize(
    "override, message",
    [
        ({"train_size": [64, 96]}, "must be the same"),
        ({"train_size": [60, 60], "input_size": [60, 60]}, r"patch_size \(16\), got 60 x 60"),
        ({"encoder": {"annealing_ends": [5]}}, "a start before its end"),
        ({"encoder": {"annealing_ends": [5, 30]}}, "a start before its end"),
        (
            {"encoder": {"num_joint_blocks": 5, "annealing_starts": [], "annealing_ends": []}},
            "1 to",
        ),
        ({"channels": 32}, "task.model.channels must keep its default"),
        ({"mask_stride": 2}, "task.model.mask_stride must keep its default"),
        ({"decoder": {"num_queries": 9}}, "task.model.decoder must keep its default"),
        ({"architecture": "both"}, "must be one of decoders, encoder, got 'both'"),
    ],
)
def test_wrong_configs_are_refused(override, message):
    targets = {"targets": {"max_segments": 7}}
    params = get_params("eomt_small_coco", {"model": MODEL, **targets}, {"model": override})
    with pytest.raises(ValueError, match=message):
        get_task(params).build_model()


def test_an_encoder_is_refused_beside_decoders():
    params = get_params("mask2former_shapes", {"model": {"encoder": {"channels": 32}}})
    with pytest.raises(ValueError, match="task.model.encoder must keep its default"):
        get_task(params).build_model()


def test_learning_rates_fall_from_block_to_block():
    config = get_params("eomt_small_coco").trainer.optimizer_config
    _, model = build(num_blocks=12, num_joint_blocks=3, annealing_starts=[], annealing_ends=[])
    table = variable_factors.FactorTable(config.by_variable)
    variables = {variable_factors.name_of(v): v for v in model.trainable_variables}
    table.check_matching(list(variables))
    for name, power in {
        "backbone/block_11/hidden/kernel": 0,
        "backbone/block_10/hidden/kernel": 1,
        "backbone/block_1/hidden/kernel": 10,
        "backbone/block_0/scale1": 11,
        "backbone/positions": 11,
        "backbone/norm/gamma": 0,
        "query_heads/queries": 0,
    }.items():
        assert table.of(variables[name]).learning_rate == pytest.approx(0.8**power)
