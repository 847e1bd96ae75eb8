"""Other spellings of the same thing become one, with equal outputs; what needs nothing stays as it is, byte by byte."""

import copy

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitladder.tasks.onnx_file import open_session
from bitladder.tasks.onnx_forms.normalize import normalize, separate_weights

RANDOM = np.random.default_rng(0)


def graph(nodes, shapes, constants=None, opset=17, ir_version=8, batch="n"):
    """Make a model of (kind, inputs, output, attributes); the inputs' first dimension is free."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *dims]) for name, dims in shapes.items()]
    last = nodes[-1][2]
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)]
    made = [
        helper.make_node(kind, list(given), [output], name=output, **attributes)
        for kind, given, output, attributes in nodes
    ]
    integer = {"axes", "wide"}
    tensors = [
        numpy_helper.from_array(np.atleast_1d(v).astype(np.int64) if k in integer else np.asarray(v, np.float32), k)
        for k, v in (constants or {}).items()
    ]
    made_graph = helper.make_graph(made, "net", inputs, outputs, tensors)
    return helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def check_equal(proto, shapes, rows=2):
    """Normalize a copy; give the kinds of its nodes. Its outputs must be the graph's own to float32's rounding."""
    made = normalize(copy.deepcopy(proto))
    feeds = {name: RANDOM.standard_normal((rows, *dims)).astype(np.float32) for name, dims in shapes.items()}
    (before,), (after,) = (open_session(one.SerializeToString()).run(None, feeds) for one in (proto, made))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    return [node.op_type for node in made.graph.node]


EINSUMS = [
    ("bchw,cd->bdhw", {"x": (8, 5, 4)}, (8, 6)),
    ("bqhd,bkhd->bhqk", {"x": (5, 2, 8), "y": (7, 2, 8)}, None),
    ("bhqk,bkhd->bqhd", {"x": (2, 5, 7), "y": (7, 2, 8)}, None),
    ("bte,ehd->bthd", {"x": (5, 8)}, (8, 2, 3)),
    ("bthd,hdo->bto", {"x": (5, 2, 3)}, (2, 3, 8)),
    ("bi,bi->bi", {"x": (6,), "y": (6,)}, None),
    ("bi,bi->b", {"x": (6,), "y": (6,)}, None),
    ("bi,bj->bij", {"x": (6,), "y": (4,)}, None),
    ("bi,j->bij", {"x": (6,)}, (4,)),
    ("bchw,c->bchw", {"x": (8, 3, 2)}, (8,)),
    ("bchw,c->bhw", {"x": (8, 3, 2)}, (8,)),
    ("bij->bji", {"x": (3, 4)}, None),
    ("bij->bi", {"x": (3, 4)}, None),
    ("...i,ij->...j", {"x": (3, 4)}, (4, 5)),
    ("b...i,ij->b...j", {"x": (2, 3, 4)}, (4, 5)),
    ("b i, i j", {"x": (4,)}, (4, 5)),
    ("bik,bkj,bjl->bil", {"x": (2, 3), "y": (3, 4), "z": (4, 5)}, None),
]


@pytest.mark.parametrize(("equation", "shapes", "weights"), EINSUMS, ids=[one[0] for one in EINSUMS])
def test_einsum_is_written_out(equation, shapes, weights):
    constants = {"w": RANDOM.standard_normal(weights)} if weights else {}
    given = [*shapes, *constants]
    proto = graph([("Einsum", given, "out", {"equation": equation})], shapes, constants)
    kinds = check_equal(proto, shapes)
    assert kinds and "Einsum" not in kinds


def test_an_einsum_by_a_constant_is_one_product_of_matrices():
    proto = graph([("Einsum", ["x", "w"], "out", {"equation": "bti,oi->bto"})], {"x": (5, 4)}, {"w": np.ones((3, 4))})
    made = normalize(proto)
    (product,) = [node for node in made.graph.node if node.op_type == "MatMul"]
    assert product.input[1] in {tensor.name for tensor in made.graph.initializer}
    assert "w" not in {tensor.name for tensor in made.graph.initializer}


def test_an_einsum_that_takes_a_diagonal_is_left():
    proto = graph([("Einsum", ["x"], "out", {"equation": "bii->bi"})], {"x": (4, 4)})
    assert check_equal(proto, {"x": (4, 4)}) == ["Einsum"]


HALVES = {
    "last": [("Mul", "xf", "p"), ("Mul", ["p", "half"], "out")],
    "first": [("Mul", ["x", "half"], "p"), ("Mul", "pf", "out")],
    "on the sum": [("Mul", ["half", "f"], "p"), ("Mul", "xp", "out")],
    "by division": [("Mul", "fx", "p"), ("Div", ["p", "two"], "out")],
}


@pytest.mark.parametrize("root", ["Div", "Mul"])
@pytest.mark.parametrize("half", HALVES)
def test_gelu_in_parts_becomes_gelu(root, half):
    constants = {"half": 0.5, "two": 2.0, "one": 1.0, "root": 2**0.5 if root == "Div" else 0.5**0.5}
    parts = [(kind, given, output, {}) for kind, given, output in HALVES[half]]
    nodes = [(root, ["x", "root"], "d", {}), ("Erf", "d", "e", {}), ("Add", ["one", "e"], "f", {}), *parts]
    assert check_equal(graph(nodes, {"x": (6,)}, constants, opset=13), {"x": (6,)}) == ["Gelu"]


@pytest.mark.parametrize("wrong", ["one", "root", "half", "read twice"])
def test_what_only_looks_like_gelu_is_left(wrong):
    constants = {"half": 0.5, "one": 1.0, "root": 2**0.5}
    nodes = [("Div", ["x", "root"], "d", {}), ("Erf", "d", "e", {}), ("Add", ["e", "one"], "f", {}),
             ("Mul", "xf", "p", {}), ("Mul", ["p", "half"], "out", {})]  # fmt: skip
    if wrong == "read twice":
        nodes.append(("Add", ["out", "f"], "more", {}))
    else:
        constants[wrong] = 3.0
    assert "Erf" in check_equal(graph(nodes, {"x": (6,)}, constants), {"x": (6,)})


def norm_as_jax_writes_it(axis, shape, wrong=None):
    """Give the nodes of (x - E[x]) / sqrt(E[x^2] - E[x]^2 + eps) * gamma + beta, as tf2onnx puts them."""
    wide = [-1, *(1 if place == axis else size for place, size in enumerate(shape, 1))]
    constants = {"axes": axis, "n": 1 / shape[axis - 1], "zero": 0, "e": 1e-3, "wide": wide}
    for name in ("gamma", "beta"):
        size = [size if place == axis else 1 for place, size in enumerate(shape, 1)]
        constants[name] = RANDOM.uniform(0.5, 2, [1, *size])
    nodes = [
        ("ReduceSum", ["x", "axes"], "sum", {"keepdims": 0}),
        ("Mul", ["sum", "n"], "mean", {}),
        ("Mul", ["x", "x"], "squares", {}),
        ("ReduceSum", ["squares" if wrong != "sums" else "x", "axes"], "sum_of_squares", {"keepdims": 0}),
        ("Mul", ["sum_of_squares", "n"], "mean_of_squares", {}),
        ("Mul", ["mean", "mean"], "square", {}),
        ("Sub", ["mean_of_squares", "square"], "difference", {}),
        ("Max", ["zero", "difference"], "variance", {}),
        ("Reshape", ["variance", "wide"], "wide_variance", {}),
        ("Add", ["wide_variance", "e"], "above_zero", {}),
        ("Sqrt", ["above_zero"], "deviation", {}),
        ("Reciprocal", ["deviation"], "inverse", {}),
        ("Mul", ["inverse", "gamma"], "factor", {}),
        ("Reshape", ["mean", "wide"], "wide_mean", {}),
        ("Sub", ["x", "wide_mean"] if wrong != "centre" else ["wide_mean", "x"], "centred", {}),
        ("Mul", ["centred", "factor"], "scaled", {}),
        ("Add", ["scaled", "beta"], "y", {}),
    ]
    return nodes, constants


@pytest.mark.parametrize(("axis", "shape"), [(1, (6, 4)), (2, (4, 6)), (1, (6,)), (1, (6, 6))])
def test_a_layer_norm_as_jax_writes_it_becomes_one_op(axis, shape):
    nodes, constants = norm_as_jax_writes_it(axis, shape)
    made = graph(nodes, {"x": shape}, constants)
    for dim in made.graph.input[0].type.tensor_type.shape.dim:  # tf2onnx knows no sizes, only how many there are
        dim.dim_param = f"unknown_{len(dim.dim_param)}"
    kinds = check_equal(made, {"x": shape})
    around = [] if axis == len(shape) else ["Transpose"]
    assert kinds == [*around, "LayerNormalization", *around]


def norm_in_parts(axis, shape, wrong=None):
    """Give the nodes of (x - E[x]) / sqrt(E[(x - E[x])^2] + eps) * gamma + beta, as exporters before opset 17 do."""
    around = [1] * (len(shape) - axis)
    constants = {"two": 3.0 if wrong == "power" else 2.0, "e": 1e-3}
    constants |= {name: RANDOM.uniform(0.5, 2, [shape[axis - 1], *around]) for name in ("gamma", "beta")}
    nodes = [
        ("ReduceMean", ["x"], "mean", {"axes": [axis]}),
        ("Sub", ["x", "mean"] if wrong != "centre" else ["mean", "x"], "centred", {}),
        ("Pow", ["centred", "two"], "squares", {}),
        ("ReduceMean", ["squares"], "variance", {"axes": [axis if wrong != "axis" else 1]}),
        ("Add", ["variance", "e"], "above_zero", {}),
        ("Sqrt", ["above_zero"], "deviation", {}),
        ("Div", ["centred" if wrong != "divided" else "x", "deviation"], "normed", {}),
        ("Mul", ["normed", "gamma"], "scaled", {}),
        ("Add", ["scaled", "beta"], "y", {}),
    ]
    return nodes, constants


@pytest.mark.parametrize(("axis", "shape"), [(2, (4, 6)), (1, (6, 4)), (1, (6,)), (3, (2, 4, 6))])
def test_a_layer_norm_in_parts_becomes_one_op(axis, shape):
    nodes, constants = norm_in_parts(axis, shape)
    kinds = check_equal(graph(nodes, {"x": shape}, constants, opset=12, ir_version=7), {"x": shape})
    around = [] if axis == len(shape) else ["Transpose"]
    assert kinds == [*around, "LayerNormalization", *around]


@pytest.mark.parametrize("wrong", ["power", "centre", "axis", "divided"])
def test_parts_of_another_norm_are_left(wrong):
    nodes, constants = norm_in_parts(2, (4, 4), wrong)
    made = graph(nodes, {"x": (4, 4)}, constants, opset=12, ir_version=7)
    assert normalize(copy.deepcopy(made)).SerializeToString() == made.SerializeToString()


@pytest.mark.parametrize("wrong", ["sums", "centre"])
def test_what_only_looks_like_a_layer_norm_is_left(wrong):
    nodes, constants = norm_as_jax_writes_it(1, (6, 4), wrong=wrong)
    made = graph(nodes, {"x": (6, 4)}, constants)
    assert normalize(copy.deepcopy(made)).SerializeToString() == made.SerializeToString()


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("computed", [False, True])
def test_a_gemm_loses_its_factors(computed, transposed):
    shapes = {"x": (4,)}
    constants = {"w": RANDOM.standard_normal((3, 4) if transposed else (4, 3)), "b": RANDOM.standard_normal(3)}
    nodes = [("Gemm", "xwb", "out", {"alpha": 0.5, "beta": 2.0, "transB": transposed})]
    if computed:  # its weight and bias are no constants
        nodes = [("Neg", "w", "v", {}), ("Neg", "b", "c", {}), (*nodes[0][:1], "xvc", *nodes[0][2:])]
    proto = graph(nodes, shapes, constants)
    assert check_equal(proto, shapes)[-1] == "Gemm"
    gemm = normalize(copy.deepcopy(proto)).graph.node[-1]
    assert {one.name for one in gemm.attribute} == {"transB"}


def test_a_gemm_of_a_transposed_input_gets_a_transpose():
    proto = graph([("Gemm", "xw", "out", {"transA": 1})], {"x": (4,)}, {"w": RANDOM.standard_normal((2, 3))}, batch=2)
    assert check_equal(proto, {"x": (4,)}) == ["Transpose", "Gemm"]


def test_initializers_are_no_inputs_and_an_old_opset_is_raised():
    constants = {"w": RANDOM.standard_normal((4, 3)), "b": RANDOM.standard_normal(3)}
    proto = graph([("Gemm", "xwb", "out", {})], {"x": (4,)}, constants, opset=7, ir_version=3)
    for name, values in constants.items():
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape))
    check_equal(proto, {"x": (4,)})
    assert [value.name for value in normalize(proto).graph.input] == ["x"]


def test_what_needs_nothing_stays_as_it_is():
    constants = {"w": RANDOM.standard_normal((4, 3)), "unread": 1.0}
    proto = graph([("Gemm", "xw", "g", {}), ("Relu", "g", "out", {})], {"x": (4,)}, constants)
    before = proto.SerializeToString()
    assert normalize(proto).SerializeToString() == before


def test_a_weight_that_a_norm_is_folded_into_is_the_layers_own():
    constants = {"w": RANDOM.standard_normal((3, 3, 1, 1)), **dict.fromkeys("gbmv", np.ones(3))}
    nodes = [("Conv", "xw", "c", {}), ("BatchNormalization", "cgbmv", "n", {}), ("Conv", "nw", "out", {})]
    proto = graph(nodes, {"x": (3, 4, 4)}, constants)
    separate_weights(proto)
    first, _, last = proto.graph.node
    assert first.input[1] != "w" and last.input[1] == "w"
    own = {tensor.name: tensor.raw_data for tensor in proto.graph.initializer}
    assert own[first.input[1]] == own["w"]


@pytest.mark.parametrize(("kind", "bound"), [("Max", -np.inf), ("Min", np.inf)])
def test_a_bound_that_bounds_nothing_is_taken_out(kind, bound):
    largest = ("ReduceMax", ["x"], "m", {"keepdims": 1})
    assert check_equal(graph([largest, (kind, ["b", "m"], "y", {})], {"x": (4,)}, {"b": bound}), {"x": (4,)}) == [
        "ReduceMax",
        "Identity",
    ]
    kept = check_equal(graph([(kind, ["x", "b", "z"], "y", {})], {"x": (4,)}, {"b": bound, "z": 0.2}), {"x": (4,)})
    assert kept == [kind]


@pytest.mark.parametrize(("kind", "bound"), [("Max", 0.1), ("Max", np.inf), ("Max", [-np.inf, 0.0, 0.0, 0.0])])
def test_a_bound_that_bounds_stays(kind, bound):
    assert check_equal(graph([(kind, ["x", "b"], "y", {})], {"x": (4,)}, {"b": bound}), {"x": (4,)}) == [kind]
