"""What quantization does to each node of a network that came as ONNX: its SQNR, and the ranges of its tensors."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from bitladder.network.evaluate import NoiseSums
from bitladder.quantize.sim.layers import Cost
from bitladder.quantize.sim.onnx_clipped import clipped_tensors
from bitladder.quantize.sim.onnx_ranges import has_range
from bitladder.tasks.onnx_model import OnnxNetwork
from bitladder.tasks.samples import Samples

__all__ = ["MATRIX_OPS", "TensorReader", "cost_of", "has_weights", "node_rows", "rows_of"]

MATRIX_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def rows_of(samples: Samples) -> Iterator[dict[str, np.ndarray]]:
    """Give each sample as ONNX Runtime takes it: a batch of one, by name."""
    for inputs, _ in samples.batches(1):
        yield {name: values.numpy() for name, values in inputs.items()}


def has_weights(node: onnx.NodeProto, constants: set[str]) -> bool:
    """Say whether a node multiplies by a constant matrix."""
    return node.op_type in MATRIX_OPS and node.input[1] in constants


def cost_of(network: OnnxNetwork, name: str) -> Cost:
    """Take the sizes of a node with weights from the graph; a size that is not written down counts as one."""
    graph = network.proto.graph
    node = next(one for one in graph.node if one.name == name)
    (weights,) = (math.prod(tensor.dims) for tensor in graph.initializer if tensor.name == node.input[1])
    known = [value for value in (*graph.value_info, *graph.output) if value.name == node.output[0]]
    shape = [dim.dim_value or 1 for value in known for dim in value.type.tensor_type.shape.dim] or [1]
    axis = 1 if node.op_type.startswith("Conv") and len(shape) > 1 else -1
    return Cost(weights, math.prod(shape) // shape[axis])


def node_rows(network: OnnxNetwork, sim: Any, split: Samples) -> list[dict[str, Any]]:
    """Give a row a node that makes a floating-point tensor, in the graph's order.

    Every sample of the split is run; SQNR is against FP32. Of what feeds only a Relu or a Clip, what that lets through
    is compared: its range is the activation's. The columns are those of metrics/layers/*.csv.

    Args:
        network: in float.
        sim: aimet-onnx's.
        split: samples.

    """
    nodes = [node for node in network.proto.graph.node if node.op_type != "Constant"]
    constants = {tensor.name for tensor in network.proto.graph.initializer}
    quantizers: dict[str, Any] = sim.qc_quantize_op_dict
    after = {node.input[0]: node.output[0] for node in sim.model.nodes() if node.op_type == "QcQuantizeOp"}
    # what aimet-onnx folded away is in the float graph only
    left = {name for node in sim.model.nodes() for name in node.output}
    names = [node.output[0] for node in nodes if node.output[0] in left]
    found = _compare_tensors(
        TensorReader(network.proto, {name: name for name in names}),
        TensorReader(sim.model.model, {name: after.get(name, name) for name in names}),
        split,
        {name: bounds for name, (_, bounds) in clipped_tensors(network.proto.graph, quantizers).items()},
    )
    rows = []
    for node in nodes:
        name = node.output[0]
        if name in found:
            weights = quantizers.get(node.input[1]) if has_weights(node, constants) else None
            rows.append(
                {"layer": node.name, "kind": node.op_type, "sqnr_db": found[name]}
                | _range("weight", "weights_bits", weights)
                | _range("output", "outputs_bits", quantizers.get(name))
            )
    return rows


class TensorReader:
    """Runs a graph a sample at a time and gives its inner tensors; `wanted` says what each is called there."""

    def __init__(self, proto: onnx.ModelProto, wanted: dict[str, str]) -> None:
        from aimet_onnx.utils import OrtInferenceSession, register_aimet_custom_ops

        options = register_aimet_custom_ops(onnxruntime.SessionOptions())
        options.intra_op_num_threads = torch.get_num_threads()  # sums change their last bits with it
        proto = copy.deepcopy(proto)
        new = set(wanted.values()) - {value.name for value in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(new))
        self._session = OrtInferenceSession(proto, ["CPUExecutionProvider"], options)
        kinds = {output.name: output.type for output in self._session.get_outputs()}
        self._wanted = {name: inner for name, inner in wanted.items() if kinds[inner] == "tensor(float)"}

    def __call__(self, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one sample."""
        tensors = self._session.run(list(self._wanted.values()), sample)
        return dict(zip(self._wanted, tensors, strict=True))


def _compare_tensors(
    float_graph: TensorReader,
    simulated: TensorReader,
    split: Samples,
    clipped: Mapping[str, tuple[float, float]],
) -> dict[str, float]:
    """Give the SQNR of each tensor over a split. The tensors of one sample are held at a time: all do not fit."""
    whole = (-np.inf, np.inf)
    sums = NoiseSums()
    for row in rows_of(split):
        pair = (
            {name: torch.from_numpy(values).clamp(*clipped.get(name, whole)) for name, values in graph(row).items()}
            for graph in (float_graph, simulated)
        )
        sums.add(*pair)
    return sums.by_name()


def _range(what: str, bits: str, quantizer: Any) -> dict[str, Any]:
    if not has_range(quantizer):
        return {bits: None, f"{what}_min": None, f"{what}_max": None}
    found = quantizer.get_encodings()
    return {
        bits: quantizer.bitwidth,
        f"{what}_min": min(encoding.min for encoding in found),
        f"{what}_max": max(encoding.max for encoding in found),
    }
