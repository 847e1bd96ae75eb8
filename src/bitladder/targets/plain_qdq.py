"""A QDQ graph as a plain quantizer writes it, for rules about what our own export does not write.

Each activation has a quantizer of the range that samples show; weights are per channel and symmetric; biases and other
constants stay in float.
"""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper
from torch import nn

from bitladder.export.checks import run_unoptimised
from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.network.model import sample_inputs
from bitladder.precision import OPSET
from bitladder.tasks.samples import Samples

__all__ = ["quantize_plainly"]

OUTPUT_CHANNELS = {"Conv": 0, "MatMul": 1, "Gemm": 0}
"""Ops with weights as their second input, and along which axis of these the output's channels are."""

WEIGHTS = {4: TensorProto.INT4, 8: TensorProto.INT8}


def quantize_plainly(
    network: nn.Module, split: Samples, names: tuple[list[str], list[str]], bits: tuple[int, int], path: Path
) -> None:
    """Write a network as QDQ ONNX, with ranges from samples.

    Args:
        network: in float.
        split: the samples.
        names: of the graph's inputs and outputs.
        bits: of weights and activations.
        path: of the .onnx file.

    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # dynamo=False is called deprecated
        torch.onnx.export(
            network,
            sample_inputs(split),
            str(path),
            input_names=names[0],
            output_names=names[1],
            opset_version=OPSET,
            dynamo=False,
        )
    proto = onnx.load(path)
    _quantize(proto, _ranges(proto, split), bits)
    onnx.save(proto, path)


def _quantize(proto: onnx.ModelProto, ranges: dict[str, tuple[float, float]], bits: tuple[int, int]) -> None:
    graph = Graph(proto)
    for node in graph.nodes:
        for index, name in enumerate(node.input[1:2], 1):
            if graph.find_constant(name) is not None:
                _quantize_weights(graph, node, index, bits[0])
    for value in proto.graph.input:
        quantizer = Quantizer.of_range(*ranges[value.name], bits[1])
        for reader in graph.readers(value.name):
            if reader.op_type != "QuantizeLinear":
                graph.quantize_input(reader, list(reader.input).index(value.name), quantizer)
    for node in graph.nodes:
        output = node.output[0]
        if output in ranges and not _has_bias_behind(graph, node):
            graph.quantize_output(node, Quantizer.of_range(*ranges[output], bits[1]))


def _quantize_weights(graph: Graph, node: NodeProto, index: int, bits: int) -> None:
    name = node.input[index]
    values = graph.constant(name)
    if node.op_type == "LayerNormalization":  # of fewer than 8 bits the NPU does not take its factors
        graph.set_input(node, index, graph.add_quantized(name, values, Quantizer.of_range(0, values.max(), 8), node))
    if node.op_type in OUTPUT_CHANNELS:
        axis = OUTPUT_CHANNELS[node.op_type]
        largest = np.abs(values).max(tuple(one for one in range(values.ndim) if one != axis))
        scale = largest / (2 ** (bits - 1) - 1)
        quantizer = Quantizer(scale, np.zeros(scale.shape, np.int64), WEIGHTS[bits], axis)
        graph.set_input(node, index, graph.add_quantized(name, values, quantizer, node))


def _has_bias_behind(graph: Graph, node: NodeProto) -> bool:
    """Tell a product that an addition of a constant follows: a linear layer on tokens, as exporters write it."""
    readers = graph.readers(node.output[0])
    if node.op_type != "MatMul" or len(readers) != 1 or readers[0].op_type != "Add":
        return False
    return any(graph.find_constant(name) is not None for name in readers[0].input)


def _ranges(proto: onnx.ModelProto, split: Samples) -> dict[str, tuple[float, float]]:
    """Give the range of each activation on samples."""
    graph, watched = Graph(proto), onnx.ModelProto()
    watched.CopyFrom(proto)
    names = [node.output[0] for node in graph.nodes if graph.find_constant(node.output[0]) is None]
    inner = [name for name in names if graph.dtype(name) == np.float32 and not graph.is_output(name)]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        onnx.save(watched, path)
        found = run_unoptimised(path, split)
    found |= next(iter(split.batches(len(split))))[0]
    return {name: (float(values.min()), float(values.max())) for name, values in found.items()}
