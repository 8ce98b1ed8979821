"""What every system must do; one row of `small_systems.ROWS` each."""

import io
import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, train_utils
from PIL import Image
from small_systems import (
    ROWS,
    SNAPSHOT_DIR,
    SNAPSHOTS,
    all_void,
    describe_variables,
    draw_sample,
    export_arguments,
    fit_images,
    get_params,
    get_task,
    make_batch,
    normalized,
    row_task,
    step_in_graph,
    without_instances,
)
from tensorflow.core.protobuf import saved_model_pb2

from panoptic_tf import systems as systems_lib
from panoptic_tf.datasets import coco_format, record, segments, shapes
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.inputs import geometry, normalize
from panoptic_tf.ops import forms
from panoptic_tf.serving.differences import differences
from panoptic_tf.structures import Prediction


def losses_and_gradients(task, model, batch):
    features, labels = batch
    with forms.use(task.form), tf.GradientTape() as tape:
        losses = task.build_loss()(labels, model(features, training=True))
    return losses, tape.gradient(losses[task.loss], model.trainable_variables)


def assert_learnable(task, model, batch, *, all_reached=True, but=()):
    """The loss is finite and made of its parts; gradients exist, are finite, some not zero."""
    losses, gradients = losses_and_gradients(task, model, batch)
    assert set(losses) == {task.loss, *task.loss_names()}
    assert all(np.isfinite(value) and value.shape == () for value in losses.values())
    np.testing.assert_allclose(
        losses[task.loss], sum(losses[name] for name in task.loss_names()), rtol=1e-5
    )
    names = [v.name for v in model.trainable_variables]
    missing = [name for name, g in zip(names, gradients) if g is None]
    assert not missing
    for name, gradient in zip(names, gradients):
        assert np.isfinite(gradient).all(), name
    if all_reached:
        assert {name for name, g in zip(names, gradients) if not np.any(g)} == set(but)
    return losses


def predict(model, features):
    inputs = {key: features[key] for key in ("image", "image_info")}
    return {key: value.numpy() for key, value in model(inputs, training=False).items()}


