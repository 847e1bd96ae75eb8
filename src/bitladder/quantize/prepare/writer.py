"""New nodes in a traced network, in the place of a call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitladder.quantize.prepare.facts import Facts

__all__ = ["Writer"]


class Writer:
    """Writes what stands for one call: modules, each in the module that the call was made in."""

    def __init__(self, traced: fx.GraphModule, facts: Facts, node: fx.Node, scope: str) -> None:
        self.traced, self.facts, self.node, self.scope = traced, facts, node, scope
        self.exported = str(node.target).startswith("aten.")  # by torch.export, with an order of arguments of its own
        self.written = 0

    def __call__(self, module: nn.Module, *inputs: Any, name: str = "") -> fx.Node:
        """Call a module on nodes. `name`: its path, where it takes the place of a layer's own weights."""
        path = self._place(name or self._name())
        self.traced.set_submodule(path, module)
        return self.traced.graph.call_module(path, inputs)

    def function(self, function: Callable, *arguments: Any) -> fx.Node:
        """Call a function that moves values and computes none."""
        return self.traced.graph.call_function(function, arguments)

    def constant(self, value: Tensor | float) -> fx.Node:
        """Give a node for a value that is known now."""
        path = self._place(self._name("constant"))
        parent, _, name = path.rpartition(".")
        owner = self.traced.get_submodule(parent)
        tensor = value if isinstance(value, Tensor) else torch.tensor(value)
        owner.register_buffer(name, tensor.detach().clone().contiguous())
        return self.traced.graph.get_attr(path)

    def value(self, of: Any, broadcasts: bool = False) -> Any:
        """Give what a node is for every input, or None; what is no node, is as it is."""
        if not isinstance(of, fx.Node):
            return of
        found = self.facts.fixed.get(of)
        return self.facts.per_batch.get(of) if found is None and broadcasts else found

    def shape(self, of: fx.Node) -> tuple[int, ...]:
        """Give a tensor's shape for a batch of one."""
        return self.facts.shapes[of]

    def is_float(self, of: Any) -> bool:
        """Tell floating-point tensors from whole numbers, masks and sizes."""
        return of in self.facts.floats

    def layer_of(self, weight: Any) -> str:
        """Give the path of the layer whose own weight this is; empty where it is another module's."""
        if not isinstance(weight, fx.Node) or weight.op != "get_attr" or not str(weight.target).endswith(".weight"):
            return ""
        path = str(weight.target).rpartition(".")[0]
        holder = self.traced.get_submodule(path)
        # a bare holder of weights; one with modules in it, such as a norm with its activation, stays for these
        return path if type(holder) is nn.Module and not any(holder.children()) else ""

    def _name(self, kind: str = "") -> str:
        # the first as AIMET's preparer would call it
        parts = ["module", self.node.name, *([kind] if kind else []), *([str(self.written)] if self.written else [])]
        self.written += 1
        return ".".join(filter(None, [self.scope, "_".join(parts)]))

    def _place(self, path: str) -> str:
        taken, found, count = dict(self.traced.named_modules()), path, 0
        while (found in taken and type(taken[found]) is not nn.Module) or _has_value(self.traced, found):
            count += 1
            found = f"{path}_{count}"
        return found


def _has_value(traced: fx.GraphModule, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    owner = traced.get_submodule(parent)
    return name in dict(owner.named_parameters(recurse=False)) or name in dict(owner.named_buffers(recurse=False))
