"""What of an ONNX file is refused at its door, and what is taken as it comes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bitladder.errors import UserError
from bitladder.network.model import build_network
from bitladder.quantize.prepare.prepare import prepare
from bitladder.tasks.onnx_model import OnnxModel, no_loss
from bitladder.tasks.task import Metric, Task

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def value(name: str, shape: list[Any] | None, kind: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, Any] | None = None, opset: int = 17, **how: Any
) -> str:
    """Write a graph from x, of 8 numbers a sample, to y, unless told otherwise; the file's path."""
    inputs, outputs = how.get("inputs", [value("x", ["n", 8])]), how.get("outputs", [value("y", None)])
    tensors = [numpy_helper.from_array(np.asarray(one), name) for name, one in (constants or {}).items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("acme", 1)]
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), path)
    return str(path)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        kind, inputs.split(), outputs.split(), name=attributes.pop("name", kind.lower()), **attributes
    )


def branch(kind: str) -> onnx.GraphProto:
    return helper.make_graph([node(kind, "x", f"{kind}_y")], kind, [], [value(f"{kind}_y", None)])


W = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)


def branching(folder: Path, condition: list[onnx.NodeProto], **constants: Any) -> str:
    """Write a graph that takes x's sigmoid where a condition holds, else its ReLU."""
    branches = {"then_branch": branch("Sigmoid"), "else_branch": branch("Relu")}
    return save(folder, [*condition, node("If", "c", "y", **branches)], constants)


def looping(folder: Path) -> str:
    body = helper.make_graph(
        [node("Identity", "go", "go_on"), node("Relu", "last", "next")],
        "body",
        [value("i", [], I64), value("go", [], TensorProto.BOOL), value("last", None)],
        [value("go_on", [], TensorProto.BOOL), value("next", None)],
    )
    return save(folder, [node("Loop", "count  x", "y", body=body)], {"count": np.int64(3)})


def sequence(folder: Path) -> str:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(F, ["n", 8]))
    return save(
        folder,
        [node("SequenceAt", "xs first", "y")],
        {"first": np.int64(0)},
        inputs=[helper.make_value_info("xs", kind)],
    )


PRODUCT = node("MatMul", "x w", "y")

RESHAPE = node("Reshape", "x sizes", "y")

