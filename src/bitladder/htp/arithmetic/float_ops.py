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

CUT = 52 - 10  # bits of a float64's significand less those of an FP16's


def quantized(values: Tensor, quantizer: Quantizer) -> Tensor:
    """Quantize floats as the NPU does its inputs: halves away from zero; at 8 bits the product is first an FP16."""
    scale, zero_point = _along(quantizer, values.ndim)
    steps = values.double()
    steps *= (1 / scale.float()).double()  # in float32 the product would be rounded a second time
    if quantizer.bits == 8:
        steps = _half(steps).float()
    steps += torch.copysign(HALF.to(steps.dtype), steps)
    return steps.trunc_().add_(zero_point).clamp_(*quantizer.levels).float()


def _half(values: Tensor) -> Tensor:
    """Round to FP16's significand, halves to even, in one step; torch goes from float64 by way of float32."""
    bits = values.view(torch.int64)
    odd = (bits >> CUT).bitwise_and_(1)
    odd += bits
    odd += (1 << CUT - 1) - 1
    return odd.bitwise_and_(-(1 << CUT)).view(torch.float64)


def dequantized(integers: Tensor, quantizer: Quantizer) -> Tensor:
    """Give the values of integers."""
    scale, zero_point = _along(quantizer, integers.ndim)
    return (integers - zero_point.float()) * scale.float()


def float_node(
    graph: Graph, node: NodeProto, reads: Iterable[str], *, whole: bool
) -> Callable[..., tuple[Tensor, ...]]:
    """Give what runs a node in float on tensors of these names; what else it reads is constant.

    It takes what it gets sample by sample, along the first axis; `whole`: as it is, which is of one sample.
    """
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
        parts = tuple(one.contiguous() for one in inputs)
        if whole:
            made = session.run(outputs, {name: part.numpy() for name, part in zip(names, parts, strict=True)})
            return tuple(torch.from_numpy(np.asarray(one)) for one in made)
        found = run_samples(session.run, names, outputs, parts)
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