def assert_same_prediction(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if key == Prediction.SEGMENT_SCORE:
            np.testing.assert_allclose(value, b[key], atol=1e-4)
        else:
            np.testing.assert_array_equal(value, b[key], err_msg=key)


def test_every_system_has_its_row():
    systems = pathlib.Path(systems_lib.__file__).parent
    folders = {path.parent.name for path in systems.glob("*/task.py")}
    assert {row.system for row in ROWS} == folders
    tasks = (type(exp_factory.get_exp_config(name).task) for name in SNAPSHOTS)
    assert {task.__module__.split(".")[-2] for task in tasks} == folders


def test_a_gradient_for_every_variable(row, built):
    task, model = built
    batch = make_batch(task, [draw_sample(seed) for seed in range(3)])
    losses = assert_learnable(task, model, batch, but=row.without_gradient)
    assert all(value > 0 for value in losses.values())
    assert model.trainable_variables
    for key, value in predict(model, batch[0]).items():
        assert len(value) == 3, key


@pytest.mark.parametrize("alter", [without_instances, all_void])
def test_images_without_instances_or_annotation(row, built, alter):
    task, model = built
    alone = make_batch(task, [alter(draw_sample(0))])
    assert_learnable(task, model, alone, all_reached=False)
    beside = make_batch(task, [alter(draw_sample(0)), draw_sample(1)])
    assert_learnable(task, model, beside, but=row.without_gradient)


def test_all_void_costs_nothing(built):
    task, model = built
    batch = make_batch(task, [all_void(draw_sample(0))])
    losses, gradients = losses_and_gradients(task, model, batch)
    assert losses[task.loss] == 0.0
    assert not any(np.any(g) for g in gradients)


def test_a_batch_is_its_images(trained):
    task, model = trained
    features, _ = make_batch(task, [draw_sample(1), draw_sample(6)])
    # The second image is smaller than the frame.
    features["image_info"] = tf.stack([features["image_info"][0], smaller_info()])
    features["image"] *= normalize.valid_mask(features["image_info"], 64, 64)
    together = predict(model, features)
    assert together[Prediction.NUM_SEGMENTS].min() > 1
    for i in range(2):
        alone = predict(model, {key: value[i : i + 1] for key, value in features.items()})
        assert_same_prediction(alone, {key: value[i : i + 1] for key, value in together.items()})


def smaller_info():
    """Of an image of 40 x 56, which fills 46 x 64 pixels of the frame."""
    return geometry.fit_and_pad(tf.zeros([40, 56, 3]), (64, 64))[1]


@pytest.mark.slow
def test_every_form_predicts_the_same(trained):
    """The reference, what XLA makes of it, and the form for CPUs."""
    task, model = trained
    features, _ = make_batch(task, [draw_sample(seed) for seed in (2, 6)])
    features["image_info"] = tf.stack([features["image_info"][0], smaller_info()])
    features["image"] *= normalize.valid_mask(features["image_info"], 64, 64)
    inputs = {key: features[key] for key in ("image", "image_info")}

    def reference(inputs):
        with forms.use(forms.Form.ACCELERATOR):
            return model(inputs, training=False)

    def numbers(prediction):
        return {key: value.numpy() for key, value in prediction.items()}

    expected = numbers(reference(inputs))
    assert expected[Prediction.NUM_SEGMENTS].min() > 1
    with forms.use(forms.Form.CPU):
        assert_same_prediction(numbers(model(inputs, training=False)), expected)
    compiled = tf.function(reference, autograph=False, jit_compile=True)
    assert_same_prediction(numbers(compiled(inputs)), expected)


def test_the_graph_does_not_depend_on_the_machine(built, monkeypatch):
    _, model = built
    specs = {"image": tf.TensorSpec([None, 64, 64, 3]), "image_info": tf.TensorSpec([None, 4, 2])}

    def operators():
        def function(inputs):
            with forms.use(forms.Form.CPU):
                return model(inputs, training=False)

        graph = tf.function(function, autograph=False).get_concrete_function(specs).graph
        return [op.type for op in graph.get_operations()]

    expected = operators()
    gpu = tf.config.LogicalDevice("/device:GPU:0", "GPU")
    for name in ("list_logical_devices", "list_physical_devices"):
        monkeypatch.setattr(tf.config, name, lambda *_: [gpu])
    assert operators() == expected


def test_prediction_keys_shapes_and_dtypes(row, built):
    task, model = built
    outputs = model.inference_network.output
    assert set(Prediction.PANOPTIC_KEYS) <= set(outputs)
    height, width = task.task_config.model.output_size or task.task_config.model.input_size
    segments = outputs[Prediction.SEGMENT_CATEGORY].shape[1]
    expected = {
        Prediction.CATEGORY_MASK: ([height, width], tf.int32),
        Prediction.INSTANCE_MASK: ([height, width], tf.int32),
        Prediction.SEMANTIC_MASK: ([height, width], tf.int32),
        Prediction.SEGMENT_CATEGORY: ([segments], tf.int32),
        Prediction.SEGMENT_INSTANCE: ([segments], tf.int32),
        Prediction.SEGMENT_AREA: ([segments], tf.int32),
        Prediction.SEGMENT_SCORE: ([segments], tf.float32),
        Prediction.NUM_SEGMENTS: ([], tf.int32),
        Prediction.IMAGE_SIZE: ([2], tf.int32),
    }
    for key, value in outputs.items():
        shape, dtype = expected[key]
        assert value.shape.as_list() == [None, *shape] and value.dtype == dtype, key


def test_prediction_is_consistent(trained):
    task, model = trained
    features, _ = make_batch(task, [draw_sample(seed) for seed in (2, 3)])
    prediction = predict(model, features)
    things = set(task.dataset_info.thing_ids)
    for i in range(2):
        category, instance = (
            prediction[key][i] for key in (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK)
        )
        count = prediction[Prediction.NUM_SEGMENTS][i]
        rows = [
            prediction[key][i][:count].tolist()
            for key in (
                Prediction.SEGMENT_CATEGORY,
                Prediction.SEGMENT_INSTANCE,
                Prediction.SEGMENT_AREA,
                Prediction.SEGMENT_SCORE,
            )
        ]
        for c, number, area, score in zip(*rows):
            assert ((category == c) & (instance == number)).sum() == area > 0
            assert (number > 0) == (c in things)
            assert 0.0 <= score <= 1.0
        assert sum(rows[2]) == (category > 0).sum()


@pytest.mark.parametrize("kept", ["things", "stuff"])
def test_data_sets_of_only_things_or_only_stuff(row, tmp_path, kept):
    info = DatasetInfo.load("shapes")
    chosen = info.thing_ids if kept == "things" else info.stuff_ids
    categories = [c for c in info.to_coco() if c["id"] in chosen]
    path = str(tmp_path / "dataset_info.json")
    DatasetInfo.from_coco(categories, name=f"only_{kept}").save(path)
    task = row_task(row, {"dataset_info": path})
    assert len(task.dataset_info.thing_ids) == (len(chosen) if kept == "things" else 0)
    model = task.build_model()
    first = min(chosen)
    samples = []
    for seed in range(2):
        sample = draw_sample(seed)
        keep = (sample.instance_mask > 0) == (kept == "things")
        shifted = tf.where(keep & (sample.category_mask > 0), sample.category_mask - first + 1, 0)
        instances = sample.instance_mask if kept == "things" else 0 * sample.instance_mask
        samples.append(
            sample._replace(
                category_mask=shifted,
                instance_mask=instances,
                crowd_mask=sample.crowd_mask & (instances > 0),
            )
        )
    batch = make_batch(task, samples)
    assert_learnable(task, model, batch, all_reached=kept == "things", but=row.without_gradient)
    prediction = predict(model, batch[0])
    category = prediction[Prediction.CATEGORY_MASK]
    assert category.max() <= len(chosen)
    np.testing.assert_array_equal(
        prediction[Prediction.INSTANCE_MASK] > 0, (category > 0) & (kept == "things")
    )
    evaluator = task.build_evaluator()
    truth = {
        "category_mask": samples[0].category_mask.numpy(),
        "instance_mask": samples[0].instance_mask.numpy(),
        "crowd_mask": samples[0].crowd_mask.numpy(),
        "image_size": np.array([64, 64], np.int32),
        "image_id": b"0",
    }
    evaluator.update(truth, {key: value[0] for key, value in prediction.items()})
    result = evaluator.result()
    empty = "PQ_stuff" if kept == "things" else "PQ_things"
    assert result[empty] is None and result["PQ"] is not None


def test_mixed_precision(row):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        task = row_task(row)
        model = task.build_model()
        for key, value in model.training_network.output.items():
            assert value.dtype == tf.float32, key
        assert all(v.dtype == tf.float32 for v in model.weights)
        batch = make_batch(task, [draw_sample(seed) for seed in range(2)])
        assert_learnable(task, model, batch, but=row.without_gradient)
        prediction = predict(model, batch[0])
        assert prediction[Prediction.SEGMENT_SCORE].dtype == np.float32
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.slow
def test_xla_takes_the_same_steps(row):
    tf.keras.utils.set_random_seed(3)
    task = row_task(row, row.without_norm)
    task.xla = True
    model = task.build_model()
    optimizer = tf.keras.optimizers.legacy.Adam(1e-2)
    batch = make_batch(task, [draw_sample(seed) for seed in range(2)])
    compiled = step_in_graph(task, model, optimizer)

    def losses_of_steps(step, count):
        return [float(step(*batch)[task.loss]) for _ in range(count)]

    # Far from the start, where near-ties between proposals fall as rounding has it.
    losses_of_steps(compiled, 40)
    optimizer.learning_rate = 1e-3
    weights, slots = model.get_weights(), optimizer.get_weights()
    found = losses_of_steps(compiled, 3)
    model.set_weights(weights)
    optimizer.set_weights(slots)
    task.xla = False
    expected = losses_of_steps(lambda *batch: task.train_step(batch, model, optimizer), 3)
    assert expected[-1] != expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_checkpoint_round_trip(row, trained, tmp_path):
    task, model = trained
    features, _ = make_batch(task, [draw_sample(seed) for seed in (0, 7)])
    expected = predict(model, features)
    saved = tf.train.Checkpoint(model=model, **model.checkpoint_items).save(str(tmp_path / "ckpt"))
    fresh_task = row_task(row, {"init_checkpoint": saved, "init_checkpoint_modules": "all"})
    fresh = fresh_task.build_model()
    before = predict(fresh, features)
    assert (before[Prediction.CATEGORY_MASK] != expected[Prediction.CATEGORY_MASK]).any()
    # Names do not depend on what was built before.
    assert describe_variables(fresh) == describe_variables(model)
    fresh_task.initialize(fresh)
    assert_same_prediction(predict(fresh, features), expected)

    # Only the backbone, into another model; a folder stands for its last checkpoint.
    other_task = row_task(
        row, {"init_checkpoint": str(tmp_path), "init_checkpoint_modules": "backbone"}
    )
    for layer in (part for name, part in fresh.parts.items()):
        layer.set_weights([w * 0 for w in layer.get_weights()])
    other_task.initialize(fresh)
    for name, part in fresh.parts.items():
        same = [np.array_equal(a, b) for a, b in zip(part.weights, model.parts[name].weights)]
        assert all(same) == (name == "backbone")


def test_names_begin_with_that_of_the_part(built):
    _, model = built
    parts = set(model.parts)
    assert "backbone" in parts
    assert {name.split("/")[0] for name in describe_variables(model)} == parts


@pytest.mark.parametrize("experiment", sorted(SNAPSHOTS))
def test_variables_are_those_of_the_snapshot(experiment):
    model = get_task(get_params(experiment, SNAPSHOTS[experiment])).build_model()
    described = describe_variables(model)
    path = SNAPSHOT_DIR / f"{experiment}.json"
    if not path.exists():  # A new snapshot is looked at and committed; see the failure.
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(described.items())]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        pytest.fail(f"{path} did not exist and was written; look at it and run again")
    expected = json.loads(path.read_text())
    assert sorted(described) == sorted(expected), "names are an interface: checkpoints use them"
    assert described == expected
    # So are the numbers of layers, which checkpoints go by.
    layers = json.loads((SNAPSHOT_DIR / "layers.json").read_text())[experiment]
    for network, numbers in layers.items():
        found = enumerate(getattr(model, network).layers)
        assert {layer.name: i for i, layer in found if layer.weights} == numbers


