"""The experiment of MaskFormer in a tiny form: what it learns, what it predicts."""

import numpy as np
import pytest
import tensorflow as tf
from small_systems import (
    ROWS,
    draw_sample,
    export_arguments,
    fit_images,
    get_params,
    get_task,
    make_batch,
    normalized,
    step_in_graph,
)

from panoptic_tf.datasets import shapes
from panoptic_tf.ops import forms
from panoptic_tf.structures import Prediction
from panoptic_tf.systems.mask_transformer import network

(ROW,) = (row for row in ROWS if row.system == "mask_transformer")
ON_SHAPES = {
    "dataset_info": "shapes",
    "model": {"output_size": [], "backbone": {"name": "resnet", "norm": "batch"}},
}

# Queries start as zeros, which the first attention among them reads as values.
FIRST = "transformer_decoder/layer_0/self_attention"


def build(**model):
    """Task, model and a batch of two images."""
    tf.keras.utils.set_random_seed(1)
    task = get_task(
        get_params("maskformer_resnet50_coco", ON_SHAPES, ROW.overrides, {"model": model})
    )
    return task, task.build_model(), make_batch(task, [draw_sample(seed) for seed in range(2)])


@pytest.fixture(scope="module")
def built():
    """Of random weights, but queries differ, and most are sure of a class: masks compete."""
    task, model, batch = build(postprocessor={"overlap_threshold": 0.0})
    positions, kernel, bias = (
        next(v for v in model.variables if v.name == f"transformer_decoder/{name}:0")
        for name in ("query_positions", "class_predictor/kernel", "class_predictor/bias")
    )
    positions.assign(5.0 * positions)
    logits = model.training_network(batch[0], training=False)["class_logits"][:, -1]
    scale = 10.0 / tf.math.reduce_std(logits, axis=[0, 1])  # [K + 1]
    kernel.assign(kernel * scale)
    bias.assign(-scale * tf.reduce_mean(logits, axis=[0, 1]))
    return task, model, batch


def test_it_is_maskformer(built):
    config = built[0].task_config
    assert config.model.pixel_decoder.name == "fpn" and config.losses.mask_loss == "whole"
    assert not config.model.decoder.masked and not config.model.postprocessor.void_outside_masks


@pytest.mark.slow
def test_it_learns():
    task, model, batch = build()
    optimizer = tf.keras.optimizers.legacy.Adam(3e-3)
    metrics = task.build_metrics(training=True)
    step = step_in_graph(task, model, optimizer, metrics)
    losses = [float(step(*batch)[task.loss]) for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0], losses
    outputs = model(batch[0], training=True)
    assert outputs["class_logits"].shape == (2, 3, 16, 11)  # After each layer, none before.


@pytest.mark.slow
def test_every_variable_has_a_gradient(built):
    task, model, (features, labels) = built
    variables = model.trainable_variables

    def gradients():
        with forms.use(task.form), tf.GradientTape() as tape:
            loss = task.build_loss()(labels, model(features, training=True))[task.loss]
        return tape.gradient(loss, variables)

    def names_without(gradients):
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        return {v.name for v, gradient in zip(variables, gradients) if not np.any(gradient)}

    first = gradients()
    # Until they move, the biases after it make zeros too.
    assert all(name.startswith(FIRST) for name in names_without(first))
    tf.keras.optimizers.legacy.SGD(1e-3).apply_gradients(zip(first, variables))
    assert names_without(gradients()) == {f"{FIRST}/value/kernel:0"}


def predict(model, features, rows=slice(None)):
    inputs = {key: features[key][rows] for key in ("image", "image_info")}
    return {key: value.numpy() for key, value in model(inputs, training=False).items()}


def test_prediction_is_that_of_the_last_layer(built):
    task, model, (features, _) = built
    outputs = model.training_network(features, training=False)
    masks = tf.einsum("bqc,bhwc->bqhw", outputs["mask_embeddings"][:, -1], outputs["mask_features"])
    expected = network.build_postprocessor(task.task_config.model, task.dataset_info)(
        {"class_logits": outputs["class_logits"][:, -1], "mask_logits": masks},
        features["image_info"],
    )
    found = predict(model, features)
    for key in (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK):
        assert (found[key] == expected[key].numpy()).mean() > 0.999, key


def test_predictions_agree_with_themselves(built):
    """Two images are twice one, and the table of segments counts what the maps show."""
    _, model, (features, _) = built
    both = predict(model, features)
    assert both[Prediction.NUM_SEGMENTS].min() > 2
    for i in range(2):
        alone = predict(model, features, slice(i, i + 1))
        for key in (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK):
            assert (alone[key][0] == both[key][i]).mean() > 0.999, key
        count = both[Prediction.NUM_SEGMENTS][i]
        categories = both[Prediction.SEGMENT_CATEGORY][i][:count]
        areas = both[Prediction.SEGMENT_AREA][i][:count]
        category_mask = both[Prediction.CATEGORY_MASK][i]
        for category in np.unique(categories):
            shown = np.count_nonzero(category_mask == category)
            assert areas[categories == category].sum() == shown
        assert areas.sum() == np.count_nonzero(category_mask)


@pytest.fixture(scope="module")
def images(built):
    """Three images of several sizes in frames, their info, and what Python predicts of them."""
    task, model, _ = built
    drawn = [shapes.generate_image(5, number, 64).image for number in range(3)]
    drawn[1] = drawn[1][:40, :56]
    images, info = fit_images(task, drawn)
    expected = predict(model, normalized(task, images, info))
    assert expected[Prediction.NUM_SEGMENTS].min() > 1
    return images.numpy(), info.numpy(), expected


def assert_same_maps(found, expected):
    for key in (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK):
        assert (found[key] == expected[key]).mean() >= 0.999, key


@pytest.mark.slow
def test_tflite_equals_python(built, images, tmp_path):
    from panoptic_tf.serving.tflite import TFLiteRunner, export_tflite

    task, model, _ = built
    path = str(tmp_path / "m.tflite")
    export_tflite(model.inference_network, tflite_path=path, **export_arguments(task))
    run = TFLiteRunner(path)
    for image, info, *expected in zip(*images[:2], *images[2].values()):
        assert_same_maps(run(image, info), dict(zip(images[2], expected)))
