"""The operations of an ONNX graph as a latency model sees them: work and traffic, counted from the graph alone.

Float, FP16 and QDQ graphs of one network give the same operations: QuantizeLinear and DequantizeLinear are no ops,
batch norms and activations belong to the convolution before them, and whatever is computed from constants is gone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, shape_inference
from onnx.shape_inference import InferenceError

from bitladder.errors import UserError
from bitladder.latency.bits import Bits
from bitladder.latency.patterns import Links, is_bias, merge_patterns
from bitladder.latency.tiles import LANES, filled, is_packed, spatial, tiled

__all__ = ["KINDS", "Op", "read_ops"]

KINDS = (
    *("conv", "depthwise", "linear", "matmul", "recurrent", "pointwise", "curve", "norm", "softmax", "pool", "window"),
    *("concat", "move", "border"),
)
"""Kinds of operation: `linear` has constant weights and `matmul` has none; `recurrent` are the steps of an LSTM or GRU;
`curve` is pointwise with a transcendental function (sigmoid, GELU); `norm` divides by a sum over axes; `window` is an
average over windows that the vector unit has no kernel for; `move` only moves data; `border` are the graph's inputs and
outputs."""

MOST_OF_A_SHAPE = 512
"""Elements of the largest constant that a shape may be worked out from; larger ones are weights."""

_SAME = {"QuantizeLinear", "DequantizeLinear", "Identity", "Cast", "Dropout"}
_FREE = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_CHANNELS_FIRST_OR_LAST = ([0, 2, 3, 1], [0, 3, 1, 2])
_FUSED = {"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "BatchNormalization"}
_TAKES_FUSED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_KIND_OF = {
    **dict.fromkeys(("Sigmoid", "Tanh", "Erf", "Gelu", "Exp", "Log", "Pow", "Sqrt", "Softplus", "Mish"), "curve"),
    **dict.fromkeys(("HardSigmoid", "HardSwish", "Elu", "Selu", "Swish", "Sin", "Cos"), "curve"),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"), "norm"),
    **dict.fromkeys(("LpNormalization", "LRN", "ReduceL2", "SimplifiedLayerNormalization"), "norm"),
    **dict.fromkeys(("Softmax", "LogSoftmax"), "softmax"),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample"), "pool"),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ArgMax", "TopK"), "pool"),
    **dict.fromkeys(("Transpose", "Slice", "Split", "Gather", "Pad", "Expand", "Tile"), "move"),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth", "GatherElements", "GatherND", "ScatterND"), "move"),
    "Concat": "concat",
}  # every other kind is pointwise


@dataclass(frozen=True)
class Op:
    """One operation. Counts are of elements, not bytes: what a byte count is depends on the precision.

    `macs` are multiply-accumulates; `padded_macs` those that the matrix unit does, which fills up its tiles (as many
    groups of a grouped convolution as fit go through at once). `tensors` are the activations read and written, in
    elements of whole tiles, and `tiled` those of them that are not packed images. `times` is how often it runs: for
    each step of a recurrent one, for each head and window of a product of activations. `precision` is what the graph's
    quantizers say, fp16 where there are none.
    """

    name: str
    kind: str
    macs: int
    padded_macs: int
    weights: int
    tensors: tuple[int, ...]
    tiled: tuple[int, ...]
    times: int = 1
    precision: str = "fp16"


def read_ops(path: Path) -> list[Op]:
    """Read the operations of an ONNX model, in the order of the graph. A free first dimension counts as 1.

    Raises UserError where the file is no ONNX model or its shapes are not known.
    """
    try:
        model = onnx.load(path)
        _fix_batch(model)
        graph = _Graph(path, shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph)
        if graph.unknown():
            graph = _Graph(path, shape_inference.infer_shapes(_folded(model), strict_mode=True, data_prop=True).graph)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except InferenceError as error:
        raise UserError(f"{path}: its shapes do not fit: {' '.join(str(error).split())[:200]}") from None
    except (DecodeError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: not readable as ONNX ({' '.join(str(error).split())[:200]})") from None
    if name := graph.unknown():
        raise UserError(f"{path}: the shape of {name!r} is not known; export it with fixed shapes")
    return [*graph.ops(), graph.border()]


def _fix_batch(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = 1


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Have ONNX Runtime compute what does not depend on the input, such as shapes that a graph works out itself.

    Weights are only declared to it: shapes do not depend on them, and loading them takes most of the time.
    """
    import onnxruntime

    weights = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) > MOST_OF_A_SHAPE]
    kept = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) <= MOST_OF_A_SHAPE]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(kept)
    declared = {value.name for value in model.graph.input}
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in weights
        if tensor.name not in declared
    )
    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 3
        source = Path(folder) / "fixed.onnx"
        onnx.save(model, source)
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(options.optimized_model_filepath)
    folded.graph.initializer.extend(
        TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims) for tensor in weights
    )
    return folded


