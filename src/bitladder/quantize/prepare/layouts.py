"""Layers in a form that AIMET can quantize and export: of parts that it knows, with the weights that they come to."""

from typing import Any

import torch
from aimet_torch.nn.modules import custom
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bitladder.quantize.prepare.composites import AS_CALLS, IN_PARTS

__all__ = ["bake_weights", "split_groups", "swap_layers"]


class EmbeddingMean(nn.Module):
    """An nn.EmbeddingBag of bags of one size."""

    embedding: nn.Module
    pool: nn.Module

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.embedding = nn.Embedding(bag.num_embeddings, bag.embedding_dim, _weight=bag.weight.detach().clone())
        self.pool = custom.Mean() if bag.mode == "mean" else custom.Sum()

    def forward(self, ids: Tensor) -> Tensor:
        """Look up each of a bag, and join them."""
        return self.pool(self.embedding(ids), 1)


class ValuePad(nn.Module):
    """An nn.ConstantPad as a call, which the preparer writes as what has a quantizer at the values of the frame."""

    def __init__(self, pad: Any) -> None:
        super().__init__()
        self.padding, self.value = list(pad.padding), pad.value

    def forward(self, values: Tensor) -> Tensor:
        """Pad."""
        return nn.functional.pad(values, self.padding, value=self.value)


class GroupedTranspose(nn.Module):
    """A transposed convolution in groups, a layer for each: AIMET's scales and biases do not fit together in one."""

    concat: nn.Module

    def __init__(self, layer: Any) -> None:
        super().__init__()
        groups, biased = layer.groups, layer.bias is not None
        self.parts = nn.ModuleList(
            type(layer)(
                layer.in_channels // groups,
                layer.out_channels // groups,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.output_padding,
                bias=biased,
                dilation=layer.dilation,
            )
            for _ in range(groups)
        )
        with torch.no_grad():
            part: Any
            for index, part in enumerate(self.parts):
                part.weight.copy_(layer.weight.chunk(groups)[index])
                if biased:
                    part.bias.copy_(layer.bias.chunk(groups)[index])
        self.concat = custom.Concat(1)

    def forward(self, values: Tensor) -> Tensor:
        """Convolve each group's channels."""
        pieces = values.chunk(len(self.parts), 1)
        return self.concat(*(part(piece) for part, piece in zip(self.parts, pieces, strict=True)))


def bake_weights(model: nn.Module) -> None:
    """Put weights in the place of what computes them: weight and spectral norms."""
    module: Any
    for module in model.modules():
        if parametrize.is_parametrized(module):
            values = {name: getattr(module, name).detach() for name in module.parametrizations}
            # not by remove_parametrizations, which takes the weight from copies of the module too: they share its class
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value))
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)


def swap_layers(model: nn.Module) -> bool:
    """Swap layers whose exported form ONNX Runtime or the simulation takes otherwise.

    Returns: whether there is a call among them now, for the preparer to write as modules.
    """
    called = False
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.EmbeddingBag) and module.mode != "max" and module.padding_idx is None:
            model.set_submodule(name, EmbeddingMean(module))
        elif type(module) in (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d) and module.value:
            model.set_submodule(name, ValuePad(module))
            called = True
        elif type(module) in IN_PARTS:
            model.set_submodule(name, IN_PARTS[type(module)](module))
        elif type(module) in AS_CALLS:
            model.set_submodule(name, AS_CALLS[type(module)](module))
            called = True
    return called


def split_groups(model: nn.Module) -> None:
    """Split transposed convolutions in groups, but for those of one channel each, which AIMET takes."""
    for name, module in list(model.named_modules()):
        kinds = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
        if isinstance(module, kinds) and 1 < module.groups < module.out_channels:
            model.set_submodule(name, GroupedTranspose(module))
