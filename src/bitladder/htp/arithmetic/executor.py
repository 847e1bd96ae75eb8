"""A QDQ graph run in the NPU's integers, on the CPU: what the NPU answers, without emulating it."""

from collections.abc import Iterator, Mapping

import onnx
import torch
from onnx import NodeProto
from torch import Tensor

from bitladder.htp.arithmetic.add import add
from bitladder.htp.arithmetic.convolution import weighted
from bitladder.htp.arithmetic.float_ops import dequantized, float_node, quantized
from bitladder.htp.arithmetic.fold import normalized
from bitladder.htp.arithmetic.layer import read_layer
from bitladder.htp.arithmetic.moves import concat, move, pad
from bitladder.htp.arithmetic.pool import max_pool, mean
from bitladder.htp.arithmetic.step import Family, Step
from bitladder.htp.arithmetic.table import TABLES, table
from bitladder.htp.graph import Graph

__all__ = ["FAMILIES", "Executor"]

FAMILIES: dict[str, Family] = {
    "Conv": weighted,
    "Gemm": weighted,
    "MatMul": weighted,
    "Add": add,
    "AveragePool": mean,
    "GlobalAveragePool": mean,
    "ReduceMean": mean,
    "MaxPool": max_pool,
    "Concat": concat,
    "Pad": pad,
    **dict.fromkeys(("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"), move),
    **dict.fromkeys(TABLES, table),
}
"""What models an op's integers, by the op's type."""


class Executor:
    """Runs a QDQ graph batch by batch, as the NPU does where its arithmetic is known, else in float.

    A graph that moves the batch axis away, such as one that works on tokens first, is run sample by sample.
    """

    def __init__(self, proto: onnx.ModelProto, families: Mapping[str, Family] = FAMILIES) -> None:
        self._graph, self._families = normalized(proto), families
        self._alone = not _has_batch_axis(self._graph)
        self._outputs = [value.name for value in proto.graph.output]
        self.steps = tuple(self._plan())
        last = {name: index for index, step in enumerate(self.steps) for name in (*step.reads, *step.makes)}
        self._dropped: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in self._outputs:
                self._dropped.setdefault(index, []).append(name)

    @property
    def float_ops(self) -> tuple[str, ...]:
        """Name the ops that have no model, each with its node, in their order."""
        return tuple(f"{step.op} {step.node}" for step in self.steps if not step.exact)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the graph's outputs for a batch."""
        count = len(next(iter(inputs.values())))
        if self._alone and count > 1:
            rows = [self({name: one[row : row + 1] for name, one in inputs.items()}) for row in range(count)]
            return {name: torch.cat([row[name] for row in rows]) for name in self._outputs}
        found: dict[str, Tensor] = {}
        for _, values in self.trace(inputs):
            found = values
        return {name: found[name] for name in self._outputs}

    @torch.no_grad()
    def trace(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Step, dict[str, Tensor]]]:
        """Run step by step; give each with the tensors that are held after it."""
        # oneDNN's kernels take images with their channels last as they are, and else reorder them each time
        values = {
            name: one.contiguous(memory_format=torch.channels_last) if one.ndim == 4 else one
            for name, one in inputs.items()
        }
        for index, step in enumerate(self.steps):
            found = step.run(*(values[name] for name in step.reads))
            values.update(zip(step.makes, found if isinstance(found, tuple) else (found,), strict=True))
            yield step, values
            for name in self._dropped.get(index, ()):
                del values[name]

    def _plan(self) -> list[Step]:
        """Give the steps that the outputs need, from the last node to the first."""
        needed, steps = set(self._outputs), []
        for node in reversed(self._graph.nodes):
            if needed.isdisjoint(node.output):
                continue
            step = self._step(node)
            if step is not None:
                steps.append(step)
                needed |= set(step.reads)
        return steps[::-1]

    def _step(self, node: NodeProto) -> Step | None:
        graph = self._graph
        if node.op_type == "QuantizeLinear":
            return self._quantize(node)
        if all(graph.find_constant(name) is not None for name in node.output):
            return None
        if node.op_type == "DequantizeLinear":
            quantizer = graph.quantizer_of(node)
            assert quantizer is not None  # scales are constants
            return Step(
                node.name, node.op_type, (node.input[0],), (node.output[0],), lambda x: dequantized(x, quantizer)
            )
        reads = tuple(dict.fromkeys(name for name in node.input if name and graph.find_constant(name) is None))
        made = tuple(name for name in node.output if name)
        return Step(
            node.name, node.op_type, reads, made, float_node(graph, node, reads, whole=self._alone), exact=False
        )

    def _quantize(self, node: NodeProto) -> Step:
        layer = read_layer(self._graph, node)
        if layer is not None and layer.node.op_type in self._families:
            run = self._families[layer.node.op_type](layer)
            if run is not None:
                reads = tuple(one.name for one in layer.tensors)
                return Step(layer.node.name, layer.node.op_type, reads, (layer.output,), run)
        quantizer = self._graph.quantizer_of(node)
        assert quantizer is not None  # scales are constants
        return Step(node.name, node.op_type, (node.input[0],), (node.output[0],), lambda x: quantized(x, quantizer))


def _has_batch_axis(graph: Graph) -> bool:
    """Whether the first axis of each tensor that depends on the inputs is that of the samples, so that they stack."""
    for node in graph.nodes:
        if all(graph.find_constant(name) is not None for name in node.output):
            continue
        order = graph.attribute(node, "perm") if node.op_type == "Transpose" else None
        if order is not None and order[0] != 0:
            return False
        shapes = [graph.shape(name) for name in node.output if name]
        if any(shape is not None and shape[:1] not in ([0], [1]) for shape in shapes):
            return False
    return True
