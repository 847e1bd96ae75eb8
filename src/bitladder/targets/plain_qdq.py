"""A QDQ graph as a plain quantizer writes it, with the ranges that samples show: htp/plain_qdq.py puts them in."""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from bitladder.export.checks import run_unoptimised
from bitladder.htp.graph import Graph
from bitladder.htp.plain_qdq import add_quantizers
from bitladder.network.model import sample_inputs
from bitladder.precision import OPSET
from bitladder.tasks.onnx_forms.sizes import inputs_of, sizes_of
from bitladder.tasks.samples import Samples, Split

__all__ = ["quantize_graph", "quantize_guessed", "quantize_plainly"]

GUESSED = 4  # random samples


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
    quantize_graph(proto, split, bits)
    onnx.save(proto, path)


def quantize_graph(proto: onnx.ModelProto, split: Samples, bits: tuple[int, int]) -> None:
    """Make QDQ of a float graph of opset OPSET, in place, with ranges from samples."""
    add_quantizers(proto, _ranges(proto, split), bits)


def quantize_guessed(proto: onnx.ModelProto, bits: tuple[int, int]) -> None:
    """Make QDQ of a float graph, in place, with the ranges that random inputs give: for what goes by nodes alone."""
    drawn = torch.Generator().manual_seed(0)
    inputs = {}
    for value in inputs_of(proto):
        shape = [GUESSED, *(size if isinstance(size, int) else 1 for size in sizes_of(value)[1:])]
        dtype = torch.from_numpy(np.empty(0, helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))).dtype
        values = torch.randn(shape, generator=drawn) if dtype.is_floating_point else torch.ones(shape)
        inputs[value.name] = values.to(dtype)
    quantize_graph(proto, Split(inputs, torch.zeros(GUESSED)), bits)


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
    return {
        name: (float(values.min()), float(values.max())) for name, values in found.items() if values.is_floating_point()
    }