class _Step:
    """One train step with SGD at rate 1: what leaves the variables is the gradient."""

    def __init__(self, strategy, row, weights, batches):
        with strategy.scope():
            self.task = row_task(row, row.without_norm)
            self.task.form = forms.Form.ACCELERATOR
            model = self.task.build_model()
            optimizer = tf.keras.optimizers.legacy.SGD(1.0)
            # Created here, as the trainer does, not inside the step.
            optimizer._create_all_weights(model.trainable_variables)
        if weights is not None:
            model.set_weights(weights)
        self.weights = model.get_weights()
        batches = [make_batch(self.task, samples) for samples in batches]

        def value(context):
            return batches[context.replica_id_in_sync_group]

        distributed = strategy.experimental_distribute_values_from_function(value)

        def step(inputs):
            return strategy.run(self.task.train_step, args=(inputs, model, optimizer))

        if len(batches) > 1:  # One replica is done sooner than it is traced.
            step = tf.function(step, autograph=False)
        outputs = step(distributed)
        self.loss = float(strategy.reduce("MEAN", outputs[self.task.loss], axis=None))
        self.gradients = [a - b for a, b in zip(self.weights, model.get_weights())]
        self.names = [v.name for v in model.weights]


@pytest.mark.slow
def test_two_replicas_are_one_device(row, mirrored):
    # The first replica sees next to no instance, the second many.
    few = [without_instances(draw_sample(0)), all_void(draw_sample(1))]
    many = [draw_sample(2), draw_sample(3)]
    one = _Step(tf.distribute.OneDeviceStrategy("CPU:0"), row, None, [few + many])
    two = _Step(mirrored, row, one.weights, [few, many])
    np.testing.assert_allclose(two.loss, one.loss, rtol=1e-5)
    assert max(np.abs(g).max() for g in one.gradients) > 1e-2
    for name, a, b in zip(one.names, one.gradients, two.gradients):
        np.testing.assert_allclose(
            b, a, rtol=1e-5, atol=1e-5 * np.abs(a).max() + 1e-6, err_msg=name
        )


