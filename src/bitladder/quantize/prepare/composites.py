"""Layers that ONNX writes as several ops, in parts: AIMET would quantize only what comes out of the last."""

from collections.abc import Callable
from typing import Any

import torch
from aimet_torch.nn.modules import custom
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AS_CALLS", "IN_PARTS", "GroupNorm"]


class Call(nn.Module):
    """A layer as a call, which `formulas.py` then writes out."""

    def __init__(self, function: Callable, *settings: Any) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, values: Tensor) -> Any:
        """Call the function."""
        return self.function(values, *self.settings)


class RMSNorm(nn.Module):
    """An nn.RMSNorm as a call."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.shape, self.eps, self.weight = norm.normalized_shape, norm.eps, norm.weight

    def forward(self, values: Tensor) -> Tensor:
        """Norm."""
        return functional.rms_norm(values, self.shape, self.weight, self.eps)


class GroupNorm(nn.Module):
    """An nn.GroupNorm: each group normed as if it were one channel, then each channel scaled."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(norm.num_groups, norm.eps)
        self.channels, self.affine = norm.num_channels, norm.affine
        if norm.affine:
            self.mul, self.add = custom.Multiply(), custom.Add()
            bias = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
            self.weight, self.bias = (nn.Parameter(one.detach().view(-1, 1)) for one in (norm.weight, bias))

    def forward(self, values: Tensor) -> Tensor:
        """Norm."""
        normed = self.norm(torch.reshape(values, (values.shape[0], self.norm.num_features, -1)))
        if self.affine:
            channels = torch.reshape(normed, (values.shape[0], self.channels, -1))
            normed = self.add(self.mul(channels, self.weight), self.bias)
        return torch.reshape(normed, values.shape)


Make = Callable[[Any], nn.Module]

IN_PARTS: dict[type[nn.Module], Make] = {nn.SiLU: lambda layer: custom.CustomSiLU(), nn.GroupNorm: GroupNorm}
"""By the layer's type: what makes the module in its place."""

AS_CALLS: dict[type[nn.Module], Make] = {
    nn.Mish: lambda layer: Call(functional.mish),
    nn.SELU: lambda layer: Call(functional.selu),
    nn.CELU: lambda layer: Call(functional.celu, layer.alpha),
    nn.Softsign: lambda layer: Call(functional.softsign),
    nn.LogSigmoid: lambda layer: Call(functional.logsigmoid),
    nn.Tanhshrink: lambda layer: Call(functional.tanhshrink),
    nn.Softshrink: lambda layer: Call(functional.softshrink, layer.lambd),
    nn.Hardshrink: lambda layer: Call(functional.hardshrink, layer.lambd),
    nn.Threshold: lambda layer: Call(functional.threshold, layer.threshold, layer.value),
    nn.GLU: lambda layer: Call(functional.glu, layer.dim),
    nn.LocalResponseNorm: lambda layer: Call(
        functional.local_response_norm, layer.size, layer.alpha, layer.beta, layer.k
    ),
    nn.RMSNorm: RMSNorm,
}
"""The same, of modules with a call, which the preparer then writes as modules."""
