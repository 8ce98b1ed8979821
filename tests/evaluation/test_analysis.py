"""Counts against hand-computed ones and against published tables."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
from official.core import exp_factory

from panoptic_tf import systems  # noqa: F401  (registers the experiments)
from panoptic_tf.backbones import factory
from panoptic_tf.evaluation import analysis
from panoptic_tf.evaluation.analysis import Cost
from panoptic_tf.layers import convolution, fpn, normalization, semantic_fpn
from panoptic_tf.systems.model import PanopticModel

ROOT = pathlib.Path(__file__).parents[2]
L = tf.keras.layers


def count(function, *shapes, parts=()):
    """(costs by part, not counted) of a function of tensors with these shapes."""
    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    return analysis.count_operations(analysis.trace(function, *specs), parts)


OPERATIONS = {
    # name: (function, shapes, multiply-adds, activations)
    "valid": (L.Conv2D(4, 3), [(1, 8, 8, 2)], 6 * 6 * 4 * 9 * 2, 6 * 6 * 4),
    "taps on padding count": (L.Conv2D(4, 3, padding="same"), [(1, 8, 8, 2)], 64 * 4 * 9 * 2, 256),
    "strided": (L.Conv2D(4, (3, 1), 2, padding="same"), [(1, 7, 8, 2)], 4 * 4 * 4 * 3 * 2, 64),
    "batch": (L.Conv2D(4, 1), [(3, 5, 5, 2)], 3 * 25 * 4 * 2, 3 * 25 * 4),
    "grouped": (L.Conv2D(6, 3, groups=2), [(1, 8, 8, 4)], 36 * 6 * 9 * 2, 36 * 6),
    "dilated": (
        L.Conv2D(4, 3, dilation_rate=6, padding="same"),
        [(1, 10, 13, 2)],
        130 * 4 * 9 * 2,
        130 * 4,
    ),
    "depthwise": (L.DepthwiseConv2D(5, padding="same"), [(1, 8, 8, 3)], 64 * 3 * 25, 64 * 3),
    "depthwise with multiplier": (
        L.DepthwiseConv2D(3, depth_multiplier=2),
        [(1, 8, 8, 3)],
        36 * 6 * 9,
        36 * 6,
    ),
    # 10 and 13 are no multiples of the dilation, so TensorFlow pads and crops.
    "dilated depthwise": (
        L.DepthwiseConv2D(3, dilation_rate=6, padding="same"),
        [(1, 10, 13, 3)],
        130 * 3 * 9,
        130 * 3,
    ),
    "dilated depthwise, valid": (
        L.DepthwiseConv2D(3, dilation_rate=3),
        [(1, 10, 13, 3)],
        4 * 7 * 3 * 9,
        4 * 7 * 3,
    ),
    "separable": (
        L.SeparableConv2D(7, 3, padding="same"),
        [(1, 4, 4, 3)],
        16 * 3 * 9 + 16 * 3 * 7,
        16 * 3 + 16 * 7,
    ),
    "transposed": (L.Conv2DTranspose(5, 2, 2), [(1, 4, 4, 3)], 16 * 3 * 4 * 5, 64 * 5),
    "dense": (L.Dense(5), [(2, 3)], 2 * 3 * 5, 2 * 5),
    "dense on a map": (L.Dense(5), [(1, 4, 4, 3)], 16 * 3 * 5, 16 * 5),
    "matmul": (tf.matmul, [(4, 3), (3, 5)], 4 * 3 * 5, 20),
    "matmul, first transposed": (
        lambda a, b: tf.matmul(a, b, transpose_a=True),
        [(3, 4), (3, 5)],
        4 * 3 * 5,
        20,
    ),
    "batched matmul": (
        lambda a, b: tf.matmul(a, b, transpose_b=True),
        [(2, 4, 3), (2, 5, 3)],
        2 * 4 * 3 * 5,
        2 * 20,
    ),
    "batched matmul, first transposed": (
        lambda a, b: tf.matmul(a, b, transpose_a=True),
        [(2, 3, 4), (1, 3, 5)],
        2 * 4 * 3 * 5,
        2 * 20,
    ),
    "einsum": (
        lambda a, b: tf.einsum("bhwc,bkc->bkhw", a, b),
        [(2, 4, 5, 3), (2, 7, 3)],
        2 * 20 * 3 * 7,
        2 * 20 * 7,
    ),
    "einsum, broadcast": (
        lambda a, b: tf.einsum("...ij,jk->...ik", a, b),
        [(2, 6, 4, 3), (3, 5)],
        12 * 4 * 3 * 5,
        12 * 4 * 5,
    ),
    # Regions of an image go into the batch.
    "regions": (
        lambda x: tf.nn.conv2d(tf.reshape(x, [-1, 4, 4, 2]), tf.ones([3, 3, 2, 5]), 1, "VALID"),
        [(1, 7, 4, 4, 2)],
        7 * 4 * 5 * 9 * 2,
        7 * 4 * 5,
    ),
    "regions, size computed": (
        lambda x: tf.matmul(tf.reshape(x, [tf.shape(x)[0] * tf.shape(x)[1], 32]), tf.ones([32, 5])),
        [(1, 7, 4, 4, 2)],
        7 * 32 * 5,
        7 * 5,
    ),
    "frozen norm is free": (
        convolution.ConvNormAct(6, 3, groups=2, norm="frozen_batch"),
        [(1, 8, 8, 4)],
        64 * 6 * 9 * 2,
        64 * 6,
    ),
    # Region alignment is a product with a sparse matrix of bilinear weights.
    "pooling of regions is free": (
        lambda x: tf.sparse.sparse_dense_matmul(tf.sparse.from_dense([[0.5, 0.5]]), x),
        [(2, 3)],
        0,
        0,
    ),
    "normalisation is free": (L.BatchNormalization(), [(1, 8, 8, 2)], 0, 0),
    "resizing is free": (L.UpSampling2D(2), [(1, 8, 8, 2)], 0, 0),
    "pooling is free": (L.AveragePooling2D(2), [(1, 8, 8, 2)], 0, 0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_costs_what_paper_and_pencil_say(name):
    function, shapes, multiply_adds, activations = OPERATIONS[name]
    costs, not_counted = count(function, *shapes)
    total = costs.get(analysis.OTHER, Cost())
    assert total == Cost(multiply_adds=multiply_adds, activations=activations)
    assert not not_counted


def test_operations_belong_to_the_outermost_part_in_their_name():
    shared = L.Dense(5, name="shared")

    def network(x):
        with tf.name_scope("network"):
            with tf.name_scope("first"), tf.name_scope("second"):
                y = tf.matmul(x, tf.ones([3, 3]))  # 2 x 3 x 3
            x = shared(shared(y)[:, :3])  # twice 2 x 3 x 5
            # An operation's own name is no part.
            return tf.matmul(x, tf.ones([5, 1]), name="first")  # 2 x 5 x 1

    costs, _ = count(network, (2, 3), parts=["first", "second", "shared"])
    assert costs == {
        "first": Cost(multiply_adds=18, activations=6),
        "shared": Cost(multiply_adds=60, activations=20),
        analysis.OTHER: Cost(multiply_adds=10, activations=2),
    }
    assert list(costs)[-1] == analysis.OTHER


def test_what_cannot_be_counted_is_named():
    def loop(x):
        return tf.while_loop(
            lambda y: tf.reduce_sum(y) < 9.0, lambda y: [tf.matmul(y, y)], [x], name="loop"
        )

    costs, not_counted = count(loop, (2, 2))
    assert not costs
    assert len(not_counted) == 1
    assert not_counted[0].startswith("1 x MatMul in loop_body")

    costs, not_counted = count(L.Dense(5, name="dense"), (None, 3))
    assert not costs
    assert not_counted == ("MatMul dense/MatMul: shape not known",)


@pytest.mark.parametrize(
    "norm,parameters,buffers",
    [("batch", 8, 8), ("sync_batch", 8, 8), ("frozen_batch", 0, 16), ("group", 8, 0)],
)
def test_statistics_and_frozen_affine_values_are_no_parameters(norm, parameters, buffers):
    options = {"groups": 2} if norm == "group" else {}
    part = tf.keras.Sequential([L.Conv2D(4, 3), normalization.build_norm(norm, **options)])
    part.build([None, 8, 8, 2])
    convolution = 9 * 2 * 4 + 4
    assert analysis.count_variables(part) == Cost(convolution + parameters, buffers)
    # A frozen stage keeps its parameters, but its batch norm is a frozen one.
    part.trainable = False
    is_batch = norm != "group"
    assert analysis.count_variables(part) == Cost(
        convolution + (0 if is_batch else parameters), 16 if is_batch else 0
    )


class Doubled(L.Layer):
    """A part that runs its convolution on two levels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(3, 1, use_bias=False, name="conv")

    def call(self, inputs):
        return self.conv(inputs) + tf.image.resize(self.conv(inputs[:, ::2, ::2]), [8, 8])


