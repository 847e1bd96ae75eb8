"""Where the NPU diverges from QuantSim: every quantized tensor of an exported graph, on both sides, on the same input.

ONNX Runtime's CPU provider with optimisations off stands in for QuantSim, whose outputs an exported graph gives to
within export.min_sqnr_db. Both sides run one graph, which hands out what stands at each quantizer; that the NPU must
hand it out can undo a fusion of ops across one, so a divergence that only such a fusion makes is not seen here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from bitladder.errors import UserError
from bitladder.export.checks import run_unoptimised, wrong_bias_scales
from bitladder.network.evaluate import sqnr_db
from bitladder.params import TargetParams
from bitladder.running.files import replacing
from bitladder.socs import Soc
from bitladder.targets.context import compile_model, run
from bitladder.tasks.samples import Samples

__all__ = ["Cause", "LayerGap", "find_gap", "first_divergence"]

LIMITS_DB = {8: 15.0, 16: 30.0}
"""SQNR under which a layer has diverged, by activation bits; rounding alone leaves 25 dB and more at 8, 55 at 16."""

_BITS = {
    TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
}  # fmt: skip

BROKEN_ROWS = 16
"""Rows at which LayerNormalization and a fully connected layer go wrong at 16 bits: emulated HTP v73, v75 and v79."""

_CLIPS = {"Clip", "Relu", "HardSwish", "HardSigmoid", "LeakyRelu", "PRelu"}
_QDQ = {"QuantizeLinear", "DequantizeLinear"}
_RESHAPES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}

_PREFIX = "bitladder_gap_"


@dataclass(frozen=True)
class Cause:
    """What is typical of a layer that diverges, and what to do.

    `proven`: networks were seen to diverge by it, and to agree once it was put right. The others are what such layers
    are suspected of; no network of ours has diverged by one of them alone.
    """

    text: str
    proven: bool = False


@dataclass(frozen=True)
class LayerGap:
    """One quantized tensor: what makes it, its bits, and SQNR of the NPU's values against QuantSim's, in dB."""

    layer: str
    kinds: tuple[str, ...]
    bits: int
    sqnr_db: float
    causes: tuple[Cause, ...]


def find_gap(model: Path, split: Samples, soc: Soc, settings: TargetParams, workspace: Path) -> list[LayerGap]:
    """Compare every quantized tensor of a QDQ graph on the NPU with the same in QuantSim, in topological order.

    Args:
        model: QDQ ONNX.
        split: a few samples.
        soc: the chip to compile for.
        settings: the limits on time are its.
        workspace: scratch.

    Raises UserError where the graph has no quantizers, or the backend fails.

    """
    instrumented = workspace / "gap.onnx"
    layers = _instrument(model, instrumented)
    expected = run_unoptimised(instrumented, split)
    compiled = compile_model(instrumented, workspace / "compiled", soc, False, settings.compile_limit_s, workspace)
    found = run(compiled, soc, False, split, settings, workspace)
    return [
        LayerGap(
            layer.layer, layer.kinds, layer.bits, sqnr_db({name: expected[name]}, {name: found[name]}), layer.causes
        )
        for name, layer in layers.items()
    ]


def first_divergence(layers: list[LayerGap], limit_db: float | None = None) -> LayerGap | None:
    """Give the first layer under the limit, by default the one for its bits; None where there is none."""
    for layer in layers:
        if layer.sqnr_db < (LIMITS_DB[layer.bits] if limit_db is None else limit_db):
            return layer
    return None


def _instrument(model: Path, path: Path) -> dict[str, LayerGap]:
    """Write the graph with every quantized tensor as a further output.

    Returns: the layer behind each new output, in the order of the graph, without a figure yet.
    """
    proto = onnx.shape_inference.infer_shapes(onnx.load(model))
    graph = _Makers(proto.graph, set(wrong_bias_scales(model)))
    layers: dict[str, LayerGap] = {}
    for node in list(proto.graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] in graph.constants:
            continue
        made_by = list(graph.fused(node.input[0]))
        bits = _BITS.get(graph.constants[node.input[2]].data_type) if node.input[2] in graph.constants else None
        if not made_by or bits is None:
            continue
        # A dequantizer of its own: the graph's goes on feeding the next layer and nothing else
        name = f"{_PREFIX}{len(layers)}"
        proto.graph.node.append(helper.make_node("DequantizeLinear", [node.output[0], *node.input[1:3]], [name], name))
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        kinds = tuple(maker.op_type for maker in reversed(made_by))
        layers[name] = LayerGap(made_by[-1].name, kinds, bits, 0.0, tuple(graph.causes(made_by, bits)))
    if not layers:
        raise UserError(f"{model}: has no quantizers, so there is no QuantSim to diverge from")
    with replacing(path) as temporary:
        onnx.save(onnx.shape_inference.infer_shapes(proto), temporary)  # of the new outputs
    return layers


class _Makers:
    """Which node makes each tensor, and what is odd about some."""

    def __init__(self, graph: onnx.GraphProto, wrong_biases: set[str]) -> None:
        self.constants: Mapping[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._wrong_biases = wrong_biases
        self._shapes = {
            value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.output)
        }

    def fused(self, tensor: str) -> Iterator[onnx.NodeProto]:
        """Give the node that makes a tensor, and before an activation the node that it is fused with."""
        node = self._makers.get(tensor)
        while node is not None and node.op_type not in _QDQ:
            yield node
            node = self._makers.get(node.input[0]) if node.op_type in _CLIPS else None

    def causes(self, made_by: list[onnx.NodeProto], bits: int) -> Iterator[Cause]:
        """Say what is typical of a layer that diverges, and what to do, the likeliest first."""
        main = made_by[-1]
        if bits == 16 and self._rows_after_norm(main) == BROKEN_ROWS:
            yield Cause(
                f"{BROKEN_ROWS} rows: at 16 bits a fully connected layer right after a LayerNormalization is wrong"
                f" if it gets {BROKEN_ROWS} rows (tokens), and right at every other number tried from 1 to 64; cut or"
                " pad the sequences to another length",
                proven=True,
            )
            return
        if main.name in self._wrong_biases:
            yield Cause(
                "bias scale: its int32 bias is not in units of input scale x weight scale, as which the NPU reads it;"
                " export with biases in float (export_qdq does, unless int32_bias=True)",
                proven=True,
            )
            return
        before = self._makers.get(main.input[0])
        if before is not None and before.op_type == "Pad":
            yield Cause(
                "pad: a Pad without a quantizer stands before it, so its input has no scale of its own; use the"
                " convolution's own padding in the model"
            )
        if clips := [node.op_type for node in made_by[:-1]]:
            yield Cause(
                f"fused clip: the NPU runs {main.op_type} and {' and '.join(clips)} as one op; see whether the layer"
                " agrees without the activation, and with ReLU in place of ReLU6"
            )
        if bits == 16:
            yield Cause(
                "16-bit op: the NPU has other kernels at 16 bits; see whether it agrees at 8 bits of activations"
            )

    def _rows_after_norm(self, main: onnx.NodeProto) -> int | None:
        """Count the rows that a fully connected layer right after a LayerNormalization gets; None of other layers."""
        if main.op_type == "Add":  # of its bias
            main = next((node for node in map(self._makers.get, main.input) if node is not None), main)
        if main.op_type not in ("MatMul", "Gemm"):
            return None
        node = self._makers.get(main.input[0])
        while node is not None and node.op_type in {*_QDQ, *_RESHAPES}:
            node = self._makers.get(node.input[0])
        shape = self._shapes.get(node.output[0]) if node is not None and node.op_type == "LayerNormalization" else None
        return prod(shape[:-1]) if shape else None
