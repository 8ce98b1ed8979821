"""int8 files: what becomes int8, what stays float32, how close they are, what is refused."""

import csv
import io
import json

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets.record import encode_example
from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.serving import calibration, quantization, tflite, tflite_graph
from panoptic_tf.serving.model_info import ModelInfo

LAYERS = ("stem", "left", "right", "head", "norm_conv")
FLOAT_LAYERS = quantization.pattern_of(["predictor"])
SIZE = (32, 48)


class Head(tf.keras.layers.Layer):
    """A layer that holds a predictor."""

    def build(self, input_shape):
        # A bias of zeros would be folded away, with its name.
        self.predictor = tf.keras.layers.Conv2D(3, 1, bias_initializer="ones", name="predictor")
        self.predictor.build(input_shape)
        super().build(input_shape)

    def call(self, x):
        return self.predictor(x)


class PostProcessor(tf.keras.layers.Layer):
    """Whatever might be quantised by mistake: a constant kernel, a sum, a resize, a loop."""

    def call(self, logits):
        kernel = tf.constant(1 / 27, shape=[3, 3, 3, 1])
        smooth = tf.nn.conv2d(logits, kernel, 1, "SAME") + logits
        large = tf.image.resize(smooth, SIZE)
        best = tf.while_loop(
            lambda i, x: i < 3, lambda i, x: (i + 1, x + 0.5 * large), [0, tf.zeros_like(large)]
        )[1]
        values, _ = tf.math.top_k(tf.reshape(best, [-1, SIZE[0] * SIZE[1] * 3]), 5)
        return best, values, tf.sigmoid(logits)


@pytest.fixture(scope="module")
def network():
    tf.keras.utils.set_random_seed(3)
    conv = tf.keras.layers.Conv2D
    image = tf.keras.Input([*SIZE, 3], name="image")
    image_info = tf.keras.Input([4, 2], name="image_info")
    stem = conv(16, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    left = conv(16, 3, padding="same", activation="relu", name="left")(stem)
    right = tf.keras.layers.DepthwiseConv2D(3, padding="same", name="right")(stem)
    total = tf.keras.layers.Add(name="total")([left, right])
    # Normalised by its own moments, as group normalisation does.
    x = conv(16, 3, padding="same", name="norm_conv")(total)
    x = tf.keras.layers.Lambda(
        lambda x: x * tf.math.rsqrt(tf.reduce_mean(x * x, [1, 2], keepdims=True) + 1e-3),
        name="moments",
    )(x)
    logits = Head(name="head")(x)
    best, values, scores = PostProcessor(name="postprocessor")(logits)
    # Not the head itself: what computes an output is named after the output alone.
    outputs = {"scores": scores, "best": best, "values": values}
    return tf.keras.Model({"image": image, "image_info": image_info}, outputs, name="tiny")


@pytest.fixture(scope="module")
def float_path(network, export_arguments, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("float") / "model.tflite")
    return tflite.export_tflite(network, tflite_path=path, **export_arguments)


@pytest.fixture(scope="module")
def float_model(float_path):
    with open(float_path, "rb") as file:
        return file.read()


@pytest.fixture(scope="module")
def train_records(dataset_info, make_image, encode, tmp_path_factory):
    """Two files of four images each, of several sizes."""
    folder = tmp_path_factory.mktemp("calibration")
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"train-{shard:05d}-of-00002.tfrecord")) as writer:
            for number in range(4):
                height, width = [(32, 48), (20, 30), (64, 80), (75, 200)][number]
                writer.write(
                    encode_example(
                        image_bytes=encode(make_image(height, width, seed=4 * shard + number)),
                        image_id=f"{shard}_{number}",
                        file_name=f"{shard}_{number}.png",
                        rows=np.zeros([height, width], np.uint16),
                        segment_table=[],
                        contiguous_ids=dataset_info.contiguous_ids(),
                    )
                )
    dataset_info.save(str(folder / "dataset_info.json"))
    return folder


@pytest.fixture(scope="module")
def read_inputs(train_records, dataset_info):
    return calibration.read_inputs(
        str(train_records / "train-*"), dataset_info=dataset_info, input_size=SIZE, num_images=8
    )


@pytest.fixture(scope="module")
def plan(float_model):
    return quantization.make_plan(float_model, layers=LAYERS, float_layers=FLOAT_LAYERS)


