"""What a traced network computes whatever its inputs are: sizes, masks, positions, weights in another shape."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["LIKE", "Facts", "find_facts"]

LIKE = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor"}
"""Calls that take a tensor, and of it the size alone."""


@dataclass(frozen=True)
class Facts:
    """Of each node: its shape for a batch of one, whether it is a floating-point tensor, and its value if it is fixed.

    `fixed` holds for every batch size. `per_batch` holds what is repeated for each sample, for a batch of one: it may
    stand where an operation broadcasts it. `rows` are tensors that number the samples of a batch.
    """

    shapes: dict[fx.Node, tuple[int, ...]]
    floats: set[fx.Node]
    fixed: dict[fx.Node, Any]
    per_batch: dict[fx.Node, Tensor]
    rows: set[fx.Node]


class _Recorder(fx.Interpreter):
    """Run a network node by node, and keep what does not depend on the values of its inputs."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.floats: set[fx.Node] = set()
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        name = str(getattr(n.target, "__name__", n.target)).partition(".")[0]
        inputs = n.op == "get_attr" or name in LIKE or all(node in self.values for node in n.all_input_nodes)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
            if value.is_floating_point():
                self.floats.add(n)
        if n.op not in ("placeholder", "call_module", "output") and (inputs or (_asks_size(n) and _is_size(value))):
            self.values[n] = value
        return value


def find_facts(traced: fx.GraphModule, sample: tuple[Tensor, ...]) -> Facts:
    """Run a network with one sample and with the same sample twice; what is equal in both is fixed."""
    one, two = _Recorder(traced), _Recorder(traced)
    with torch.no_grad():
        one.run(*sample)
        two.run(*(torch.cat([values, values]) for values in sample))
    fixed, per_batch = {}, {}
    for node, value in one.values.items():
        other = two.values.get(node)
        if _equal(value, other):
            fixed[node] = value
        elif isinstance(value, Tensor) and isinstance(other, Tensor) and _repeated(value, other):
            per_batch[node] = value
    rows = {node for node, value in one.values.items() if _numbers(value, 1) and _numbers(two.values.get(node), 2)}
    return Facts(one.shapes, one.floats, fixed, per_batch, rows)


def _asks_size(node: fx.Node) -> bool:
    return node.target in ("size", "dim", "ndimension", getattr) or "sym_size" in str(node.target)


def _is_size(value: Any) -> bool:
    """Tell a size from what is computed of values: no tensor, and of whole numbers alone."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int | torch.dtype | torch.device)


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and value.shape == other.shape and bool(torch.equal(value, other))
    if isinstance(value, tuple | list):
        return isinstance(other, tuple | list) and len(value) == len(other) and all(map(_equal, value, other))
    return not isinstance(value, nn.Module) and bool(value == other)


def _repeated(value: Tensor, other: Tensor) -> bool:
    if not value.ndim or len(value) != 1 or other.shape[1:] != value.shape[1:]:
        return False
    return bool(torch.equal(value.expand_as(other), other))


def _numbers(value: Any, samples: int) -> bool:
    """Tell a tensor that numbers so many samples along its first dimension."""
    return isinstance(value, Tensor) and value.numel() == samples and value.flatten().tolist() == list(range(samples))