def encode_png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_shapes_records(folder, sizes):
    """Images 0, 1, ... of shapes, each of a size of its own, as records `val-*`."""
    contiguous = DatasetInfo.load("shapes").contiguous_ids()
    with tf.io.TFRecordWriter(str(folder / "val-00000-of-00001.tfrecord")) as writer:
        for number, size in enumerate(sizes):
            drawn = shapes.generate_image(5, number, size)
            table = [
                coco_format.Segment(s["id"], s["category_id"], bool(s["iscrowd"]))
                for s in drawn.segments
            ]
            rows, _ = segments.ids_to_rows(drawn.id_map, [s.id for s in table])
            writer.write(
                record.encode_example(
                    image_bytes=encode_png(drawn.image),
                    image_id=number,
                    file_name=f"{number}.png",
                    rows=rows,
                    segment_table=table,
                    contiguous_ids=contiguous,
                )
            )


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS[:1], indirect=True, ids=lambda row: row.system)
def test_evaluation_over_two_replicas_sees_every_image_once(row, trained, mirrored, tmp_path):
    """Of one system: the trainer knows none of them."""
    # Three images for replicas that take one each: the last step leaves one without an image.
    write_shapes_records(tmp_path, sizes=[64, 48, 80])
    data = {"input_path": str(tmp_path / "val-*"), "global_batch_size": 2}
    params = get_params(row.experiment, row.overrides, {"validation_data": data})
    params.trainer.optimizer_config.ema = None  # its weights would be evaluated, not those set
    results, seen = [], []
    for strategy in (
        tf.distribute.OneDeviceStrategy("CPU:0"),
        mirrored,
    ):
        task, names = get_task(params), []
        task.image_listeners.append(lambda truth, *_, n=names: n.append(int(truth["image_id"])))
        with strategy.scope():
            trainer = train_utils.create_trainer(params, task, train=False, evaluate=True)
            trainer.model.set_weights(trained[1].get_weights())
            trainer.evaluate(tf.constant(-1))
        results.append(task.last_result)
        seen.append(sorted(names))
    assert seen == [[0, 1, 2], [0, 1, 2]]
    one, two = ({k: v for k, v in r.items() if not isinstance(v, list)} for r in results)
    assert one["PQ"] > 0 and one == pytest.approx(two)


