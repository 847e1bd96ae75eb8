"""A node with weights as torch's module of the same arithmetic, and its tensors back."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

__all__ = ["Layer", "layer_of"]

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """What a node is in torch: `build` makes the module; `turned`, where ONNX has the weight's transpose.

    `pads` is what has to be padded before it, where that is not the same on both sides, in torch's order.
    """

    weight: str
    bias: str | None
    build: Callable[[], Any]
    range_shape: tuple[int, ...]
    turned: bool = False
    pads: tuple[int, ...] = ()

    def module(self, tensors: Tensors) -> nn.Module:
        """Make the module with these values."""
        module = self.build()
        weight = tensors[self.weight]
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy((weight.T if self.turned else weight).copy()))
            if self.bias:
                module.bias.copy_(torch.from_numpy(tensors[self.bias].reshape(-1).copy()))
        return module.eval()

    def values(self, module: Any) -> dict[str, np.ndarray]:
        """Give a module's tensors as ONNX has them."""
        weight = module.weight.detach().numpy()
        found = {self.weight: np.ascontiguousarray(weight.T if self.turned else weight)}
        return found | ({self.bias: module.bias.detach().numpy()} if self.bias else {})


def layer_of(node: onnx.NodeProto, source: Callable[[str], str], tensors: Tensors) -> Layer | None:
    """Say what a node is in torch; None of one without constant weights, or that torch has no module for.

    Args:
        node: of any kind.
        source: gives a tensor's name before its quantizer.
        tensors: the constants.

    """
    make = KINDS.get(node.op_type)
    names = [source(name) for name in node.input if name]
    if make is None or names[0] in tensors or any(name not in tensors for name in names[1:]):
        return None
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    bias = names[2] if len(names) > 2 else None
    return make(names[1], bias, tensors, given)


def _conv(weight: str, bias: str | None, tensors: Tensors, given: dict[str, Any]) -> Layer | None:
    shape = tensors[weight].shape
    kinds: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d}
    axes = len(shape) - 2
    if len(shape) not in kinds or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    groups, pads = given.get("group", 1), list(given.get("pads", [0] * 2 * axes))
    even = pads[:axes] == pads[axes:]
    # torch pads the last axis first, and each axis before and after
    before = () if even else tuple(pads[axis + end] for axis in reversed(range(axes)) for end in (0, axes))
    return Layer(
        weight,
        bias,
        lambda: kinds[len(shape)](
            shape[1] * groups,
            shape[0],
            shape[2:],
            stride=tuple(given.get("strides", [1] * axes)),
            padding=tuple(pads[:axes]) if even else 0,
            dilation=tuple(given.get("dilations", [1] * axes)),
            groups=groups,
            bias=bias is not None,
        ),
        (shape[0], *[1] * (len(shape) - 1)),
        pads=before,
    )


def _conv_transpose(weight: str, bias: str | None, tensors: Tensors, given: dict[str, Any]) -> Layer | None:
    shape, pads = tensors[weight].shape, list(given.get("pads", [0] * 4))
    known = given.get("auto_pad", b"NOTSET") == b"NOTSET" and "output_shape" not in given
    if len(shape) != 4 or not known or pads[:2] != pads[2:]:
        return None
    groups = given.get("group", 1)
    return Layer(
        weight,
        bias,
        lambda: nn.ConvTranspose2d(
            shape[0],
            shape[1] * groups,
            shape[2:],
            stride=tuple(given.get("strides", [1, 1])),
            padding=tuple(pads[:2]),
            output_padding=tuple(given.get("output_padding", [0, 0])),
            groups=groups,
            bias=bias is not None,
            dilation=tuple(given.get("dilations", [1, 1])),
        ),
        (1, shape[1], 1, 1),
    )


def _linear(weight: str, bias: str | None, tensors: Tensors, given: dict[str, Any]) -> Layer | None:
    shape = tensors[weight].shape
    if len(shape) != 2 or given.get("transA", 0) or {given.get("alpha", 1.0), given.get("beta", 1.0)} != {1.0}:
        return None
    turned = not given.get("transB", 0)
    outputs, inputs = shape[::-1] if turned else shape
    if bias and math.prod(tensors[bias].shape) != outputs:
        return None
    return Layer(weight, bias, lambda: nn.Linear(inputs, outputs, bias is not None), (outputs, 1), turned)


KINDS: dict[str, Callable[..., Layer | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _linear,
    "MatMul": _linear,
}
