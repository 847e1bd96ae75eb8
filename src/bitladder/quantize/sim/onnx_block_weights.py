"""Weights with a scale for each block of input channels, in networks that came as ONNX."""

from collections.abc import Iterable, Mapping
from typing import Any

from onnx import NodeProto, helper
from torch import Tensor

from bitladder.quantize.sim.block_weights import check_divided, has_blocks, named
from bitladder.records import BlockWeights

__all__ = ["as_stored", "block_weights", "set_blocks"]

LAYERS = {"Conv", "Gemm", "MatMul"}


def set_blocks(nodes: Iterable[NodeProto], quantizers: Mapping[str, Any], size: int) -> None:
    """Divide the weights of the nodes that take blocks, as `block_weights.set_blocks` does those of torch's layers.

    A weight that several nodes read is divided where all of them take it so.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    keys = [
        name
        for name, own in readers.items()
        if (quantizer := quantizers.get(name)) is not None
        and quantizer.enabled
        and all(name in node.input[1:2] and _takes(node, quantizer, size) for node in own)
    ]
    for key in keys:
        quantizers[key]._enable_blockwise_quantization(size)
    check_divided(keys, size)


def block_weights(weights: Mapping[str, Any]) -> BlockWeights | None:
    """Name the layers with blocks, of weights' quantizers by layer, and those without; None where none has any."""
    return named({name: quantizer.quant_info.blockSize for name, quantizer in weights.items()})


def as_stored(quantizer: Any, rows: Tensor) -> None:
    """Give a quantizer the blocks that it has in stored ranges, a row a scale."""
    form = quantizer.tensor_quantizer_params
    if form is None or form.channel_axis is None or form.block_axis is None:
        return
    outputs, inputs = (form.tensor_shape[axis] for axis in (form.channel_axis, form.block_axis))
    if len(rows) > outputs:
        quantizer._enable_blockwise_quantization(inputs * outputs // len(rows))


def _takes(node: NodeProto, quantizer: Any, size: int) -> bool:
    form = quantizer.tensor_quantizer_params
    if node.op_type not in LAYERS or form is None or form.block_axis is None:
        return False
    groups = next((helper.get_attribute_value(one) for one in node.attribute if one.name == "group"), 1)
    kernel = form.tensor_shape[2:]
    matrix = len(form.tensor_shape) == 2 or (len(kernel) == 2 and set(kernel) == {1} and groups == 1)
    return matrix and has_blocks(form.tensor_shape[form.block_axis], size)
