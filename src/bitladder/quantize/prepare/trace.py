"""A network as a graph of calls: by torch.fx, or by torch.export where torch.fx does not see into it."""

from collections.abc import Sequence
from typing import Any

from aimet_torch import model_preparer
from torch import Tensor, fx, nn

from bitladder.network.lines import tracing_lines
from bitladder.quantize.prepare.calls import HANDLERS
from bitladder.quantize.prepare.exported import exported

__all__ = ["Scopes", "call_name", "trace"]

CLOSED = (
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)
"""Modules of torch's with calls in them, which torch.fx takes for one layer."""

PLAIN = ("torch", "_operator", "operator", "builtins", "math")
"""Where the functions are that stand for one operation each."""

Scopes = dict[str, tuple[str, Any]]
"""By a node's name: the path and the type of the module that it was called in."""


def trace(
    model: nn.Module, sample: tuple[Tensor, ...], left: Sequence[nn.Module], may_export: bool
) -> tuple[fx.GraphModule, Scopes, bool]:
    """Trace a network, down to its layers and operations.

    Args:
        model: in evaluation mode.
        sample: a batch of one.
        left: modules that are not looked into.
        may_export: whether torch.export may trace what torch.fx cannot; it looks into every module.

    Returns: the graph; where each of its calls was made; whether torch.export has traced it.

    """
    if may_export and any(isinstance(one, CLOSED) for one in model.modules()) and (found := exported(model, sample)):
        return *found, True
    try:
        with tracing_lines():
            traced, scopes = model_preparer._trace_model(model, list(left), None, None)
    except Exception:  # torch.fx raises many kinds: each means that the network cannot be traced
        if may_export and (found := exported(model, sample)):
            return *found, True
        raise
    if may_export and any(map(_is_closed, traced.graph.nodes)) and (found := exported(model, sample)):
        return *found, True
    return traced, scopes, False


def call_name(node: fx.Node) -> str:
    """Give the name of the function, method or operator that a node calls, by which HANDLERS has it."""
    target: Any = node.target
    if isinstance(target, str):
        return target.strip("_")
    text = str(target)
    return text.split(".")[1].strip("_") if text.startswith("aten.") else str(target.__name__).strip("_")


def _is_closed(node: fx.Node) -> bool:
    """Tell a function of many operations that its library keeps from torch.fx, such as torchvision's attention."""
    if node.op != "call_function" or call_name(node) in HANDLERS:
        return False
    return str(getattr(node.target, "__module__", None) or "torch").partition(".")[0] not in PLAIN
