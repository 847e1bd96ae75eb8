"""Networks that torch.fx cannot trace, such as those of transformers: traced by torch.export."""

from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["exported"]


def exported(model: nn.Module, sample: tuple[Tensor, ...]) -> tuple[fx.GraphModule, dict[str, tuple[str, Any]]] | None:
    """Trace a network by torch.export, for any batch size.

    Returns: the graph, with every weight where the network has it; by a node's name, the path and type of the module
    that it was called in. None where torch.export cannot trace the network either.
    """
    two = tuple(torch.cat([values, values]) for values in sample)  # a batch of one is taken for a constant
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, two, dynamic_shapes=tuple({0: torch.export.Dim.AUTO} for _ in two), strict=False
            )
        found: Any = program.module(check_guards=False)
    except Exception:  # many kinds: each means that the network cannot be traced so
        return None
    graph = found.graph
    if program.call_spec.out_spec.is_leaf():
        output = next(node for node in graph.nodes if node.op == "output")
        output.args = (output.args[0][0],)
    graph.set_codegen(fx.graph.CodeGen())  # of plain arguments, as the network's own forward has
    traced = fx.GraphModule(found, graph)
    scopes = {}
    for node in traced.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())
        scopes[node.name] = stack[-1]
    return traced, scopes