@pytest.fixture(scope="module")
def ranges(float_model, plan, read_inputs):
    return quantization.measure_ranges(float_model, plan, read_inputs)


@pytest.fixture(scope="module")
def int8_model(float_model, plan, ranges):
    return quantization.quantize(float_model, plan, ranges)


def layer(operator):
    return operator.name.split(";")[0].split("/")[1]


def test_plan_is_the_network_without_last_layers(plan):
    chosen = {quantization.short_name(plan.operators[i]).split("/")[0] for i in plan.weighted}
    assert chosen == {"stem", "left", "right", "norm_conv"}
    assert [layer(plan.operators[i]) for i in plan.kept] == ["head"]
    assert [plan.operators[i].kind for i in plan.between] == ["ADD"]
    assert "float32 CONV_2D" in quantization.describe(plan)


def test_network_is_int8_and_the_rest_float(int8_model, float_model):
    operators, *loops = tflite_graph.read_operators(int8_model)
    int8 = sorted(o.kind for o in operators if o.is_int8)
    assert int8 == sorted(["CONV_2D"] * 3 + ["DEPTHWISE_CONV_2D", "ADD", "QUANTIZE"])
    assert len(loops) == len(tflite_graph.read_operators(float_model)) - 1 > 0
    assert not any(o.is_int8 for graph in loops for o in graph)
    post = [o for o in operators if "postprocessor/" in o.name and o.kind == "CONV_2D"]
    assert post and not any(o.is_int8 for o in post)


def test_weights_are_quantised_by_channel(int8_model):
    interpreter = tf.lite.Interpreter(model_content=int8_model)
    shapes = {
        tuple(d["shape"]): d["quantization_parameters"]["scales"].size
        for d in interpreter.get_tensor_details()
        if d["dtype"] == np.int8 and len(d["shape"]) == 4 and d["shape"][1] == 3
    }
    assert shapes and set(shapes.values()) == {16}


def test_ranges_are_those_of_the_images(network, plan, ranges, read_inputs, export_arguments):
    largest = 0.0
    part = tf.keras.Model(network.input, network.get_layer("stem").output)
    settings = {key: export_arguments[key] for key in ("mean", "std", "channel_order")}
    for values in read_inputs():
        image = normalize.normalize_image(values["image"], values["image_info"], **settings)
        answer = part({"image": image, "image_info": values["image_info"]})
        largest = max(largest, float(tf.reduce_max(answer)))
    (stem,) = [plan.operators[i] for i in plan.weighted if layer(plan.operators[i]) == "stem"]
    assert ranges[stem.outputs[0]] == (0.0, pytest.approx(largest, rel=1e-5))


def test_answers_are_close(float_path, network, read_inputs, tmp_path):
    path = tflite.quantize_tflite(
        float_path,
        network,
        tflite_path=str(tmp_path / "int8.tflite"),
        int8_options=quantization.Options(read_inputs, FLOAT_LAYERS),
    )
    assert tflite.read_model_info(path) == tflite.read_model_info(float_path)
    runners = tflite.TFLiteRunner(float_path), tflite.TFLiteRunner(path)
    for values in read_inputs():
        expected, answer = (
            run(values["image"][0], values["image_info"][0])["scores"] for run in runners
        )
        assert np.abs(answer - expected).mean() < 0.05 * np.abs(expected).max()
        assert np.corrcoef(answer.ravel(), expected.ravel())[0, 1] > 0.995


