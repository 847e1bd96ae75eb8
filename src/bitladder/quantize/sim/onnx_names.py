"""Which quantizers belong to which node of a network that came as ONNX."""

from collections.abc import Iterable
from typing import Any

import onnx

from bitladder.quantize.sim.onnx_layers import has_weights
from bitladder.tasks.onnx_model import OnnxNetwork

__all__ = ["Names"]


class Names:
    """Finds quantizers of a sim by node.

    Args:
        network: in float, whose nodes are meant.
        quantizers: aimet-onnx's, by tensor.

    """

    def __init__(self, network: OnnxNetwork, quantizers: dict[str, Any]) -> None:
        """Look at the graph."""
        self._network, self._quantizers = network, quantizers
        self._constants = {tensor.name for tensor in network.proto.graph.initializer}
        self.nodes: dict[str, onnx.NodeProto] = {node.name: node for node in network.proto.graph.node}

    def weights(self, names: Iterable[str]) -> list[str]:
        """Give the weights of nodes that are quantized."""
        nodes = (self.nodes[name] for name in names)
        return [node.input[1] for node in nodes if has_weights(node, self._constants) and self._in_use(node.input[1])]

    def outputs(self, name: str) -> list[str]:
        """Give the outputs of a node that are quantized."""
        return [key for key in self.nodes[name].output if self._in_use(key)]

    def activations(self, name: str) -> list[str]:
        """Give the outputs of a node that are quantized, and the graph's own inputs that it reads."""
        own = [key for key in self.nodes[name].input if key in self._network.inputs and self._in_use(key)]
        return [*own, *self.outputs(name)]

    def ending(self, name: str) -> str:
        """Name the Relu or Clip that alone reads a node's output; the node itself where none does."""
        (made, *others) = self.nodes[name].output
        readers = [node for node in self.nodes.values() if made in node.input]
        alone = len(readers) == 1 and not others and made not in self._network.outputs
        return readers[0].name if alone and readers[0].op_type in ("Relu", "Clip") else name

    def leave(self, exclude: Iterable[str]) -> None:
        """Take the quantizers from excluded nodes, and from the bounds of clips, which the NPU wants as constants."""
        for node in self.nodes.values():
            excluded = node.name in exclude
            constants = [name for name in node.input if name in self._constants]
            left = [*constants, *node.output] if excluded else constants if node.op_type == "Clip" else []
            for name in left:
                if name in self._quantizers:
                    self._quantizers[name].enabled = False

    def bare(self, exclude: Iterable[str]) -> list[str]:
        """Name the nodes with weights, but for excluded ones, whose weights have no quantizer."""
        return [
            node.name
            for node in self.nodes.values()
            if has_weights(node, self._constants) and node.name not in exclude and not self._in_use(node.input[1])
        ]

    def as_of_torch(self) -> dict[str, str]:
        """Give quantizers' names as those of a network of torch are."""
        names: dict[str, str] = {name: f"{name}.input_quantizers.0" for name in self._network.inputs}
        for node in self.nodes.values():
            parts = ("weight", "bias")
            for index, name in enumerate(node.input[1:3]):
                names.setdefault(name, f"{node.name}.param_quantizers.{parts[index]}")
            for index, name in enumerate(node.output):
                names[name] = f"{node.name}.output_quantizers.{index}"
        return {name: names.get(name, name) for name in self._quantizers}

    def _in_use(self, name: str) -> bool:
        return name in self._quantizers and self._quantizers[name].enabled
