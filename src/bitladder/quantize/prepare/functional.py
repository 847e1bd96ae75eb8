"""Functional calls that AIMET's preparer has no module for, taught to it through its own tables."""

from typing import Any

import torch
from aimet_torch import model_preparer
from torch import fx, nn

from bitladder.running.patches import in_force

__all__ = ["teach_preparer"]


def teach_preparer() -> None:
    """Make the preparer rewrite layer_norm with fixed weights as nn.LayerNorm, as it does conv2d.

    Torchvision's LayerNorm2d calls it so, in ConvNeXt and others.
    """
    if not in_force("layer-norm"):
        return
    model_preparer.functional_with_special_handling["layer_norm"] = nn.LayerNorm
    model_preparer.special_handler_functions["layer_norm"] = {
        "node_fn": _layer_norm_node,
        "module_fn": _layer_norm_module,
    }


def _layer_norm_node(traced: fx.GraphModule, name: str, node: fx.Node) -> fx.Node:
    with traced.graph.inserting_after(node):
        return traced.graph.call_module(name, args=(node.args[0] if node.args else node.kwargs["input"],))


def _layer_norm_module(node: fx.Node) -> nn.Module:
    names = {1: "normalized_shape", 2: "weight", 3: "bias", 4: "eps"}
    given: dict[str, Any] = model_preparer.merge_args_and_kwargs(node, names)
    tensors = {key: model_preparer.get_node_attr(given.pop(key)) for key in ("weight", "bias") if key in given}
    module = nn.LayerNorm(**given, elementwise_affine="weight" in tensors, bias="bias" in tensors)
    with torch.no_grad():
        for key, value in tensors.items():
            getattr(module, key).copy_(value)
    return module
