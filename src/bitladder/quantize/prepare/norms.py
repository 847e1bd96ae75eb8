"""Batch norms that AIMET does not fold, or folds wrongly, made such that they are folded."""

from typing import Any

import torch
from aimet_torch.meta.connectedgraph import ConnectedGraph
from torch import Tensor, nn

__all__ = ["fold_others", "ready_norms"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def ready_norms(model: nn.Module) -> None:
    """Give norms without factors such of one, and layers that share a weight one each: a norm is folded into it."""
    norms: list[Any] = [module for module in model.modules() if isinstance(module, NORMS)]
    for norm in norms:
        if norm.weight is None and norm.running_mean is not None:
            norm.weight = nn.Parameter(torch.ones_like(norm.running_mean))
            norm.bias = nn.Parameter(torch.zeros_like(norm.running_mean))
    seen: set[int] = set()
    for module in model.modules() if norms else ():
        if not isinstance(module, LAYERS):
            continue
        for name, values in list(module.named_parameters(recurse=False)):
            if id(values) in seen:
                module.register_parameter(name, nn.Parameter(values.detach().clone()))
            seen.add(id(values))


def fold_others(model: nn.Module, sample: tuple[Tensor, ...]) -> bool:
    """Fold norms behind layers that AIMET folds none into: transposed of one and three dimensions or in groups.

    Returns: whether there was one.
    """
    if not any(map(_aimet_leaves, model.modules())) or not any(isinstance(one, NORMS) for one in model.modules()):
        return False
    names = {module: name for name, module in model.named_modules()}
    found = False
    graph = ConnectedGraph(model, sample)  # it takes its operations apart when nothing holds it
    for operation in graph.get_all_ops().values():
        layer, readers = operation.get_module(), operation.output_ops or []
        norm: Any = readers[0].get_module() if len(readers) == 1 else None
        if _aimet_leaves(layer) and isinstance(norm, NORMS) and norm.running_mean is not None:
            _fold(layer, norm)
            model.set_submodule(names[norm], nn.Identity())
            found = True
    return found


def _aimet_leaves(layer: Any) -> bool:
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose3d | nn.Conv3d):
        return True
    return isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1


def _fold(layer: Any, norm: Any) -> None:
    """Scale the weights of each output channel, and move its bias."""
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
        layer.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
        weight = layer.weight
        if isinstance(layer, TRANSPOSED):  # inputs first; outputs group by group
            groups = layer.groups
            parts = weight.unflatten(0, (groups, -1)) * scale.view(groups, 1, -1, *(1,) * (weight.ndim - 2))
            layer.weight.copy_(parts.flatten(0, 1))
        else:
            layer.weight.copy_(weight * scale.view(-1, *(1,) * (weight.ndim - 1)))