def images_of_several_sizes():
    """The network's size, a part of that size, and one larger than the output."""
    whole = shapes.generate_image(5, 0, 64).image
    return [whole, shapes.generate_image(5, 1, 64).image[:40, :56], whole.repeat(2, 0).repeat(2, 1)]


def predict_image(task, model, image):
    padded, info = fit_images(task, [image])
    return padded[0], info[0], predict(model, normalized(task, padded, info))


@pytest.fixture(scope="module")
def saved_model(trained, tmp_path_factory):
    """Folder of the SavedModel, and that loaded."""
    from panoptic_tf.serving.export import export_saved_model

    task, model = trained
    folder = export_saved_model(
        model.inference_network,
        export_dir=str(tmp_path_factory.mktemp("saved_model")),
        **export_arguments(task),
    )
    return folder, tf.saved_model.load(folder)


@pytest.mark.slow
def test_saved_model_equals_python(trained, saved_model):
    task, model = trained
    served = saved_model[1].signatures["serving_default"]
    images = images_of_several_sizes()
    answer = served(image_bytes=tf.constant([encode_png(image) for image in images]))
    answer = {key: value.numpy() for key, value in answer.items()}
    assert answer["valid"].all()
    for i, image in enumerate(images):
        _, _, expected = predict_image(task, model, tf.constant(image))
        ours = {key: answer[key][i : i + 1] for key in expected}
        assert_same_prediction(ours, expected)
        assert expected[Prediction.NUM_SEGMENTS][0] > 1


@pytest.mark.slow
def test_the_graph_of_the_saved_model_needs_no_python(saved_model):
    content = pathlib.Path(saved_model[0], "saved_model.pb").read_bytes()
    (meta_graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    graph = meta_graph.graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    operators = {node.op for node in nodes}
    assert {"DecodeImage", "Conv2D"} <= operators
    assert not operators & {"PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunc"}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS[:1], indirect=True, ids=lambda row: row.system)
