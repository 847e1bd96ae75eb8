"""A graph as a rewriting searches it: through what only moves values."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx

from bitladder.tasks.onnx_forms.graph import Constants

__all__ = ["Mean", "Parts"]

MOVES = ("Reshape", "Expand", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Mean:
    """The mean of a tensor over one axis; by which factor its sum is one, where that is said."""

    of: str
    axis: int
    factor: float | None = None


class Parts:
    """Makers, readers and constants of a graph, by name."""

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

    def mean(self, name: str) -> Mean | None:
        """Tell of what over which axis a tensor is the mean, or the sum times a factor."""
        node, factor = self.maker(name), None
        summed, constant = self.with_constant(node, "Mul")
        if constant is not None and constant.size == 1:
            node, factor = self.maker(summed), float(constant.item())
        if node is None or node.op_type != ("ReduceMean" if factor is None else "ReduceSum"):
            return None
        given = next((list(one.ints) for one in node.attribute if one.name == "axes"), None)
        axes = given or (self.constants.get(node.input[1]) if len(node.input) > 1 else None)
        return Mean(node.input[0], int(axes[0]), factor) if axes is not None and len(axes) == 1 else None