class _Graph:
    def __init__(self, path: Path, graph: onnx.GraphProto) -> None:
        self.path, self.graph = path, graph
        self.shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for value in (*graph.input, *graph.output, *graph.value_info):
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                self.shapes.setdefault(value.name, tuple(dim.dim_value for dim in dims))
        self.constant = {tensor.name for tensor in graph.initializer}
        self.alias: dict[str, str] = {}
        self.bits = Bits(graph)
        self.live = self._live()
        self.links = Links(self.live, self.source, self.constant)

    def _live(self) -> list[onnx.NodeProto]:
        """Give the nodes that work on data, and note which tensors are constant and which only rename another."""
        live: list[onnx.NodeProto] = []
        for node in self.graph.node:
            inputs = [name for name in node.input if name]
            fixed = node.op_type in {"Constant", "Shape", "Size"} or all(name in self.constant for name in inputs)
            if fixed:
                self.constant.update(node.output)
            if node.op_type in _SAME and inputs and not self.bits.converts(node):
                self.alias[node.output[0]] = self.source(inputs[0])
            elif not fixed:
                live.append(node)
        return live

    def unknown(self) -> str | None:
        """Name a tensor whose shape is needed and not known."""
        names = (name for node in self.live for name in (*node.input, node.output[0]) if name)
        return next((name for name in names if self.shape(name) is None), None)

    def ops(self) -> Iterator[Op]:
        links = self.links
        merged = merge_patterns(self.live, links)
        for node in self.live:
            kind = merged.get(id(node), _KIND_OF.get(node.op_type, "pointwise"))
            # An activation that follows neither a weighted operation nor a sum is an operation of its own
            with_maker = is_bias(node, links) or (
                node.op_type in _FUSED and any(maker.op_type in _TAKES_FUSED for maker in links.makers(node))
            )
            if kind is not None and node.op_type not in _FREE and not with_maker and not self.moves_nothing(node):
                yield self.op(node, kind)

    def source(self, name: str) -> str:
        return self.alias.get(name, name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.shapes.get(name, self.shapes.get(self.source(name)))

    def known(self, name: str) -> tuple[int, ...]:
        shape = self.shape(name)
        assert shape is not None  # unknown() was asked first
        return shape

    def op(self, node: onnx.NodeProto, kind: str) -> Op:
        output = self.known(node.output[0])
        data = [self.known(name) for name in node.input if name and name not in self.constant]
        macs = padded = weights = 0
        times = 1
        if node.op_type in {"Conv", "ConvTranspose"}:
            kind, macs, padded, weights = self._conv(node, output)
        elif node.op_type in {"Gemm", "MatMul"}:
            kind, macs, padded, weights = self._product(node, output)
            times = math.prod(output[:-2]) if kind == "matmul" else 1
        elif node.op_type in _RECURRENT:
            kind, times = "recurrent", output[0] * output[1]
            weights = sum(math.prod(self.known(name)) for name in node.input[1:3])
        elif node.op_type == "AveragePool" and _has_no_kernel(node, output):
            kind, macs = "window", math.prod(output) * math.prod(_ints(node, "kernel_shape"))
        shapes = (*data, output)
        tensors = tuple(tiled(shape, kind) for shape in shapes)
        unpacked = tuple(size for size, shape in zip(tensors, shapes, strict=True) if not is_packed(shape))
        precision = self.bits.precision(node, self.links, weighted=weights > 0)
        return Op(node.name or node.output[0], kind, macs, padded, weights, tensors, unpacked, times, precision)

    def moves_nothing(self, node: onnx.NodeProto) -> bool:
        """Whether a transpose moves axes of length 1 only, or the channels of images, which the NPU holds last."""
        if node.op_type != "Transpose":
            return False
        shape = self.known(node.input[0])
        order = _ints(node, "perm", default=[*reversed(range(len(shape)))])
        moved = [axis for axis in order if shape[axis] > 1]
        return order in _CHANNELS_FIRST_OR_LAST or moved == sorted(moved)

    def border(self) -> Op:
        """Give the graph's inputs and outputs, which are converted and copied, as an operation."""
        values = [v.name for v in (*self.graph.input, *self.graph.output) if v.name not in self.constant]
        tensors = tuple(tiled(shape, "border") for name in values if (shape := self.shape(name)) is not None)
        return Op("border", "border", 0, 0, 0, tensors, tensors, precision=self.bits.of_border(self.graph))

    def _conv(self, node: onnx.NodeProto, output: tuple[int, ...]) -> tuple[str, int, int, int]:
        weights = self.known(node.input[1])
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        inputs, transposed = self.known(node.input[0]), node.op_type == "ConvTranspose"
        positions = math.prod(inputs[2:] if transposed else output[2:]) * output[0]
        taps, channels, made = math.prod(weights[2:]), inputs[1] // groups, output[1] // groups
        macs = positions * taps * channels * made * groups
        if groups > 1 and channels == 1:
            return "depthwise", macs, macs, math.prod(weights)
        at_once = min(groups, max(1, LANES // max(channels, made)))
        passes = math.ceil(groups / at_once)
        wide = filled(taps * channels) if channels <= LANES // 8 and groups == 1 else taps * filled(channels * at_once)
        tiled = positions if len(output) < 4 else positions * spatial(output) // (output[-2] * output[-1])
        return "conv", macs, tiled * wide * filled(made * at_once) * passes, math.prod(weights)

    def _product(self, node: onnx.NodeProto, output: tuple[int, ...]) -> tuple[str, int, int, int]:
        left, right = self.known(node.input[0]), self.known(node.input[1])
        inner = left[-1]
        if node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute):
            inner = left[0]
        macs = math.prod(output) * inner
        columns = output[-1]
        padded = macs // (inner * columns) * filled(inner) * filled(columns)
        weighted = node.input[1] in self.constant or node.input[0] in self.constant
        return ("linear" if weighted else "matmul"), macs, padded, (math.prod(right) if weighted else 0)


def _has_no_kernel(pool: onnx.NodeProto, output: tuple[int, ...]) -> bool:
    """Whether an average is neither over everything, nor over windows side by side, nor over 3 x 3."""
    kernel, strides = _ints(pool, "kernel_shape"), _ints(pool, "strides")
    return math.prod(output[2:]) > 1 and kernel != strides and set(kernel) != {3}


def _ints(node: onnx.NodeProto, name: str, default: Sequence[int] = (1, 1)) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == name), list(default))
