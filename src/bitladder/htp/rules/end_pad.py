"""Zeros behind the rows of an input image, as networks from TensorFlow have them ahead of a stride of 2."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto

from bitladder.htp.graph import Graph
from bitladder.htp.pads import join_pad, zeros_around
from bitladder.htp.quantizer import Quantizer
from bitladder.htp.rule import Example, Rule
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RULE"]

WIDTH = 3  # the axis

TILE = 32  # pixels; images whose width is a multiple of it come out right


def find(graph: Graph, soc: Soc) -> Iterator[NodeProto]:
    """Give the quantized ones of the network's inputs whose zero point is not 0."""
    for node in graph.of_type("Pad"):
        quantizer, shape = graph.find_quantizer(node.input[0]), graph.shape(node.input[0])
        if quantizer is None or not np.any(quantizer.zero_point) or graph.before(node.input[0]) is not None:
            continue
        if shape is None or len(shape) != WIDTH + 1 or shape[WIDTH] % TILE == 0 or not shape[1]:
            continue
        around = zeros_around(graph, node)
        if around is not None and not around[:, :2].any() and not around[0, WIDTH] and around[1, WIDTH]:
            yield node


def repair(graph: Graph, node: NodeProto, soc: Soc) -> None:
    """Let the convolution behind it pad by itself; put one that copies its input in its place where there is none."""
    around, (_, channels, *_) = zeros_around(graph, node), graph.shape(node.input[0]) or [0, 0]
    assert around is not None
    convs = [one for one in graph.after(node.output[0]) if one.op_type == "Conv"]
    if len(convs) == 1 and join_pad(graph, convs[0]):
        graph.drop_unread()
        return
    one = Quantizer(np.array(1.0), np.array(0), TensorProto.INT8)
    weights = graph.add_quantized(f"{node.name}_one", np.ones((channels, 1, 1, 1)), one, node)
    pads = around[:, 2:].flatten().tolist()
    graph.become(node, "Conv", [node.input[0], weights], group=channels, kernel_shape=[1, 1], pads=pads)


def example() -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """Build one ahead of a convolution of stride 2."""
    import torch
    from torch import nn

    layers = (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers), (torch.randn(16, 3, 24, 24),)


RULE = Rule(
    name="end-pad",
    effect="wrong",
    where="a Pad of a quantized input image by zeros behind its rows and none ahead, its width no multiple of 32",
    why="the NPU fills these columns with the integer 0, the least value there is, where the zero point is meant",
    remedy="the convolution behind it pads by itself; ahead of other ops, one that copies its input does",
    find=find,
    repair=repair,
    example=Example(example, ("W8A16", "W8A8", "W4A8")),
)