def test_export_makes_the_same_file(network, export_arguments, float_path, read_inputs, tmp_path):
    options = quantization.Options(
        read_inputs, FLOAT_LAYERS, report_path=str(tmp_path / "layers.csv")
    )
    exported = tflite.export_tflite(
        network,
        tflite_path=str(tmp_path / "exported.tflite"),
        quantization="int8",
        int8_options=options,
        **export_arguments,
    )
    made = tflite.quantize_tflite(
        float_path, network, tflite_path=str(tmp_path / "made.tflite"), int8_options=options
    )
    with open(exported, "rb") as one, open(made, "rb") as other:
        assert one.read() == other.read()
    assert isinstance(tflite.read_model_info(exported), ModelInfo)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "layers.csv").read_text())))
    assert len(rows) == 5
    errors = [float(row["rmse/scale"]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < 2


def test_part_of_a_model_answers_as_the_whole(float_model, int8_model, make_image):
    image, image_info = geometry.fit_and_pad(tf.constant(make_image(32, 48)), SIZE)
    # A value between two steps of int8 may fall to either.
    for model, tolerance in ((float_model, 1e-5), (int8_model, 0.03)):
        run = tf.lite.Interpreter(model_content=model).get_signature_runner("serving_default")
        expected = run(image=image[None].numpy(), image_info=image_info[None].numpy())["scores"]
        part = tf.lite.Interpreter(
            model_content=tflite_graph.network_part(model, [*LAYERS, "total", "moments"])
        )
        part.allocate_tensors()
        (detail,) = part.get_input_details()
        settings = {"mean": (120.0, 110.0, 100.0), "std": (50.0, 60.0, 70.0)}
        part.set_tensor(
            detail["index"], normalize.normalize_image(image, image_info, **settings)[None].numpy()
        )
        part.invoke()
        outputs = [part.get_tensor(d["index"]) for d in part.get_output_details()]
        (logits,) = [x.reshape(expected.shape) for x in outputs if x.size == expected.size]
        np.testing.assert_allclose(tf.sigmoid(logits), expected, atol=tolerance)


def test_int8_needs_images_and_only_int8(network, export_arguments, read_inputs, tmp_path):
    path = str(tmp_path / "m")
    with pytest.raises(ValueError, match="images to calibrate with"):
        tflite.export_tflite(network, tflite_path=path, quantization="int8", **export_arguments)
    with pytest.raises(ValueError, match="belong to quantization 'int8', got quantization 'none'"):
        tflite.export_tflite(
            network,
            tflite_path=path,
            int8_options=quantization.Options(read_inputs, FLOAT_LAYERS),
            **export_arguments,
        )


@pytest.mark.parametrize(
    "float_layers, message", [("", "nothing to quantise: of 0"), ("(", "not a regular expression")]
)
def test_plans_that_cannot_be(float_model, float_layers, message):
    with pytest.raises(ValueError, match=message):
        quantization.make_plan(float_model, layers=["no_such"], float_layers=float_layers)


def test_everything_may_not_stay_float(float_model):
    with pytest.raises(ValueError, match=r"of 5 operators .* 5 match float_layers '\.'"):
        quantization.make_plan(float_model, layers=LAYERS, float_layers=".")


def test_values_that_are_not_finite_are_refused(float_model, plan):
    def broken():
        yield {
            "image": np.full([1, *SIZE, 3], np.inf, np.float32),
            "image_info": np.array([[SIZE, SIZE, (1, 1), (0, 0)]], np.float32),
        }

    with pytest.raises(ValueError, match="not finite"):
        quantization.measure_ranges(float_model, plan, broken)


def test_images_are_prepared_as_for_prediction(read_inputs, make_image):
    first, second = list(read_inputs()), list(read_inputs())
    assert len(first) == 8
    # One image of each file in turn.
    for values, (shard, number) in zip(first, [(0, 0), (1, 0), (0, 1), (1, 1)]):
        size = [(32, 48), (20, 30)][number]
        pixels = make_image(*size, seed=4 * shard + number)
        image, image_info = geometry.fit_and_pad(tf.constant(pixels), SIZE)
        np.testing.assert_array_equal(values["image"][0], image)
        np.testing.assert_array_equal(values["image_info"][0], image_info)
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one["image"], other["image"])


@pytest.mark.parametrize(
    "pattern, num_images, message",
    [
        ("", 8, "needs --calibration_path"),
        ("none-*", 8, "no file matches calibration_path"),
        ("train-*", 9, "needs 9 images, the files of .* hold 8"),
        ("train-*", 0, "must be positive, got 0"),
    ],
)
def test_missing_images_are_refused(train_records, dataset_info, pattern, num_images, message):
    path = str(train_records / pattern) if pattern else ""
    with pytest.raises(ValueError, match=message):
        calibration.read_inputs(
            path, dataset_info=dataset_info, input_size=SIZE, num_images=num_images
        )


def test_images_of_other_categories_are_refused(train_records, dataset_info, tmp_path):
    for path in train_records.glob("train-*"):
        (tmp_path / path.name).symlink_to(path)
    content = json.loads((train_records / "dataset_info.json").read_text())
    content["categories"][0]["name"] = "purple"
    (tmp_path / "dataset_info.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the first that differs is 'purple'"):
        calibration.read_inputs(
            str(tmp_path / "train-*"), dataset_info=dataset_info, input_size=SIZE, num_images=2
        )
