"""A vector divided by its L2 norm, as embeddings are normalized."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

SMALL = 1e-3  # what the norm is at least may be at most this to be left out

THROUGH = {"Max", "Clip", "Expand", "QuantizeLinear", "DequantizeLinear"}


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the divisions of a tensor by its own L2 norm over one axis."""
    return (node for node in graph.of_type("Div") if _axis(graph, node) is not None)


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Put the LpNormalization op in its place, which is safe from overflow."""
    graph.become(node, "LpNormalization", [node.input[0]], axis=_axis(graph, node), p=2)


def _axis(graph: Graph, node: NodeProto) -> int | None:
    """Tell over which axis a division normalizes; None where it does something else."""
    norm = graph.maker(node.input[1])
    while norm is not None and norm.op_type in THROUGH:
        if norm.op_type in ("Max", "Clip"):
            least = [graph.find_constant(name) for name in norm.input[1:] if name]
            if len(least) != 1 or least[0] is None or least[0].size != 1 or abs(least[0].item()) > SMALL:
                return None
        norm = graph.maker(norm.input[0])
    if norm is None or norm.op_type != "ReduceL2" or norm.input[0] != node.input[0]:
        return None
    axes = graph.find_constant(norm.input[1]) if len(norm.input) > 1 else graph.attribute(norm, "axes")
    kept = graph.attribute(norm, "keepdims", 1)
    return int(axes[0]) if axes is not None and len(axes) == 1 and kept else None


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build an embedding of values near 300, which is normalized."""
    import torch
    from torch import Tensor, nn

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 4)
            self.first.weight.data *= 600

        def forward(self, tokens: Tensor) -> Tensor:
            return self.last(nn.functional.normalize(self.first(tokens), dim=-1))

    return Embedding(), (torch.randn(16, 12, 16),)


RULE = Rule(
    name="l2-norm",
    effect="wrong",
    where="a tensor divided by its L2 norm (normalize)",
    why="the sum of squares overflows FP16, in which the NPU computes ReduceL2 also of integers",
    remedy="the LpNormalization op in its place",
    find=find,
    repair=repair,
    example=Example(example, ("FP16", "W8A16", "W8A8", "W4A8"), writer="plain"),
)
