"""What has no model: ops in float, as the QDQ graph says, by ONNX Runtime; and the ways from and to integers."""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.tasks.onnx_file import open_session
from bitladder.tasks.onnx_model import run_samples

__all__ = ["dequantized", "float_node", "quantized"]

HALF = torch.tensor(0.5, dtype=torch.float64)

FP16_BITS = 11  # of its significand


def quantized(values: Tensor, quantizer: Quantizer) -> Tensor:
    """Quantize floats as the NPU does its inputs: halves away from zero; at 8 bits the product is first an FP16."""
    scale, zero_point = _along(quantizer, values.ndim)
    steps = values.double() * (1 / scale.float()).double()  # in float32 the product would be rounded a second time
    steps = _half(steps) if quantizer.bits == 8 else steps
    return (torch.trunc(steps + torch.copysign(HALF, steps)) + zero_point).clamp(*quantizer.levels).float()


def _half(values: Tensor) -> Tensor:
    """Round to FP16 in one step; torch goes from float64 by way of float32."""
    unit = torch.ldexp(torch.ones_like(values), torch.frexp(values).exponent - FP16_BITS)
    return torch.round(values / unit) * unit


def dequantized(integers: Tensor, quantizer: Quantizer) -> Tensor:
    """Give the values of integers."""
    scale, zero_point = _along(quantizer, integers.ndim)
    return (integers - zero_point.float()) * scale.float()


def float_node(graph: Graph, node: NodeProto, reads: Iterable[str]) -> Callable[..., tuple[Tensor, ...]]:
    """Give what runs a node in float, sample by sample, on tensors of these names; what else it reads is constant."""
    names = list(reads)
    constants = {
        name: numpy_helper.from_array(np.ascontiguousarray(values, _dtype(values)), name)
        for name in node.input
        if name and name not in names and (values := graph.find_constant(name)) is not None
    }
    outputs = [name for name in node.output if name]
    model = helper.make_model(
        helper.make_graph(
            [node],
            "node",
            [_value(graph, name) for name in names],
            [_value(graph, name) for name in outputs],
            list(constants.values()),
        ),
        opset_imports=graph.proto.opset_import,
        ir_version=graph.proto.ir_version,
    )
    session = open_session(model.SerializeToString())

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = run_samples(session.run, names, outputs, tuple(one.contiguous() for one in inputs))
        return tuple(found[name] for name in outputs)

    return run


def _dtype(values: np.ndarray) -> np.dtype:
    """Give the type of a constant; those that were dequantized come in float64."""
    return np.dtype(np.float32) if values.dtype == np.float64 else values.dtype


def _value(graph: Graph, name: str) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(graph.dtype(name))
    return helper.make_tensor_value_info(name, kind or TensorProto.FLOAT, None)


def _along(quantizer: Quantizer, rank: int) -> tuple[Tensor, Tensor]:
    """Give scale and zero point as they meet a tensor of this rank."""
    shape = [1] * rank
    if quantizer.scale.size > 1:
        shape[quantizer.axis] = -1
    scale, zero_point = (values.astype(np.float64).reshape(shape) for values in (quantizer.scale, quantizer.zero_point))
    return torch.from_numpy(scale), torch.from_numpy(zero_point)
