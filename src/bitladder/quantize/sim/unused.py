"""Layers that a network does not use in evaluation, such as the auxiliary heads that only training has."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitladder.quantize.sim.hooks import hooked

__all__ = ["unused_layers"]


class _Read(TorchFunctionMode):
    """Collects the ids of the tensors that functions are given: a layer's weights may be used without its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            self.found.update(id(one) for one in (value if isinstance(value, list | tuple) else (value,)))
        return func(*args, **(kwargs or {}))


def unused_layers(model: nn.Module, sample: tuple[Tensor, ...]) -> list[str]:
    """Name the layers that are not called for a sample, and whose weights nothing else reads: no graph has them."""
    layers = {name: module for name, module in model.named_modules() if name and not any(module.children())}
    called: set[int] = set()
    hooks = (
        layer.register_forward_pre_hook(lambda module, inputs: called.add(id(module))) for layer in layers.values()
    )
    # the sample draws no random number that later ones would miss
    with hooked(hooks), torch.no_grad(), torch.random.fork_rng(devices=[]), _Read() as read:
        model(*sample)
    return [
        name
        for name, layer in layers.items()
        if id(layer) not in called
        and any(True for _ in layer.parameters())
        and not read.found & set(map(id, layer.parameters()))
    ]