class PostProcessor(L.Layer):
    def call(self, outputs):
        return tf.matmul(outputs[:, 0], outputs[:, 0], transpose_b=True)  # 8 x 3 x 8


def drawn_model():
    backbone = L.Conv2D(2, 3, strides=2, padding="same", name="backbone")
    head = Doubled(name="head")

    def inputs():
        return {
            "image": tf.keras.Input([16, 16, 3], name="image"),
            "image_info": tf.keras.Input([4, 2], name="image_info"),
        }

    training, inference = inputs(), inputs()
    training_network = tf.keras.Model(training, head(backbone(training["image"])))
    prediction = PostProcessor(name="postprocessor")(head(backbone(inference["image"])))
    return PanopticModel(training_network, tf.keras.Model(inference, prediction))


def test_a_drawn_model():
    result = analysis.analyze_model(drawn_model(), (16, 16))
    assert result.parts == {
        "backbone": Cost(27 * 2 + 2, 0, 64 * 2 * 27, 128),
        "head": Cost(6, 0, 64 * 6 + 16 * 6, 64 * 3 + 16 * 3),
    }
    assert result.postprocessor == Cost(multiply_adds=8 * 3 * 8, activations=64)
    assert result.total == Cost(62, 0, 3456 + 480, 128 + 240)  # without the post-processor
    assert not result.not_counted
    content = json.loads(json.dumps(result.as_dict()))
    assert content["parts"]["head"]["multiply_adds"] == 480
    assert content["total"]["parameters"] == 62
    assert content["counting_rule"] == analysis.COUNTING_RULE


