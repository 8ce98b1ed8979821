import numpy as np
import pytest
import tensorflow as tf

from layers import roi_oracle
from panoptic_tf.layers import roi_align
from panoptic_tf.ops import forms
from panoptic_tf.ops.forms import Form

EXACT = (Form.ACCELERATOR, Form.CPU)


def draw_features(seed, *, sizes, batch=1, channels=3):
    rng = np.random.default_rng(seed)
    return {
        str(level): rng.normal(size=(batch, *size, channels)).astype(np.float32)
        for level, size in sizes.items()
    }


def draw_boxes(seed, *, count, low, high, image=(64, 80), batch=1):
    """Boxes with sides of `low` to `high` pixels, some partly outside of the image."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(low, high, (batch, count, 2))
    corner = rng.uniform(-0.2, 1.0, (batch, count, 2)) * image
    return np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)


def yxyx(boxes):
    return boxes[..., [1, 0, 3, 2]]


def recorded_features(vectors, *names):
    return {name[-1]: tf.constant(vectors[name].transpose(0, 2, 3, 1)) for name in names}


def recorded_output(output):
    """[..., C, S, S] -> [..., S, S, C]."""
    return np.moveaxis(output, -3, -1)


@pytest.mark.reference
@pytest.mark.parametrize("size, ratio", [(7, 0), (14, 0), (7, 2)])
def test_recorded_roi_align(golden, size, ratio):
    vectors = golden("roi_align")
    features = {"2": tf.constant(vectors["feature"].transpose(0, 2, 3, 1))}
    image, boxes = vectors["rois"][:, 0].astype(int), yxyx(vectors["rois"][:, 1:])
    layer = roi_align.MultiLevelROIAlign(output_size=size, sampling_ratio=ratio, max_level=2)
    expected = recorded_output(vectors[f"out_aligned1_sr{ratio}_{size}"])
    for form in Form:
        pooled = pool(layer, features, np.stack([boxes, boxes]), form=form)
        np.testing.assert_allclose(pooled[image, np.arange(len(image))], expected, atol=1e-5)


def pool(layer, features, boxes, *, form=Form.CPU):
    with forms.use(form):
        return layer(features, tf.constant(boxes)).numpy()


@pytest.mark.reference
@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_recorded_gradient(golden, form, jit_compile):
    if jit_compile and form is not Form.ACCELERATOR:
        return
    # Of the sum of squares.
    vectors = golden("roi_align")
    features = tf.constant(vectors["feature"].transpose(0, 2, 3, 1))
    image, boxes = vectors["rois"][:, 0].astype(int), yxyx(vectors["rois"][:, 1:])
    boxes = tf.constant(np.stack([boxes, boxes]))
    layer = roi_align.MultiLevelROIAlign(output_size=7, max_level=2)

    @tf.function(jit_compile=jit_compile)
    def gradients():
        with forms.use(form), tf.GradientTape() as tape:
            tape.watch([features, boxes])
            pooled = layer({"2": features}, boxes)
            pooled = tf.gather_nd(pooled, tf.stack([image, tf.range(len(image))], axis=-1))
            loss = tf.reduce_sum(pooled**2)
        return tape.gradient(loss, [features, boxes])

    gradient, of_boxes = gradients()
    assert of_boxes is None
    expected = vectors["grad_sumsq_aligned1_sr0_7"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


@pytest.mark.reference
def test_recorded_pooler(golden):
    vectors = golden("roi_pooler")
    features = recorded_features(vectors, "p2", "p3", "p4", "p5")
    boxes = tf.constant(yxyx(vectors["boxes"])[np.newaxis])
    np.testing.assert_array_equal(roi_align.assign_levels(boxes)[0], vectors["levels"])
    for size in (7, 14):
        pooled = roi_align.MultiLevelROIAlign(output_size=size)(features, boxes)[0]
        np.testing.assert_allclose(pooled, recorded_output(vectors[f"out_{size}"]), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("form", EXACT)
def test_against_loops(seed, ratio, form):
    # Boxes of up to 300 x 300 pixels over an image of 64 x 80: many samples lie outside.
    sizes = {3: (9, 11), 4: (5, 6), 5: (1, 3)}
    features = draw_features(seed, sizes=sizes, batch=2)
    ranges = [(6, 1, 55), (3, 65, 110), (3, 130, 300)]  # sides; of levels 3, 4 and 5
    boxes = [draw_boxes(seed, count=n, low=a, high=b, batch=2) for n, a, b in ranges]
    boxes = np.concatenate(boxes, axis=1)
    assignment = dict(min_level=3, max_level=5, canonical_size=60)
    layer = roi_align.MultiLevelROIAlign(output_size=3, sampling_ratio=ratio, **assignment)
    levels = roi_align.assign_levels(boxes, **assignment).numpy()
    assert set(levels.flat) == {3, 4, 5}
    pooled = pool(layer, features, boxes, form=form)
    for image, index in np.ndindex(*levels.shape):
        level = levels[image, index]
        expected = roi_oracle.align(
            features[str(level)][image].astype(np.float64),
            boxes[image, index].astype(np.float64),
            scale=0.5**level,
            output_size=3,
            sampling_ratio=ratio,
        )
        np.testing.assert_allclose(pooled[image, index], expected, atol=1e-4)
    if ratio:
        tflite = pool(layer, features, boxes, form=Form.TFLITE)
        np.testing.assert_allclose(tflite, pooled, atol=1e-5)


@pytest.mark.parametrize(
    "side", [13.999, 14.0, 111.999, 112.0, 223.99, 224.0, 448.0, 1e4, 0.0, -5.0]
)
def test_level_of_a_square(side):
    level = roi_align.assign_levels(tf.constant([[10.0, 20.0, 10.0 + side, 20.0 + side]]))
    expected = np.clip(np.floor(4 + np.log2(max(side, 0.0) / 224 + 1e-8)), 2, 5)
    if side < 0:
        expected = np.clip(np.floor(4 + np.log2(-side / 224)), 2, 5)  # two negative sides
    assert level.numpy().tolist() == [expected]


ONE_LEVEL = {"sizes": {2: (6, 5)}}
ODD_BOXES = {
    "outside": ([100, 100, 140, 140], 0.0),
    "without area": ([8, 8, 8, 8], 0.0),
    "without height": ([8, 4, 8, 20], 0.0),
    "not a number": ([np.nan, 0, 10, 10], 0.0),
    "infinite": ([0, 0, np.inf, 10], 0.0),
    "huge": ([1e30, 0, 1e31, 10], 0.0),
    "far around the image": ([-1e6, -1e6, 1e6, 1e6], None),
}


@pytest.mark.parametrize("name", ODD_BOXES)
@pytest.mark.parametrize("form", Form)
def test_odd_boxes(name, form):
    features = draw_features(0, **ONE_LEVEL)
    box, expected = ODD_BOXES[name]
    layer = roi_align.MultiLevelROIAlign(output_size=2, max_level=2)
    boxes = np.array([[box, [0, 0, 20, 20]]], np.float32)
    pooled = pool(layer, features, boxes, form=form)
    assert np.isfinite(pooled).all()
    assert np.abs(pooled[0, 1]).min() > 0.0
    if expected is not None:
        np.testing.assert_array_equal(pooled[0, 0], expected)


@pytest.mark.parametrize("form", Form)
def test_no_box(form):
    features = draw_features(0, batch=2, **ONE_LEVEL)
    layer = roi_align.MultiLevelROIAlign(output_size=2, max_level=2)
    pooled = pool(layer, features, np.zeros((2, 0, 4), np.float32), form=form)
    assert pooled.shape == (2, 0, 2, 2, 3)


def test_unknown_batch_count_and_size():
    layer = roi_align.MultiLevelROIAlign(output_size=2, max_level=3)
    signature = [
        {k: tf.TensorSpec([None, None, None, 3]) for k in ("2", "3", "6")},
        tf.TensorSpec([None, None, 4]),
    ]
    function = tf.function(layer, input_signature=signature)
    features = draw_features(1, sizes={2: (7, 9), 3: (4, 5), 6: (1, 1)}, batch=2)
    boxes = draw_boxes(1, count=5, low=2, high=30, batch=2)
    assert function.get_concrete_function().output_shapes.as_list() == [None, None, 2, 2, 3]
    np.testing.assert_allclose(
        function(features, tf.constant(boxes)), pool(layer, features, boxes), atol=1e-5
    )
    for i in range(2):
        alone = pool(layer, {k: v[i : i + 1] for k, v in features.items()}, boxes[i : i + 1])
        np.testing.assert_allclose(pool(layer, features, boxes)[i], alone[0], atol=1e-6)


def test_functional_model():
    inputs = {"2": tf.keras.Input([7, 9, 3]), "boxes": tf.keras.Input([5, 4])}
    layer = roi_align.MultiLevelROIAlign(output_size=2, max_level=2, name="pooler")
    outputs = layer({"2": inputs["2"]}, inputs["boxes"])
    assert outputs.shape.as_list() == [None, 5, 2, 2, 3]
    model = tf.keras.Model(inputs, outputs)
    features = draw_features(2, sizes={2: (7, 9)}, batch=2)
    boxes = draw_boxes(2, count=5, low=2, high=30, batch=2)
    np.testing.assert_array_equal(model({**features, "boxes": boxes}), layer(features, boxes))


def test_mixed_precision(mixed_bfloat16):
    features = tf.cast(draw_features(3, sizes={2: (7, 9)})["2"], tf.bfloat16)
    boxes = draw_boxes(3, count=5, low=2, high=30)
    layer = roi_align.MultiLevelROIAlign(output_size=2, max_level=2)
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = layer({"2": features}, boxes)
    assert pooled.dtype == tape.gradient(pooled, features).dtype == tf.bfloat16
    exact = roi_align.MultiLevelROIAlign(output_size=2, max_level=2, dtype=tf.float32)
    exact = exact({"2": tf.cast(features, tf.float32)}, boxes)
    np.testing.assert_array_equal(pooled, tf.cast(exact, tf.bfloat16))


def test_the_form_for_tflite_is_exact_up_to_35_cells_and_near_beyond():
    rng = np.random.default_rng(4)
    ramp = np.add.outer(np.linspace(0, 1, 120), np.linspace(0, 1, 120))
    features = {"2": rng.normal(size=(1, 120, 120, 2)).astype(np.float32)}
    smooth = {"2": np.stack([ramp, np.sin(6 * ramp)], axis=-1)[np.newaxis].astype(np.float32)}
    short = draw_boxes(4, count=40, low=1, high=4 * 35, image=(400, 400))
    long = draw_boxes(4, count=10, low=4 * 36, high=4 * 90, image=(0, 0))
    for size in (7, 14):
        layer = roi_align.MultiLevelROIAlign(output_size=size, max_level=2)
        exact, again, fixed = (
            pool(layer, features, short, form=form) for form in (*EXACT, Form.TFLITE)
        )
        np.testing.assert_allclose(again, exact, atol=1e-5)
        np.testing.assert_allclose(fixed, exact, atol=1e-5)
        exact, again, fixed = (
            pool(layer, smooth, long, form=form) for form in (*EXACT, Form.TFLITE)
        )
        np.testing.assert_allclose(again, exact, atol=1e-5)
        np.testing.assert_allclose(fixed, exact, atol=0.02)


@pytest.mark.parametrize("ratio", [0, 2])
def test_converts_with_builtin_operators_only(ratio):
    sizes = {2: (16, 20), 3: (8, 10), 4: (4, 5), 5: (2, 3)}
    specs = {str(k): tf.TensorSpec([1, *size, 3], name=f"p{k}") for k, size in sizes.items()}
    layer = roi_align.MultiLevelROIAlign(output_size=7, sampling_ratio=ratio, canonical_size=30)
    boxes = draw_boxes(5, count=40, low=1, high=60)
    boxes[0, :2] = [[9, 9, 9, 9], [300, 300, 320, 320]]

    @tf.function(input_signature=[specs, tf.TensorSpec(boxes.shape, name="boxes")])
    def function(features, boxes):
        with forms.use(Form.TFLITE):
            return {"pooled": layer(features, boxes)}

    concrete = function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], layer)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    features = draw_features(5, sizes=sizes)
    values = {**{f"p{k}": v for k, v in features.items()}, "boxes": boxes}
    for detail in interpreter.get_input_details():
        name = detail["name"].split(":")[0].replace("serving_default_", "")
        interpreter.set_tensor(detail["index"], values[name])
    interpreter.invoke()
    pooled = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(pooled, pool(layer, features, boxes), atol=1e-5)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="max_level"):
        roi_align.MultiLevelROIAlign(output_size=7, min_level=3, max_level=2)
    layer = roi_align.MultiLevelROIAlign(output_size=7, max_level=3, name="pooler")
    with pytest.raises(ValueError, match=r"pooler needs level\(s\) 3, got 2"):
        layer({"2": tf.zeros([1, 4, 4, 1])}, tf.zeros([1, 2, 4]))
