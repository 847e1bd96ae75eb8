"""What the rewriting of an ONNX graph shares: its opset, its constants, its nodes replaced one by one."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from bitladder.precision import OPSET

__all__ = ["Constants", "Rewrite", "constants_of", "drop_unread", "opset_of", "raise_opset", "replace_nodes"]

Constants = Mapping[str, np.ndarray]

Rewrite = Callable[[onnx.GraphProto, onnx.NodeProto, Constants], list[onnx.NodeProto] | None]
"""Gives the nodes that stand in a node's place; None leaves it as it is."""


def opset_of(proto: onnx.ModelProto) -> int:
    """Give the version of ONNX's own operators that a graph uses."""
    return next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def raise_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give a graph of at least opset 21, the first with 4 and 16 bits. Raise ValueError where it cannot be raised."""
    if opset_of(proto) >= OPSET:
        return proto
    try:
        return version_converter.convert_version(proto, OPSET)
    except Exception as error:  # the converter is C++, and raises RuntimeError and worse
        raise ValueError(" ".join(str(error).split())[:200]) from None


def constants_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Give the values of initializers and of Constant nodes by name."""
    found = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(tensor) for name, tensor in found.items()}


def replace_nodes(proto: onnx.ModelProto, kind: str, rewrite: Rewrite) -> bool:
    """Put what `rewrite` gives in the place of each node of a kind, and drop what was read for the old ones only.

    Returns: whether there was one.
    """
    nodes, constants, replaced = [], constants_of(proto), False
    for node in proto.graph.node:
        own = rewrite(proto.graph, node, constants) if node.op_type == kind else None
        replaced = replaced or own is not None
        nodes += own or [node]
    if replaced:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        drop_unread(proto.graph)
    return replaced


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that nothing reads any more."""
    read = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if read.intersection(node.output):
            read.update(_reads(node))
    for node in list(graph.node):
        if not read.intersection(node.output):
            graph.node.remove(node)
    for tensor in list(graph.initializer):
        if tensor.name not in read:
            graph.initializer.remove(tensor)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Give what a node reads, and what the branches of an If and the body of a Loop read."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        yield from (value.name for value in attribute.g.output)