def test_an_experiment():
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    result = analysis.analyze(params, (96, 160))
    assert set(result.parts) == {"backbone", "semantic", "instance"}
    assert all(cost.multiply_adds > 0 for cost in result.parts.values())
    assert result.input_size == (96, 160)
    assert not result.not_counted
    assert list(params.task.model.input_size) == [128, 128]  # the caller's config is untouched


REFERENCE = {
    # experiment, size, settings: parameters, published multiply-adds in G (rounded to 0.1 G)
    "coco 640x640": ("coco", (640, 640), {}, 30_300_648, 82.2),
    # The pooling window of 40x40 cells is for 640x640; here the reference pooled the whole map.
    "coco 800x1344": ("coco", (800, 1344), {"aspp_pool_size": None}, 30_300_648, 215.7),
    "cityscapes": ("cityscapes", (1024, 2048), {}, 30_271_350, 419.1),
    "cityscapes, plain": (
        "cityscapes",
        (1024, 2048),
        {"use_separable_conv": False},
        59_770_166,
        1042.3,
    ),
}


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("name", REFERENCE)
def test_panoptic_deeplab_has_the_published_size(name):
    dataset, (height, width), settings, parameters, published = REFERENCE[name]
    params = exp_factory.get_exp_config(f"panoptic_deeplab_resnet52_{dataset}")
    params.override({"task": {"model": settings}})
    result = analysis.analyze(params, (height, width))
    assert result.total.parameters == parameters
    if dataset == "coco":
        assert {name: cost.parameters for name, cost in result.parts.items()} == {
            "backbone": 23_631_808,
            "semantic": 3_340_901,
            "instance": 3_327_939,
        }
    assert not result.not_counted
    multiply_adds = result.total.multiply_adds / 1e9
    assert multiply_adds == pytest.approx(published, rel=0.007)
    # The published numbers also count 2 for every element of batch normalisation, which follows all
    # convolutions but the predictors and image pooling, and 4 for every element of bilinear
    # resizing, without the last one to the image's size.
    pixels = height * width
    window = params.task.model.aspp_pool_size or (height // 16, width // 16)
    pooled = (height // 16 - window[0] + 1) * (width // 16 - window[1] + 1)
    predictors = (133 if dataset == "coco" else 19) + 1 + 2
    normalised = result.total.activations - predictors * pixels // 16 - 2 * 256 * pooled
    resized = 2 * 256 * pixels // 256 + (256 + 256) * pixels // 64 + (256 + 128) * pixels // 16
    assert multiply_adds + (2 * normalised + 4 * resized) / 1e9 == pytest.approx(
        published, abs=0.05
    )


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize(
    "name, multiply_adds, activations",
    [("resnet101", 0.5e12, 0.8e9), ("resnext101_64x4d", 0.8e12, 1.4e9)],
)
def test_semantic_fpn_has_the_published_size(name, multiply_adds, activations):
    # arXiv:1901.02446, table 1a, on Cityscapes. Its ResNeXt-101 is 64x4d: 32x8d has 0.87e12.
    backbone = factory.build_backbone(name, norm="frozen_batch")
    neck, branch = fpn.FPN(), semantic_fpn.SemanticFPN(num_classes=19)

    def network(x):
        return branch(neck(backbone(x, training=False), training=False), training=False)

    costs, not_counted = count(network, (1, 1024, 2048, 3))
    assert not not_counted
    assert costs[analysis.OTHER].multiply_adds == pytest.approx(multiply_adds, rel=0.05)
    assert costs[analysis.OTHER].activations == pytest.approx(activations, rel=0.05)


@pytest.mark.slow
def test_a_size_below_the_pooling_window_is_refused():
    params = exp_factory.get_exp_config("panoptic_deeplab_resnet52_coco")
    with pytest.raises(ValueError, match="input of 512x640 pixels.*pool_size .40, 40. does not"):
        analysis.analyze(params, (512, 640))


def run_binary(*arguments):
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, "experiments", "analyze.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(tmp_path):
    output = tmp_path / "analysis.json"
    result = run_binary(
        "--experiment=panoptic_deeplab_shapes",
        "--input_image_size=100,131",
        f"--output_json={output}",
    )
    assert result.returncode == 0, result.stderr
    content = json.loads(output.read_text())
    assert content["image_size"] == [100, 131]
    assert content["input_size"] == [128, 160]  # padded to multiples of 32
    table = result.stdout
    assert "image 100x131, network input 128x160" in table
    for name, cost in [*content["parts"].items(), ("total", content["total"])]:
        row = next(line for line in table.splitlines() if line.startswith(name))
        assert row.split()[1] == f"{cost['parameters']:,}"
        assert float(row.split()[3]) == pytest.approx(cost["multiply_adds"] / 1e9, abs=5e-4)
    assert analysis.COUNTING_RULE in table


@pytest.mark.slow
def test_the_command_names_what_is_wrong(tmp_path):
    result = run_binary("--experiment=panoptic_deeplab_shapes", "--input_image_size=0,12")
    assert result.returncode == 1
    assert "analyze: --input_image_size must be height,width" in result.stderr
    assert "Traceback" not in result.stderr
