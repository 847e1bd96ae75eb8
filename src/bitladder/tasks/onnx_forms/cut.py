"""A graph cut in two at named tensors: what the NPU computes, and the work after it that stays on the host."""

from collections.abc import Sequence
from difflib import get_close_matches

import onnx

from bitladder.errors import UserError
from bitladder.tasks.onnx_forms.graph import drop_unread

__all__ = ["cut", "tail_of"]


def cut(proto: onnx.ModelProto, outputs: Sequence[str], source: str) -> onnx.ModelProto:
    """Give the part of a graph that makes these tensors. Raise UserError where there is no such tensor."""
    known = _values(proto)
    made = [name for node in proto.graph.node for name in node.output if name]
    for name in outputs:
        if name not in made:
            near = ", ".join(get_close_matches(name, made, 3, 0.3)) or ", ".join(made[-3:])
            raise UserError(f"task: outputs: {source} makes no tensor {name!r}; near it are {near}")
    part = _with_ends(proto, list(proto.graph.input), [known[name] for name in outputs])
    read = {name for node in part.graph.node for name in node.input}
    for value in [value for value in part.graph.input if value.name not in read]:
        part.graph.input.remove(value)
    return part


def tail_of(proto: onnx.ModelProto, outputs: Sequence[str], source: str) -> onnx.ModelProto:
    """Give the part of a graph that makes its outputs out of these tensors.

    Raises UserError that names a tensor which it reads beside them.
    """
    known, constants = _values(proto), {tensor.name for tensor in proto.graph.initializer}
    part = _with_ends(proto, [known[name] for name in outputs], list(proto.graph.output), until=set(outputs))
    there = {*outputs, *constants, *(name for node in part.graph.node for name in node.output)}
    ends = [value.name for value in part.graph.output]
    for name in [*(name for node in part.graph.node for name in node.input if name), *ends]:
        if name not in there:
            raise UserError(f"task: outputs: what {source} does after them reads {name!r} too; name it with them")
    return part


def _values(proto: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Give each tensor's type by its name, where it is known."""
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    known = {value.name: value for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    made = (name for node in proto.graph.node for name in node.output)
    return {name: onnx.ValueInfoProto(name=name) for name in made} | known


def _with_ends(
    proto: onnx.ModelProto,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    until: set[str] | None = None,
) -> onnx.ModelProto:
    """Give a graph with other inputs and outputs, without the nodes that make `until` and what is then not read."""
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    for field, values in ((part.graph.input, inputs), (part.graph.output, outputs)):
        del field[:]
        field.extend(values)
    for node in [node for node in part.graph.node if (until or set()) & set(node.output)]:
        part.graph.node.remove(node)
    drop_unread(part.graph)
    return part