def test_c_program_equals_python(row, c_program, saved_model, tmp_path):
    """A photograph that fits, as JPEG, and one that is larger than the output.

    Of one system: the program knows none of them.
    """
    folder, loaded = saved_model
    drawn = shapes.generate_image(5, 0, 64).image
    part, large = tmp_path / "part.jpg", tmp_path / "large.png"
    Image.fromarray(drawn[:40, :56]).save(part, quality=90)
    Image.fromarray(drawn.repeat(3, 0).repeat(2, 1)).save(large)
    for path in (part, large):
        found = loaded.signatures["image_bytes"](image_bytes=tf.constant([path.read_bytes()]))
        expected = {key: value[0].numpy() for key, value in found.items()}
        ended = c_program.run(folder, path, tmp_path / f"{path.stem}_")
        assert ended.returncode == 0, ended.stderr
        height, width = expected["image_size"]
        for name in ("category", "instance"):
            mask = np.asarray(Image.open(tmp_path / f"{path.stem}_{name}.pgm"))
            np.testing.assert_array_equal(mask, expected[f"{name}_mask"][:height, :width])
        count = expected["num_segments"]
        assert count >= 1
        rows = [line.split() for line in ended.stdout.splitlines()[1:]]
        keys = ("segment_category", "segment_instance", "segment_score", "segment_area")
        np.testing.assert_allclose(
            np.array(rows, np.float64),
            np.stack([expected[key][:count] for key in keys], axis=1),
            atol=6e-5,
        )


def test_the_layers_that_int8_leaves_are_there(built):
    task, model = built
    names = [variable.name for variable in model.inference_network.trainable_variables]
    for layer in task.float_layers():
        is_there = any(re.search(f"{layer}(/conv)?/(kernel|bias)", name) for name in names)
        assert is_there or layer == "offset", layer  # A deformable convolution is an option.


@pytest.mark.slow
def test_tflite_equals_python(trained, tmp_path):
    from panoptic_tf.serving import tflite_graph
    from panoptic_tf.serving.tflite import TFLiteRunner, export_tflite

    task, model = trained
    path = export_tflite(
        model.inference_network, tflite_path=str(tmp_path / "m.tflite"), **export_arguments(task)
    )
    with open(path, "rb") as file:
        graphs = tflite_graph.read_operators(file.read())
    # Of a scatter into repeated indices other runtimes keep one value; the look-up they lack.
    refused = re.compile("SCATTER|SEGMENT_SUM|EMBEDDING_LOOKUP")
    assert not [operator for graph in graphs for operator in graph if refused.search(operator.kind)]
    run = TFLiteRunner(path)
    for image in images_of_several_sizes():
        padded, info, expected = predict_image(task, model, tf.constant(image))
        ours = run(padded.numpy(), info.numpy())
        for key in (Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK):
            assert (ours[key] == expected[key]).mean() >= 0.999, key
        np.testing.assert_array_equal(ours[Prediction.IMAGE_SIZE], expected[Prediction.IMAGE_SIZE])


@pytest.fixture(scope="module")
def onnx_file(trained, tmp_path_factory):
    """Path, three images with their info, and what Python predicts of them in one batch."""
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    from panoptic_tf.serving import onnx_export

    task, model = trained
    path = onnx_export.export_onnx(
        model.inference_network,
        onnx_path=str(tmp_path_factory.mktemp("onnx") / "m.onnx"),
        **export_arguments(task),
    )
    images, image_info = fit_images(task, images_of_several_sizes())
    expected = predict(model, normalized(task, images, image_info))
    assert expected[Prediction.NUM_SEGMENTS].min() > 1
    return path, images.numpy(), image_info.numpy(), expected


def assert_runs_alike(run, images, image_info, expected):
    """In batches of one and of three."""
    assert list(differences(run(images, image_info), expected)) == []
    for i in range(len(images)):
        alone = {key: value[i : i + 1] for key, value in expected.items()}
        assert list(differences(run(images[i : i + 1], image_info[i : i + 1]), alone)) == []


@pytest.mark.slow
def test_onnx_equals_python(onnx_file):
    """`export_onnx` has compared two drawn images before."""
    from panoptic_tf.serving.onnx_runner import OnnxRunner

    path, *arrays = onnx_file
    assert_runs_alike(OnnxRunner(path).predict_batch, *arrays)


@pytest.mark.slow
def test_openvino_equals_python(onnx_file):
    openvino = pytest.importorskip("openvino", reason="needs the package openvino")
    path, *arrays = onnx_file
    # Processors with bfloat16 would take it unasked.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images, image_info):
        found = model({"image": images, "image_info": image_info})
        return {output.any_name: np.array(found[output]) for output in model.outputs}

    assert_runs_alike(run, *arrays)
