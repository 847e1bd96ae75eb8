"""A network that came as ONNX as a graph of torch's modules, in float and simulated, for techniques to work on.

A node with weights is AIMET's quantized module of torch; what techniques change in it goes back into the ONNX graph.
Every other node is a small graph of its own, which ONNX Runtime runs.
"""

import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.modules.custom import Add
from aimet_torch.quantization.affine import QuantizeDequantize
from onnx import numpy_helper
from torch import Tensor, fx, nn

from bitladder.quantize.sim.block_weights import shapes
from bitladder.quantize.sim.onnx_parts import OnCpu, Padded, Part
from bitladder.quantize.sim.onnx_ranges import channel_rows, has_range
from bitladder.quantize.sim.onnx_weights import Layer, layer_of

__all__ = ["Modules", "followers"]

ACTIVATIONS = {"Relu": nn.ReLU, "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh}


@dataclass(frozen=True)
class Change:
    """What a layer's tensors have become, by their names; `ranges` of its weight, None where they are as before."""

    values: Mapping[str, np.ndarray]
    weight: str
    ranges: Tensor | None
    frozen: bool


class Modules:
    """Both networks: `reference` in float, `model` simulated.

    Args:
        sim: aimet-onnx's, calibrated.
        weights: of the float network, by name.
        activations: whether those are quantized.

    """

    def __init__(self, sim: Any, weights: Mapping[str, np.ndarray], activations: bool) -> None:
        """Take the graph apart."""
        proto: onnx.ModelProto = sim.model.model
        self._proto, self._quantizers, self._activations = proto, sim.qc_quantize_op_dict, activations
        self._own = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        self._weights = {**self._own, **weights}
        self._quantizing = {node.input[0]: node for node in proto.graph.node if node.op_type == "QcQuantizeOp"}
        self._sources = {node.output[0]: name for name, node in self._quantizing.items()}
        self._reads = Counter(self._source(name) for node in proto.graph.node for name in node.input)
        self._reads.subtract(list(self._quantizing))
        self._layers: dict[str, Layer] = {}
        self._parts: tuple[dict[str, nn.Module], dict[str, nn.Module]] = ({}, {})
        graph = self._graph()
        self.reference, self.model = (fx.GraphModule(dict(parts), graph) for parts in self._parts)
        self._before = {name: self._ranges(name) for name in self._layers}

    def changes(self) -> list[Change]:
        """Give what the layers of the simulated network have become."""
        found = []
        for name, layer in self._layers.items():
            module: Any = self._parts[1][name]
            quantizer, ranges = module.param_quantizers["weight"], self._ranges(name)
            before = self._before[name]
            moved = ranges is not None and before is not None and not torch.equal(ranges, before)
            frozen = quantizer is not None and not all(quantizer._is_overwrite_allowed.values())
            found.append(Change(layer.values(module), layer.weight, ranges if moved else None, frozen))
        return found

    def _ranges(self, name: str) -> Tensor | None:
        module: Any = self._parts[1][name]
        quantizer = module.param_quantizers["weight"]
        if quantizer is None:
            return None
        ends = (end.detach() for end in (quantizer.get_min(), quantizer.get_max()))
        low, high = ((end.t() if self._layers[name].turned else end).flatten().tolist() for end in ends)
        return channel_rows(low, high, quantizer.bitwidth)

    def _graph(self) -> fx.Graph:
        graph, made = fx.Graph(), dict[str, fx.Node]()
        for index, value in enumerate(self._proto.graph.input):
            name = f"input_{index}"
            self._parts[0][name] = OnCpu()
            quantize = self._quantizing.get(value.name)
            self._parts[1][name] = self._part([quantize], [value.name]) if quantize else OnCpu()
            made[value.name] = graph.call_module(name, (graph.placeholder(f"x{index}"),))
        nodes = [node for node in self._proto.graph.node if node.op_type != "QcQuantizeOp"]
        for index, node in enumerate(nodes):
            name = f"node_{index}_" + re.sub(r"\W", "_", node.name)
            given = [one for one in node.input if one and self._source(one) not in self._own]
            values = [made[self._source(one)] for one in given]
            layer = layer_of(node, self._source, self._weights)
            if layer is None or self._reads[layer.weight] > 1:  # a weight of two nodes is nobody's to change
                self._add_node(name, node, given)
            else:
                if any(layer.pads):
                    for parts in self._parts:
                        parts[f"{name}_pad"] = Padded(layer.pads)
                    values = [graph.call_module(f"{name}_pad", tuple(values))]
                self._add_layer(name, node, layer)
            result = graph.call_module(name, tuple(values))
            outputs = [one for one in node.output if one]
            for place, one in enumerate(outputs):
                made[one] = graph.call_function(operator.getitem, (result, place)) if len(outputs) > 1 else result
        graph.output(tuple(made[self._source(value.name)] for value in self._proto.graph.output))
        return graph

    def _source(self, name: str) -> str:
        """Give the tensor that a quantizer takes, by what it gives; any other as it is."""
        return self._sources.get(name, name)

    def _add_node(self, name: str, node: onnx.NodeProto, given: list[str]) -> None:
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.input[:] = [self._source(one) for one in node.input]
        simple = _simple(plain, len(given), self._own)
        self._parts[0][name] = simple or self._part([plain], [self._source(one) for one in given])
        around = [
            self._quantizing[one] for one in map(self._source, node.input) if one in self._own.keys() & self._quantizing
        ]
        after = [self._quantizing[one] for one in node.output if one in self._quantizing]
        self._parts[1][name] = self._part([*around, node, *after], given)

    def _add_layer(self, name: str, node: onnx.NodeProto, layer: Layer) -> None:
        self._layers[name] = layer
        self._parts[0][name] = layer.module(self._weights)
        module: Any = QuantizationMixin.from_module(layer.module(self._own))
        weight, output = (self._quantizers.get(one) for one in (layer.weight, node.output[0]))
        if has_range(weight):
            module.param_quantizers["weight"] = _of_weights(weight, layer, module.weight.shape)
        if self._activations and has_range(output):
            module.output_quantizers[0] = _as_torchs(output, ())
        self._parts[1][name] = module

    def _part(self, nodes: list[onnx.NodeProto], given: list[str]) -> Part:
        """Make a graph of a node and the quantizers of its constants and outputs."""
        last = {node.input[0]: node.output[0] for node in nodes if node.op_type == "QcQuantizeOp"}
        (node,) = [node for node in nodes if node.op_type != "QcQuantizeOp"] or nodes
        outputs = [last.get(name, name) for name in node.output if name]
        inner = {name for one in nodes for name in one.input}
        constants = [numpy_helper.from_array(self._own[name], name) for name in sorted(inner & self._own.keys())]
        return Part(self._proto, nodes, given, outputs, constants)


def followers(network: nn.Module) -> dict[nn.Module, nn.Module | None]:
    """Give the module that alone reads each one's output, where that is an activation."""
    assert isinstance(network, fx.GraphModule)
    modules, found = dict(network.named_modules()), dict[nn.Module, nn.Module | None]()
    for node in (node for node in network.graph.nodes if node.op == "call_module"):
        readers = [modules.get(str(one.target)) for one in node.users]
        is_activation = len(readers) == 1 and isinstance(readers[0], nn.ReLU | nn.ReLU6 | nn.Sigmoid | nn.Tanh)
        found[modules[str(node.target)]] = readers[0] if is_activation else None
    return found


def _simple(node: onnx.NodeProto, given: int, constants: Mapping[str, np.ndarray]) -> nn.Module | None:
    """Give torch's own module for what techniques look for in the float network: activations and additions."""
    if node.op_type == "Add" and given == 2:
        return Add()
    if node.op_type == "Clip" and [constants[one].item() for one in node.input[1:] if one in constants] == [0, 6]:
        return nn.ReLU6()
    return ACTIVATIONS[node.op_type]() if node.op_type in ACTIVATIONS else None


def _of_weights(quantizer: Any, layer: Layer, weight: Sequence[int]) -> QuantizeDequantize:
    if size := quantizer.quant_info.blockSize:
        return _as_torchs(quantizer, *shapes(weight, size), turned=layer.turned)
    return _as_torchs(quantizer, layer.range_shape if len(quantizer.get_encodings()) > 1 else ())


def _as_torchs(
    quantizer: Any, shape: tuple[int, ...], block: tuple[int, ...] | None = None, turned: bool = False
) -> QuantizeDequantize:
    """Give aimet-torch's quantizer of the same grid as one of aimet-onnx's, whose ranges may stand `turned`."""
    own = QuantizeDequantize(shape, quantizer.bitwidth, quantizer.use_symmetric_encodings, block_size=block)
    found, stored = quantizer.get_encodings(), shape[::-1] if turned else shape
    ends = (torch.tensor([getattr(one, end) for one in found]).reshape(stored) for end in ("min", "max"))
    own.set_range(*(end.t() if turned else end for end in ends))
    return own
