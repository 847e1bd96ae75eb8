"""Ops of one 8-bit input: the NPU looks its 256 integers up, and its table is what the op gives in float."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bitladder.htp.arithmetic.float_ops import float_node
from bitladder.htp.arithmetic.layer import Layer

__all__ = ["TABLES", "table"]

TABLES = frozenset(
    {
        "Abs", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Neg",
        "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh",
    }
)  # fmt: skip


def table(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    """Model an op that looks at one value at a time, at 8 bits."""
    if len(layer.tensors) != 1 or not layer.has_bits(8):
        return None
    quantizer = layer.tensors[0].quantizer
    assert quantizer is not None
    low, high = quantizer.levels
    steps = np.arange(low, high + 1) - int(quantizer.zero_point)
    values = torch.from_numpy(steps.astype(np.float32) * quantizer.scale.astype(np.float32))
    (found,) = float_node(layer.graph, layer.node, (layer.node.input[0],), whole=True)(values[None])
    # in float32, halves to even
    made = torch.round(found[0] / torch.tensor(layer.quantizer.step).float())
    looked_up = (made + int(layer.quantizer.zero_point)).clamp(*layer.levels)
    integers = torch.arange(low, high + 1).float()
    if torch.equal(looked_up, integers.clamp(*layer.levels)):
        ends = layer.levels
        return lambda inputs: inputs.clamp(*ends)
    return lambda inputs: looked_up[(inputs - low).long()]
