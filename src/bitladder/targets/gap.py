"""Where the NPU diverges from QuantSim: every quantized tensor of an exported graph, on both sides, on the same input.

ONNX Runtime's CPU provider with optimisations off stands in for QuantSim, whose outputs an exported graph gives to
within export.min_sqnr_db. Both sides run one graph, which hands out what stands at each quantizer; that the NPU must
hand it out can undo a fusion of ops across one, so a divergence that only such a fusion makes is not seen here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from bitladder.errors import UserError
from bitladder.export.checks import run_unoptimised
from bitladder.htp.repair import Finding, find
from bitladder.htp.rule import OLD
from bitladder.network.evaluate import sqnr_db
from bitladder.network.outputs import Outputs
from bitladder.params import TargetParams
from bitladder.running.files import replacing
from bitladder.socs import Soc
from bitladder.targets.context import Compiled, compile_model, run
from bitladder.tasks.samples import Samples

__all__ = ["Cause", "Execute", "LayerGap", "find_gap", "first_divergence"]

USUAL_DB = {8: 42.0, 16: 76.0}
"""SQNR that rounding alone leaves, by activation bits: medians of tiny networks that are right (HTP v73 to v81)."""

USUAL_OLD_DB = {8: 40.0, 16: 61.0}
"""The same of v68 and v69."""

MARGIN_DB, FALL_DB = 20.0, 10.0
"""How far a layer that has diverged is below what is usual, and below the layers that it reads."""

_BITS = {
    TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
}  # fmt: skip

_CLIPS = {"Clip", "Relu", "HardSwish", "HardSigmoid", "LeakyRelu", "PRelu"}
_QDQ = {"QuantizeLinear", "DequantizeLinear"}
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
    """One quantized tensor: what makes it, its bits, and SQNR of the NPU's values against QuantSim's, in dB.

    `before_db`: the least SQNR of the quantized tensors that it is made of; None where it is of the graph's inputs.
    """

    layer: str
    kinds: tuple[str, ...]
    bits: int
    sqnr_db: float
    causes: tuple[Cause, ...]
    before_db: float | None = None


Execute = Callable[[Compiled, Samples, Path], Outputs]
"""Runs samples through what is compiled, with a folder to work in."""


def find_gap(
    model: Path, split: Samples, soc: Soc, settings: TargetParams, workspace: Path, execute: Execute | None = None
) -> list[LayerGap]:
    """Compare every quantized tensor of a QDQ graph on the NPU with the same in QuantSim, in topological order.

    Args:
        model: QDQ ONNX.
        split: a few samples.
        soc: the chip to compile for.
        settings: the limits on time are its.
        workspace: scratch.
        execute: what runs the compiled graph; None: the emulator.

    Raises UserError where the graph has no quantizers, or the backend fails.

    """
    instrumented = workspace / "gap.onnx"
    layers, sources = _instrument(model, instrumented, soc)
    expected = run_unoptimised(instrumented, split)
    compiled = compile_model(instrumented, workspace / "compiled", soc, False, settings.compile_limit_s, workspace)

    def emulate(compiled: Compiled, split: Samples, workspace: Path) -> Outputs:
        return run(compiled, soc, False, split, settings, workspace)

    found = (execute or emulate)(compiled, split, workspace)
    found_db = {name: sqnr_db({name: expected[name]}, {name: found[name]}) for name in layers}
    return [
        replace(layer, sqnr_db=found_db[name], before_db=min((found_db[one] for one in sources[name]), default=None))
        for name, layer in layers.items()
    ]


def first_divergence(layers: list[LayerGap], soc: Soc, limit_db: float | None = None) -> LayerGap | None:
    """Give the first layer that has diverged; None where none has.

    Without a limit in dB it is the first far below what is usual at its bits, and below the layers that it reads: what
    noise adds up to over many layers is no layer's own.
    """
    usual = USUAL_OLD_DB if soc.arch in OLD else USUAL_DB
    for layer in layers:
        limit = usual[layer.bits] - MARGIN_DB
        if layer.before_db is not None:
            limit = min(limit, layer.before_db - FALL_DB)
        if layer.sqnr_db < (limit if limit_db is None else limit_db):
            return layer
    return None


def _instrument(model: Path, path: Path, soc: Soc) -> tuple[dict[str, LayerGap], dict[str, set[str]]]:
    """Write the graph with every quantized tensor as a further output.

    Returns: the layer behind each new output, in the order of the graph, without a figure yet; for each, the outputs
    that it is made of.
    """
    proto = onnx.shape_inference.infer_shapes(onnx.load(model))
    graph = _Makers(proto.graph, find(proto, soc))
    layers: dict[str, LayerGap] = {}
    names: dict[str, str] = {}
    sources: dict[str, set[str]] = {}
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
        names[node.output[0]] = name
        sources[name] = {names[one] for one in graph.quantized(node.input[0]) if one in names}
    if not layers:
        raise UserError(f"{model}: has no quantizers, so there is no QuantSim to diverge from")
    with replacing(path) as temporary:
        onnx.save(onnx.shape_inference.infer_shapes(proto), temporary)  # of the new outputs
    return layers, sources


class _Makers:
    """Which node makes each tensor, and what is odd about some."""

    def __init__(self, graph: onnx.GraphProto, findings: list[Finding]) -> None:
        self.constants: Mapping[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._findings = findings

    def fused(self, tensor: str) -> Iterator[onnx.NodeProto]:
        """Give the node that makes a tensor, and before an activation the node that it is fused with."""
        node = self._makers.get(tensor)
        while node is not None and node.op_type not in _QDQ:
            yield node
            node = self._makers.get(node.input[0]) if node.op_type in _CLIPS else None

    def causes(self, made_by: list[onnx.NodeProto], bits: int) -> Iterator[Cause]:
        """Say what is typical of a layer that diverges, and what to do, the likeliest first."""
        main = made_by[-1]
        concerned = {node.name for node in made_by} | {node.name for node in self._before(main)}
        known = {one.rule.name: one.rule for one in self._findings if one.node in concerned}
        for rule in known.values():
            yield Cause(
                f"{rule.name}: {rule.why}; repair: {rule.remedy} (`bitladder lint`, export.repairs)", proven=True
            )
        if known:
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

    def quantized(self, tensor: str) -> Iterator[str]:
        """Give the quantized tensors that a tensor is made of, the nearest ones."""
        node = self._makers.get(tensor)
        for name in node.input if node is not None else ():
            made = self._makers.get(name)
            if made is not None and made.op_type == "DequantizeLinear":
                yield made.input[0]
            else:
                yield from self.quantized(name)

    def _before(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Give the nodes that make what a node reads, seen through quantizers and the sum with a bias."""
        for made in filter(None, map(self._makers.get, node.input)):
            through = made.op_type in _QDQ or (node.op_type == "Add" and made.op_type == "MatMul")
            yield from self._before(made) if through else (made,)
