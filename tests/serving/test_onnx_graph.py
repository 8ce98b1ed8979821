"""What a loop does not change: read from around it, with the same result."""

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.ops import forms
from panoptic_tf.ops.sigmoid import sigmoid
from panoptic_tf.ops.sum_by_row import sum_by_row
from panoptic_tf.serving import onnx_graph

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
OPSETS = [onnx.helper.make_opsetid("", 17)]


def run(model, **given):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, given)


def loops_of(graph):
    """Every loop of a graph and of its bodies."""
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Loop":
                yield node, attribute.g
            yield from loops_of(attribute.g)


def value(name, dtype=None, shape=()):
    return onnx.helper.make_tensor_value_info(name, dtype or onnx.TensorProto.FLOAT, shape)


def node(kind, inputs, outputs, **attributes):
    return onnx.helper.make_node(kind, inputs.split(","), outputs.split(","), **attributes)


def body(name, states, nodes, results):
    """Of a loop that goes on: `c` in front of the names of its step and condition."""
    boolean, integer = onnx.TensorProto.BOOL, onnx.TensorProto.INT64
    return onnx.helper.make_graph(
        [*nodes, node("Identity", f"{name}_go", f"{name}_next")],
        name,
        [value(f"{name}_step", integer), value(f"{name}_go", boolean), *map(value, states)],
        [value(f"{name}_next", boolean), *map(value, results)],
    )


def two_loops():
    """total = 3 times (4 times + x, and + x); x goes through both loops, y through the outer."""
    inner = body("inner", ["t1", "x2"], [node("Add", "t1,x2", "t2")], ["t2", "x2"])
    outer = body(
        "outer",
        ["t0", "x1", "y1"],
        [
            node("Loop", "four,yes,t0,x1", "t3,x3", body=inner),
            node("Add", "t3,x3", "t4"),
        ],
        ["t4", "x1", "y1"],
    )
    graph = onnx.helper.make_graph(
        [
            node("Loop", "three,yes,zero,x,y", "sum,x4,y_out", body=outer),
            node("Mul", "sum,x4", "product"),
        ],
        "graph",
        [value("x"), value("y")],
        [value("product"), value("y_out")],
        [
            onnx.numpy_helper.from_array(np.array(number), name)
            for name, number in (
                ("three", 3),
                ("four", 4),
                ("yes", True),
                ("zero", np.array(0, np.float32)),
            )
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=OPSETS, ir_version=8)


def test_loops_in_loops():
    model = two_loops()
    given = {"x": np.array(2, np.float32), "y": np.array(7, np.float32)}
    # 3 (4 x + x) = 15 x, and 15 x * x = 60.
    assert run(model, **given) == [60, 7]
    onnx_graph.read_unchanged_from_outside(model.graph)
    assert run(model, **given) == [60, 7]
    (outer, of_outer), (inner, of_inner) = loops_of(model.graph)
    # y is a result of the graph, which must be a result of the loop.
    assert list(outer.input) == ["three", "yes", "zero", "y"]
    assert list(outer.output) == ["sum", "y_out"]
    assert [x.name for x in of_outer.output] == ["outer_next", "t4", "y1"]
    assert list(inner.input) == ["four", "yes", "t0"] and list(inner.output) == ["t3"]
    assert [x.name for x in of_inner.input] == ["inner_step", "inner_go", "t1"]


def test_a_state_that_two_results_return_stays():
    swap = body("swap", ["a", "b"], [], ["a", "a"])
    graph = onnx.helper.make_graph(
        [
            node("Loop", "n,yes,x,y", "p,q", body=swap),
            node("Sub", "p,q", "difference"),
        ],
        "graph",
        [value("x"), value("y")],
        [value("difference")],
        [
            onnx.numpy_helper.from_array(np.array(number), name)
            for name, number in (("n", 1), ("yes", True))
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    expected = model.SerializeToString()
    onnx_graph.read_unchanged_from_outside(model.graph)
    assert model.SerializeToString() == expected


def test_sums_in_blocks(monkeypatch):
    """Their loop, as tf2onnx writes it."""
    tf2onnx = pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    of_blocks = forms._tuned["blocks.values_at_once"]
    monkeypatch.setitem(of_blocks, forms.Form.ONNX, lambda: 50)
    signature = [tf.TensorSpec([None, 5, 7], name=name) for name in ("rows", "values")]

    @tf.function(autograph=False, input_signature=signature)
    def sums(rows, values):
        with forms.use(forms.Form.ONNX):
            return sum_by_row([None, values], rows, 6)

    model, _ = tf2onnx.convert.from_function(sums, input_signature=signature, opset=17)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 6, [2, 5, 7]).astype(np.float32)
    values = rng.uniform(size=[2, 5, 7]).astype(np.float32)
    onnx_graph.read_unchanged_from_outside(model.graph)
    ((_, of_loop),) = loops_of(model.graph)
    assert not {x.name for x in of_loop.input} & {x.name for x in of_loop.output}
    counts, totals = run(model, rows=rows, values=values)
    expected = [[v[r == k].sum() for k in range(6)] for v, r in zip(values, rows)]
    np.testing.assert_allclose(totals, expected, rtol=1e-6)
    np.testing.assert_array_equal(counts, [[(r == k).sum() for k in range(6)] for r in rows])


def test_small_probabilities():
    """Which of two is larger decides where a pixel belongs, however small they are."""
    tf2onnx = pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    signature = [tf.TensorSpec([None], name="logits")]

    @tf.function(autograph=False, input_signature=signature)
    def probabilities(logits):
        with forms.use(forms.Form.ONNX):
            return sigmoid(logits)

    model, _ = tf2onnx.convert.from_function(probabilities, input_signature=signature, opset=17)
    logits = np.linspace(-85.0, 30.0, 231, dtype=np.float32)
    (found,) = run(model, logits=logits)
    expected = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "size, target", [((5, 7), (9, 13)), ((65, 33), (129, 65)), ((4, 1), (8, 3))]
)
def test_scales_of_a_resize_give_its_size(size, target):
    name = "resized"
    scales = np.array([1, 1, target[0] / size[0], target[1] / size[1]], np.float32)
    one = np.array([1.5], np.float32)
    constants = [onnx.numpy_helper.from_array(x, n) for x, n in ((scales, "scales"), (one, "one"))]
    constants.append(onnx.numpy_helper.from_array(scales, "same"))
    nodes = [
        node("Resize", "x,,scales", name, mode="linear"),
        node("Resize", "x,,same", "resized_again", mode="linear"),
        node("Mul", "scales,one", "other"),
    ]
    inputs = [value("x", shape=[1, 1, *size])]
    shape = [1, 1, *target]
    results = [value(name, shape=shape), value("resized_again", shape=shape)]
    results.append(value("other", shape=[4]))
    graph = onnx.helper.make_graph(nodes, "graph", inputs, results, constants)
    onnx_graph.round_scales_up(graph)
    model = onnx.helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    x = np.random.default_rng(0).normal(size=[1, *size, 1]).astype(np.float32)
    assert {"scales", "one"} < {t.name for t in graph.initializer}
    assert "same" not in {t.name for t in graph.initializer}
    found, again, other = run(model, x=x.transpose(0, 3, 1, 2))
    expected = tf.image.resize(x, target).numpy().transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=5e-5)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(other, 1.5 * scales)  # whoever else reads them reads the same
    used = graph.node[0].input[2]
    (raised,) = (onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == used)
    products = raised.astype(np.float64)[2:] * size
    assert np.floor(products).tolist() == list(target)
