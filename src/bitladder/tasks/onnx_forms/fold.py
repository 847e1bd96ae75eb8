"""What of a graph is constant once its sizes are known, computed: shapes, and the branches that depend on them."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from bitladder.tasks.onnx_forms.graph import constants_of, drop_unread

__all__ = ["CONTROL_FLOW", "fold_constants", "fold_control_flow"]

CONTROL_FLOW = {"If", "Loop", "Scan"}

DRAWN = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
}

MOST = 2**22
"""Values of a tensor that is kept as a constant."""


def fold_control_flow(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Compute what is constant, and put the branch that is taken in the place of each If, until nothing changes."""
    while True:
        proto = fold_constants(proto)
        if not _take_branches(proto):
            return proto


def fold_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Compute the nodes that read nothing but constants and known shapes, of a graph whose inputs' sizes are fixed."""
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    _write_shapes(proto)
    known = set(constants_of(proto))
    kept = {value.name for value in proto.graph.output}
    nodes = []
    for node in proto.graph.node:
        given = {name for name in node.input if name}
        simple = node.op_type not in CONTROL_FLOW | DRAWN | {"Constant"} and not kept.intersection(node.output)
        if simple and given and given <= known:
            known.update(node.output)
            nodes.append(node)
    values = _computed(proto, nodes)
    for node in nodes:
        if all(name in values for name in node.output if name):
            proto.graph.node.remove(node)
            proto.graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in node.output if name)
    if nodes:
        drop_unread(proto.graph)
    return proto


def _write_shapes(proto: onnx.ModelProto) -> None:
    """Make constants of shapes that are known."""
    graph = proto.graph
    values = {value.name: value for value in (*graph.input, *graph.value_info)}
    kept = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Shape" and node.output[0] not in kept]:
        value = values.get(node.input[0])
        if value is None or not value.type.tensor_type.HasField("shape"):
            continue
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim):
            given = {one.name: one.i for one in node.attribute}
            found = np.array(sizes[given.get("start", 0) : given.get("end", len(sizes))], np.int64)
            graph.initializer.append(numpy_helper.from_array(found, node.output[0]))
            graph.node.remove(node)


def _computed(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> dict[str, np.ndarray]:
    """Run nodes that need no input; without those that make more values than are worth keeping, or strings."""
    names = [name for node in nodes for name in node.output if name]
    if not names:
        return {}
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    given = [node for node in proto.graph.node if node.op_type == "Constant" and read.intersection(node.output)]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    graph = helper.make_graph([*given, *nodes], "constant", [], outputs, constants)
    part = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = dict(zip(names, session.run(names, {}), strict=True))
    except Exception:  # ONNX Runtime's kinds of error share no base; what it does not compute here stays in the graph
        return {}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, np.ndarray) and value.size <= MOST and value.dtype.kind != "O"
    }


def _take_branches(proto: onnx.ModelProto) -> bool:
    """Put the nodes of the branch that is taken in the place of each If whose condition is constant."""
    constants, done = constants_of(proto), False
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type == "If" and node.input[0] in constants:
            taken = "then_branch" if constants[node.input[0]].item() else "else_branch"
            (branch,) = (one.g for one in node.attribute if one.name == taken)
            proto.graph.initializer.extend(branch.initializer)
            nodes += [*branch.node, *_renamed(branch, node)]
            done = True
        else:
            nodes.append(node)
    if done:
        del proto.graph.node[:], proto.graph.value_info[:]
        proto.graph.node.extend(nodes)
        drop_unread(proto.graph)
    return done


def _renamed(branch: onnx.GraphProto, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for value, name in zip(branch.output, node.output, strict=True):
        yield helper.make_node("Identity", [value.name], [name], name=f"{name}.taken")
