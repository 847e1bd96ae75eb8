"""A layer norm in parts whose variance is E[x^2] - E[x]^2, as JAX writes it, made one op.

The difference of two large numbers loses most of 8 bits, and its reciprocal root turns a step more or less into any
factor: whether such a graph is right when quantized is luck, and the NPU's is not the simulation's.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bitladder.tasks.onnx_forms.graph import Constants

__all__ = ["fuse_layer_norm"]

MOVES = ("Reshape", "Expand", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class _Mean:
    """The mean of a tensor over one axis; by which factor its sum is one, where that is said."""

    of: str
    axis: int
    factor: float | None = None


def fuse_layer_norm(graph: onnx.GraphProto, root: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
    """Make a LayerNormalization where a Sqrt is that of such a variance. The parts are left without a reader."""
    parts = _Parts(graph, constants)
    variance, epsilon = parts.with_constant(parts.maker(root.input[0]), "Add")
    if epsilon is None:
        return None
    clipped, _ = parts.with_constant(parts.maker(variance), "Max")
    squares, square = parts.operands(parts.maker(clipped or variance), "Sub")
    name = parts.squared(square)
    mean, other = parts.mean(name), parts.mean(squares)
    if mean is None or other is None or (other.axis, other.factor) != (mean.axis, mean.factor):
        return None
    if parts.squared(other.of) != parts.origin(mean.of):
        return None
    return _write(parts, root, mean, name, float(epsilon.item()))


def _write(
    parts: "_Parts", root: onnx.NodeProto, mean: _Mean, name: str, epsilon: float
) -> list[onnx.NodeProto] | None:
    """Follow the root through 1 / root * gamma * (x - mean) + beta, and put the op in the place of what comes out."""
    inverse = parts.reader(root)
    scale = parts.reader(inverse) if inverse is not None and inverse.op_type == "Reciprocal" else None
    _, gamma = parts.with_constant(scale, "Mul")
    normed = parts.reader(scale)
    end = parts.reader(normed)
    _, beta = parts.with_constant(end, "Add")
    centred = [parts.operands(parts.maker(one), "Sub") for one in parts.operands(normed, "Mul")]
    if end is None or (mean.of, name) not in [(one, parts.origin(other)) for one, other in centred]:
        return None
    shape = parts.shapes.get(mean.of)
    if not shape or gamma is None or (mean.factor is not None and not np.isclose(mean.factor, 1 / gamma.size)):
        return None
    axis, count = mean.axis % len(shape), gamma.size
    wide = tuple(count if place == axis else 1 for place in range(len(shape)))
    names = [f"{end.output[0]}.{kind}" for kind in ("gamma", "beta")]
    for one, values in zip(names, (gamma, beta), strict=True):
        if values is None or np.broadcast_shapes(values.shape, wide) != wide:
            return None
        spread = np.broadcast_to(values, wide).reshape(-1)
        parts.graph.initializer.append(numpy_helper.from_array(spread.copy(), one))
    output = end.output[0]
    end.output[0] = f"{output}.in_parts"
    last = len(shape) - 1
    turn = [last if place == axis else axis if place == last else place for place in range(len(shape))]
    turned, made = (mean.of, output) if axis == last else (f"{output}.turned", f"{output}.normed")
    norm = helper.make_node("LayerNormalization", [turned, *names], [made], f"{output}.norm", epsilon=epsilon)
    if axis == last:
        return [norm, root]
    before = helper.make_node("Transpose", [mean.of], [turned], f"{output}.turn", perm=turn)
    return [before, norm, helper.make_node("Transpose", [made], [output], f"{output}.turn_back", perm=turn), root]


class _Parts:
    """A graph as it is searched: through what only moves values."""

    def __init__(self, graph: onnx.GraphProto, constants: Constants) -> None:
        self.graph, self.constants = graph, constants
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {value.name for value in graph.output}
        self.shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.input)
        }

    def origin(self, name: str) -> str:
        """Give the tensor that this one is, moved."""
        while name in self.makers and self.makers[name].op_type in MOVES:
            name = self.makers[name].input[0]
        return name

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Find the node that makes a tensor."""
        return self.makers.get(self.origin(name))

    def reader(self, node: onnx.NodeProto | None) -> onnx.NodeProto | None:
        """Find the only node that reads what a node makes."""
        while node is not None:
            readers = self.readers[node.output[0]]
            node = readers[0] if len(readers) == 1 and node.output[0] not in self.outputs else None
            if node is not None and node.op_type not in MOVES:
                break
        return node

    def operands(self, node: onnx.NodeProto | None, kind: str) -> tuple[str, str]:
        """Give the two inputs of a node of a kind; nothing of another."""
        return (node.input[0], node.input[1]) if node is not None and node.op_type == kind else ("", "")

    def with_constant(self, node: onnx.NodeProto | None, kind: str) -> tuple[str, np.ndarray | None]:
        """Give what a node of a kind joins with a constant, and the constant."""
        first, second = self.operands(node, kind)
        for name, other in ((first, second), (second, first)):
            if other in self.constants:
                return name, self.constants[other]
        return "", None

    def squared(self, name: str) -> str:
        """Give the tensor of which this is the square; nothing where it is none."""
        node = self.maker(name)
        first, second = (self.origin(one) for one in self.operands(node, "Mul"))
        base, exponent = self.with_constant(node, "Pow")
        if exponent is not None and exponent.size == 1 and exponent.item() == 2:
            return self.origin(base)
        return first if first == second else ""

    def mean(self, name: str) -> _Mean | None:
        """Tell of what over which axis a tensor is the mean, or the sum times a factor."""
        node, factor = self.maker(name), None
        summed, constant = self.with_constant(node, "Mul")
        if constant is not None and constant.size == 1:
            node, factor = self.maker(summed), float(constant.item())
        if node is None or node.op_type != ("ReduceMean" if factor is None else "ReduceSum"):
            return None
        given = next((list(one.ints) for one in node.attribute if one.name == "axes"), None)
        axes = given or (self.constants.get(node.input[1]) if len(node.input) > 1 else None)
        return _Mean(node.input[0], int(axes[0]), factor) if axes is not None and len(axes) == 1 else None