WRONG = {
    "opset 25": (lambda f: save(f, [PRODUCT], {"w": W}, 25), r"is of opset 25; export it with an opset from 7 to 22"),
    "opset 6": (lambda f: save(f, [PRODUCT], {"w": W}, 6), r"is of opset 6; export it with an opset from 7 to 22"),
    "a custom domain": (
        lambda f: save(f, [node("Swirl", "x", "y", domain="acme", name="s")]),
        r"Swirl \(s\) is an operator of 'acme', which ONNX does not define; export the network without it, or cut",
    ),
    "an unknown op": (lambda f: save(f, [node("Swirl", "x", "y")]), r"ONNX Runtime does not take it: .*Swirl"),
    "a loop": (
        looping,
        r"Loop \(loop\) decides at run time what is computed, and the NPU takes a fixed graph; fix all",
    ),
    "a branch by values": (
        lambda f: branching(
            f, [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "c")], zero=np.float32(0)
        ),
        r"If \(if\) decides at run time what is computed",
    ),
    "text": (
        lambda f: save(f, [node("Identity", "x", "y")], inputs=[value("x", ["n"], TensorProto.STRING)]),
        r"'x' holds text; cut that part off, and give the network numbers in the task",
    ),
    "doubles": (
        lambda f: save(f, [PRODUCT], {"w": W.astype(np.float64)}, inputs=[value("x", ["n", 8], TensorProto.DOUBLE)]),
        r"'w' is DOUBLE; export it in float32",
    ),
    "a sequence": (sequence, r"'xs' is a sequence; the NPU takes tensors alone"),
    "no input": (lambda f: save(f, [node("Relu", "w", "y")], {"w": W}, inputs=[]), r"takes no input; is it the whole"),
    "an input that nothing makes": (
        lambda f: save(f, [node("Add", "x z", "y")]),
        r"ONNX Runtime does not take it: .*z",
    ),
    "shapes that do not fit": (
        lambda f: save(f, [PRODUCT], {"w": W[:4]}),
        r"ONNX Runtime does not take it: .*",
    ),
    "a batch that it counts on": (
        lambda f: save(f, [RESHAPE], {"sizes": np.array([2, 4, 4])}, inputs=[value("x", [4, 8])]),
        r"'x' is for batches of 4, which it counts on; the NPU takes one sample at a time, so export it for a batch of",
    ),
    "quantized": (
        lambda f: save(
            f, [node("DequantizeLinear", "q s", "w"), PRODUCT], {"q": W.astype(np.int8), "s": np.float32(1)}
        ),
        r"is quantized already \(DequantizeLinear\); give the float model that it was made from",
    ),
    "NaN": (lambda f: save(f, [PRODUCT], {"w": W * np.nan}), r"the model's weights 'w' hold NaN or infinity"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_gives_one_line(name, tmp_path):
    write, message = WRONG[name]
    task = Task(OnnxModel(write(tmp_path)), lambda seed: {}, no_loss, Metric("accuracy", lambda outputs, targets: 0.0))
    with pytest.raises(UserError, match=message) as error:
        build_network(task)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"shapes": {"image": [1, 8]}}, r"shapes: .*net\.onnx has no input 'image'; it takes \['x'\]"),
        ({"shapes": {"x": [1, 9]}}, r"shapes: 'x' of .* is \['n', 8\], and \[1, 9\] does not fit"),
        ({"shapes": {"x": [1, 8, 1]}}, r"\[1, 8, 1\] does not fit"),
        ({"shapes": {"x": [1, -8]}}, r"\[1, -8\] does not fit"),
        ({"outputs": ["scores"]}, r"outputs: .*net\.onnx makes no tensor 'scores'; near it are y"),
    ],
)
def test_a_wrong_option_gives_one_line(how, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        OnnxModel(save(tmp_path, [PRODUCT], {"w": W}), **how)()
    assert "\n" not in str(error.value)


def test_a_size_of_minus_one_is_a_free_one(tmp_path):
    path = save(tmp_path, [node("Relu", "x", "y")], inputs=[value("x", [-1, 3, -1])])
    assert OnnxModel(path, shapes={"x": [1, 3, 4]})()(torch.randn(2, 3, 4))["y"].shape == (2, 3, 4)


def test_free_sizes_are_refused_with_the_line_to_write(tmp_path):
    path = save(tmp_path, [node("Relu", "x", "y")], inputs=[value("x", ["n", 3, "h", "w"])])
    image = torch.randn(2, 3, 4, 6)
    with pytest.raises(UserError, match=r"leaves sizes of x free, .* write (OnnxModel\(.*\))$") as error:
        OnnxModel(path)().check_inputs({"x": image})
    line = str(error.value).partition("write ")[2]
    model = eval(line, {"OnnxModel": OnnxModel})()
    model.check_inputs({"x": image})
    assert model(image)["y"].shape == image.shape


def test_a_larger_batch_becomes_one_sample_where_nothing_counts_on_it(tmp_path):
    path = save(tmp_path, [PRODUCT], {"w": W}, inputs=[value("x", [4, 8])], outputs=[value("y", [4, 8])])
    model, x = OnnxModel(path)(), torch.randn(3, 8)
    model.check_inputs({"x": x})
    assert torch.allclose(model(x)["y"], x @ torch.from_numpy(W), atol=1e-5)


@pytest.mark.parametrize(("rank", "sigmoid"), [(2, True), (3, False)])
def test_a_branch_that_depends_on_a_shape_is_taken(rank, sigmoid, tmp_path):
    condition = [
        node("Shape", "x", "shape"), node("Shape", "shape", "rank_"), node("Squeeze", "rank_", "rank"),
        node("Equal", "rank wanted", "c"),
    ]  # fmt: skip
    model, x = OnnxModel(branching(tmp_path, condition, wanted=np.int64(rank)))(), torch.randn(3, 8)
    assert {one.op_type for one in model.proto.graph.node} == {"Sigmoid" if sigmoid else "Relu", "Identity"}
    assert torch.allclose(model(x)["y"], x.sigmoid() if sigmoid else x.relu(), atol=1e-6)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 22])
