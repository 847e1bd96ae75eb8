"""Resizing by a factor that is not the ratio of the two sizes: 16 pixels by 1.3 make 20, 1.25 times as many."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

KNOWN = {
    ("linear", "half_pixel"),
    ("linear", "pytorch_half_pixel"),
    ("linear", "asymmetric"),
    ("nearest", "asymmetric"),
}
"""Modes that can be said as a product, with the way in which coordinates are counted."""


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the resizings of images whose factors are written down, and are not the ratios of the sizes."""
    for node in graph.of_type("Resize"):
        factors = graph.find_constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        sides, out = (graph.shape(name) for name in (node.input[0], node.output[0]))
        if factors is None or len(factors) != 4 or not sides or not out or not all(sides) or not all(out):
            continue
        plain = not graph.attribute(node, "antialias", 0) and np.array_equal(factors[:2], [1, 1])
        if plain and _kind(graph, node) in KNOWN and not np.allclose(factors[2:], np.divide(out[2:], sides[2:])):
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Multiply by the matrix of weights along each side."""
    factors, name = graph.constant(node.input[2]), node.name
    (_, _, height, width), (_, _, rows, columns) = (
        graph.shape(one) or [0] * 4 for one in (node.input[0], node.output[0])
    )
    kind, quantizer = _kind(graph, node), graph.find_quantizer(node.input[0])
    like, axes = graph.dtype(node.input[0]), [0, 1, 3, 2]

    def put(op: str, inputs: list[str], **attributes: list[int]) -> str:
        made = graph.add_node(op, inputs, f"{name}_{op.lower()}", node, **attributes)
        return made if quantizer is None else graph.add_quantizer(made, quantizer, node)

    def weights(side: int, count: int, factor: float) -> str:
        values = _weights(side, count, factor, *kind)
        if quantizer is None:
            return graph.add_constant(f"{name}_weights", values.astype(like))
        own = Quantizer(np.array(1 / 127), np.array(0), TensorProto.INT8)
        return graph.add_quantized(f"{name}_weights", values, own, node)

    across = put("MatMul", [node.input[0], weights(width, columns, factors[3])])
    turned = put("Transpose", [across], perm=axes)
    graph.become(node, "Transpose", [put("MatMul", [turned, weights(height, rows, factors[2])])], perm=axes)


def _kind(graph: Graph, node: NodeProto) -> tuple[str, str]:
    mode = graph.attribute(node, "mode", b"nearest").decode()
    rounding = graph.attribute(node, "nearest_mode", b"round_prefer_floor").decode()
    if mode == "nearest" and rounding != "floor":
        return mode, rounding
    return mode, graph.attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()


def _weights(side: int, count: int, factor: float, mode: str, coordinates: str) -> np.ndarray:
    """Give how much of each pixel of a side is in each new one."""
    places = np.arange(count) / factor if coordinates == "asymmetric" else (np.arange(count) + 0.5) / factor - 0.5
    places = np.clip(places, 0, side - 1)
    low = np.floor(places).astype(int)
    part = places - low if mode == "linear" else np.zeros(count)
    found = np.zeros((side, count))
    np.add.at(found, (low, np.arange(count)), 1 - part)
    np.add.at(found, (np.minimum(low + 1, side - 1), np.arange(count)), part)
    return found


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build an enlargement by 1.3 between two convolutions."""
    import torch
    from torch import nn

    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.Upsample(scale_factor=1.3, mode="bilinear"), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers), (torch.randn(16, 3, 16, 16),)


RULE = Rule(
    name="resize",
    effect="wrong",
    where="a resizing by a factor that is not the ratio of the two sizes (scale_factor=1.3)",
    why="the NPU resizes by the ratio of the sizes",
    remedy="a product with the matrix of weights along each side (cheaper: the model is given the size)",
    find=find,
    repair=repair,
    example=Example(example, ("FP16", "W8A16", "W8A8", "W4A8")),
)