def test_every_opset_is_taken_and_raised_ones_are_said(opset, tmp_path):
    path = save(tmp_path, [node("MatMul", "x w", "m"), node("Relu", "m", "y")], {"w": W}, opset)
    x = torch.randn(4, 8)
    prepared, how = prepare(OnnxModel(path)(), (x[:1],))
    assert torch.allclose(prepared(x)["y"], (x @ torch.from_numpy(W)).relu(), atol=1e-5)
    assert (f"opset {opset} raised to 21 by onnx's version converter" in str(how)) is (opset < 21)


def test_what_is_constant_is_computed_once(tmp_path):
    """Weights that are turned in the graph are weights."""
    nodes = [node("Transpose", "w", "turned", perm=[1, 0]), node("MatMul", "x turned", "y")]
    prepared, _ = prepare(OnnxModel(save(tmp_path, nodes, {"w": W}))(), (torch.randn(1, 8),))
    assert [one.op_type for one in prepared.proto.graph.node] == ["MatMul"]
    x = torch.randn(4, 8)
    assert torch.allclose(prepared(x)["y"], x @ torch.from_numpy(W).T, atol=1e-5)


def detector(folder: Path) -> str:
    """Write a network whose boxes are decoded, chosen and counted in the graph, where no NPU can."""
    nodes = [
        PRODUCT, node("Sigmoid", "y", "scores"), node("Relu", "y", "boxes"), node("Mul", "boxes two", "decoded"),
        node("TopK", "scores k", "top where", name="best"), node("NonZero", "top", "found"),
    ]  # fmt: skip
    outputs = [value("top", None), value("where", None, I64), value("decoded", None)]
    return save(folder, nodes, {"w": W, "two": np.float32(2), "k": np.array([3])}, outputs=outputs)


def test_the_work_after_named_tensors_is_cut_off_and_done_by_the_tail(tmp_path):
    path, x = detector(tmp_path), torch.randn(5, 8)
    whole, model = OnnxModel(path), OnnxModel(path, outputs=["scores", "boxes"])
    network = model()
    assert network.outputs == ["scores", "boxes"] and "TopK" not in {one.op_type for one in network.proto.graph.node}
    tail = model.tail(network(x))
    for name, values in whole()(x).items():
        assert torch.equal(values, tail[name])


def test_a_tail_that_reads_more_names_it(tmp_path):
    model = OnnxModel(detector(tmp_path), outputs=["scores"])
    with pytest.raises(UserError, match=r"what .*net\.onnx does after them reads '(y|x|boxes)' too; name it with them"):
        model.tail(model()(torch.randn(1, 8)))


def test_one_output_goes_through_the_tail_as_a_tensor(tmp_path):
    path = save(
        tmp_path,
        [node("MatMul", "x w", "m"), node("ArgMax", "m", "y", axis=1)],
        {"w": W},
        outputs=[value("y", None, I64)],
    )
    model, x = OnnxModel(path, outputs=["m"]), torch.randn(4, 8)
    assert torch.equal(model.tail(model()(x)["m"]).flatten(), (x @ torch.from_numpy(W)).argmax(1))


@pytest.mark.parametrize("beside", [False, True])
def test_more_than_2_gib_is_refused_before_it_is_read(beside, tmp_path):
    """In one file, or with weights beside it: sparse files stand for them, so nothing of them may be read."""
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([product], "net", values[:1], values[1:], [weights])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=beside, location="net.data", size_threshold=0)
    os.truncate(tmp_path / "net.data" if beside else path, 2**31 + 2**29)
    with pytest.raises(UserError, match=r"net\.onnx: is 2\.5 GiB with its weights, and an ONNX graph can be of 2 GiB"):
        OnnxModel(str(path))()
