"""Asking the backend itself which ops a SoC takes: a toy of each kind, compiled at each precision.

What was found is kept for the installed backend, as a SoC's whole table takes minutes.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime_qnn
from onnx import TensorProto, helper, numpy_helper
from pebble import ProcessPool
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.htp.graph import Graph
from bitladder.htp.plain_qdq import WEIGHTS, add_quantizers
from bitladder.precision import OPSET
from bitladder.running.files import read_json, write_json
from bitladder.socs import Soc
from bitladder.targets.backend import compile_context
from bitladder.targets.probe import LIMIT_S, PROBED
from bitladder.targets.workers import result, worker_pool

__all__ = ["TOYS", "Toy", "probe_ops", "toy_graph"]

RANGE = (-4.0, 4.0)  # of every activation

IMAGE, TOKENS = (1, 8, 8, 8), (1, 8, 16)


@dataclass(frozen=True)
class Toy:
    """One op: its ONNX type, the shapes of its activations, its constants, its attributes.

    With `block`, each channel's weights have a scale for each so many input channels, not one.
    """

    op: str
    inputs: tuple[tuple[int, ...], ...] = (IMAGE,)
    constants: tuple[np.ndarray, ...] = ()
    attributes: tuple[tuple[str, object], ...] = ()
    outputs: int = 1
    block: int | None = None


def _weights(*shape: int) -> np.ndarray:
    return np.resize(np.arange(-7, 8), shape).astype(np.float32) / 8


def _sizes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


_ONE, _POOL = np.ones(8, np.float32), (("kernel_shape", [2, 2]), ("strides", [2, 2]))
_DOUBLED = (np.empty(0, np.float32), np.array([1, 1, 2, 2], np.float32))  # the first, regions, is left out

TOYS: dict[str, Toy] = {
    "Conv": Toy("Conv", constants=(_weights(8, 8, 3, 3),)),
    "Conv, 1-D": Toy("Conv", (TOKENS,), (_weights(8, 8, 3),)),
    "Conv, depthwise": Toy("Conv", constants=(_weights(8, 1, 3, 3),), attributes=(("group", 8),)),
    "Conv, 2 groups": Toy("Conv", constants=(_weights(8, 4, 3, 3),), attributes=(("group", 2),)),
    "ConvTranspose": Toy("ConvTranspose", constants=(_weights(8, 8, 2, 2),), attributes=(("strides", [2, 2]),)),
    "ConvTranspose, depthwise": Toy(
        "ConvTranspose", constants=(_weights(8, 1, 2, 2),), attributes=(("strides", [2, 2]), ("group", 8))
    ),
    "Gemm": Toy("Gemm", ((1, 16),), (_weights(8, 16), _weights(8)), (("transB", 1),)),
    "MatMul by weights": Toy("MatMul", (TOKENS,), (_weights(16, 8),)),
    **{
        f"{name}, blocks of {block}": Toy(op, (shape,), (_weights(*weights),), attributes, block=block)
        for block in (16, 32, 64)
        for name, op, shape, weights, attributes in (
            ("Conv 1x1", "Conv", (1, 2 * block, 8, 8), (8, 2 * block, 1, 1), ()),
            ("Gemm", "Gemm", (1, 2 * block), (8, 2 * block), (("transB", 1),)),
            ("MatMul", "MatMul", (1, 8, 2 * block), (2 * block, 8), ()),
        )
    },
    "MatMul of activations": Toy("MatMul", (TOKENS, (1, 16, 8))),
    **{op: Toy(op, (IMAGE, IMAGE)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    "Concat": Toy("Concat", (IMAGE, IMAGE), attributes=(("axis", 1),)),
    **{
        op: Toy(op)
        for op in (
            "Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu", "Softplus", "Erf", "Abs",
            "Neg", "Exp", "Sin", "Cos", "Floor", "Round", "Sign", "Reciprocal", "Sqrt", "Log", "GlobalAveragePool",
        )
    },
    "Clip": Toy("Clip", constants=(np.array(0, np.float32), np.array(6, np.float32))),
    "PRelu": Toy("PRelu", constants=(_weights(8, 1, 1),)),
    "Pow": Toy("Pow", constants=(np.array(2, np.float32),)),
    "Softmax": Toy("Softmax", (TOKENS,)),
    "LogSoftmax": Toy("LogSoftmax", (TOKENS,)),
    "LayerNormalization": Toy("LayerNormalization", ((1, 16, 8),), (_ONE, _ONE)),
    "InstanceNormalization": Toy("InstanceNormalization", constants=(_ONE, _ONE)),
    "BatchNormalization": Toy("BatchNormalization", constants=(_ONE, _ONE, _ONE, _ONE)),
    "LpNormalization": Toy("LpNormalization", attributes=(("axis", 1),)),
    "MaxPool": Toy("MaxPool", attributes=_POOL),
    "AveragePool": Toy("AveragePool", attributes=_POOL),
    **{op: Toy(op, constants=(_sizes(2, 3),)) for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")},
    "ArgMax": Toy("ArgMax", attributes=(("axis", 1),)),
    "CumSum": Toy("CumSum", (TOKENS,), (_sizes(1),)),
    "TopK": Toy("TopK", ((1, 16),), (_sizes(4),), outputs=2),
    "Transpose": Toy("Transpose", attributes=(("perm", [0, 2, 3, 1]),)),
    "Reshape": Toy("Reshape", constants=(_sizes(1, 8, 64),)),
    "Slice": Toy("Slice", constants=(_sizes(0), _sizes(4), _sizes(1))),
    "Gather": Toy("Gather", constants=(_sizes(0, 2, 5),), attributes=(("axis", 1),)),
    "Tile": Toy("Tile", constants=(_sizes(1, 1, 2, 2),)),
    "Expand": Toy("Expand", ((1, 8, 1, 1),), (_sizes(1, 8, 4, 4),)),
    "Pad": Toy("Pad", constants=(_sizes(0, 0, 1, 1, 0, 0, 1, 1),)),
    "Pad, reflect": Toy("Pad", constants=(_sizes(0, 0, 1, 1, 0, 0, 1, 1),), attributes=(("mode", "reflect"),)),
    "DepthToSpace": Toy("DepthToSpace", attributes=(("blocksize", 2),)),
    "SpaceToDepth": Toy("SpaceToDepth", attributes=(("blocksize", 2),)),
    "Resize, nearest": Toy("Resize", constants=_DOUBLED),
    "Resize, linear": Toy("Resize", constants=_DOUBLED, attributes=(("mode", "linear"),)),
    "GridSample": Toy("GridSample", (IMAGE, (1, 4, 4, 2))),
    "Einsum": Toy("Einsum", (TOKENS, TOKENS), attributes=(("equation", "bij,bkj->bik"),)),
    "LSTM": Toy(
        "LSTM", ((4, 1, 8),), (_weights(1, 32, 8), _weights(1, 32, 8)), (("hidden_size", 8),)
    ),
    "GRU": Toy("GRU", ((4, 1, 8),), (_weights(1, 24, 8), _weights(1, 24, 8)), (("hidden_size", 8),)),
}  # fmt: skip
"""By the name that is shown."""


def probe_ops(soc: Soc, kept: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Give each kind of op with what the backend says at each precision: `yes`, or why not.

    Args:
        soc: the SoC.
        kept: a folder for what was found, to be read on the next call: a file by SoC and version of the backend.

    """
    file = kept / f"ops-{soc.name}-{onnxruntime_qnn.__version__}.json"
    found: dict[str, dict[str, str]] = read_json(file) if file.is_file() else {}
    with TemporaryDirectory() as name, worker_pool(1, Path(name)) as pool:
        for kind, toy in tqdm(TOYS.items(), desc=soc.name, unit="op", disable=all(kind in found for kind in TOYS)):
            if kind not in found:
                found[kind] = _ask(kind, toy, soc, Path(name), pool)
                write_json(file, found)
            yield kind, found[kind]


def _ask(kind: str, toy: Toy, soc: Soc, workspace: Path, pool: ProcessPool) -> dict[str, str]:
    said, graphs = dict[str, str](), dict[bytes, str]()  # one without weights is the same at 4 and 8 bits of them
    for precision, bits in PROBED.items():
        graph = toy_graph(toy, bits).SerializeToString()
        if graph not in graphs:
            folder = workspace / f"{kind}-{precision}"
            folder.mkdir()
            (folder / "toy.onnx").write_bytes(graph)
            job = (str(folder / "toy.onnx"), str(folder), soc.soc_model, bits is None)
            graphs[graph] = _verdict(pool.schedule(compile_context, args=job, timeout=LIMIT_S), kind, workspace)
        said[precision] = graphs[graph]
    return said


def _verdict(future: Future, kind: str, workspace: Path) -> str:
    try:
        placement = result(future, kind, f"{LIMIT_S:g} s", workspace)
    except UserError as refusal:
        return str(refusal).removeprefix(f"{kind}: ")
    left = sorted({op for _, op in placement["cpu"]})
    return f"left for the CPU: {', '.join(left)}" if left else "yes"


def toy_graph(toy: Toy, bits: tuple[int, int] | None) -> onnx.ModelProto:
    """Build the graph of one op, in float, or with quantizers of these bits of weights and activations."""
    names = [f"x{index}" for index in range(len(toy.inputs))]
    constants = {f"c{index}": values for index, values in enumerate(toy.constants)}
    given = [*names, *(name if values.size else "" for name, values in constants.items())]
    outputs = [f"y{index}" for index in range(toy.outputs)]
    graph = helper.make_graph(
        [helper.make_node(toy.op, given, outputs, "toy", **dict(toy.attributes))],
        "toy",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(names, toy.inputs, strict=True)
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items() if values.size],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    if bits is not None:
        floats = [one.name for one in proto.graph.output if one.type.tensor_type.elem_type == TensorProto.FLOAT]
        add_quantizers(proto, dict.fromkeys([*names, *floats], RANGE), bits)
    if bits is not None and toy.block is not None:
        _block_weights(Graph(proto), toy.block, WEIGHTS[bits[0]])
    return proto


def _block_weights(graph: Graph, block: int, weight_type: int) -> None:
    """Give each block of input channels a scale of its own: the channel's, so the weights' values stay as they are."""
    (node,) = (one for one in graph.of_type("DequantizeLinear") if graph.find_constant(one.output[0]) is not None)
    channels = graph.attribute(node, "axis")
    shape = list(graph.constant(node.output[0]).shape)
    shape[1 - channels] //= block
    scale = graph.constant(node.input[1])
    others = [axis for axis in range(len(shape)) if axis != channels]
    ends = [
        graph.add_constant("block_scale", np.broadcast_to(np.expand_dims(scale, others), shape)),
        graph.add_constant(
            "block_zero_point", np.zeros(shape, helper.tensor_dtype_to_np_dtype(weight_type)), weight_type
        ),
    ]
    graph.become(node, node.op_type, [node.input[0], *ends], axis=1 - channels, block_size=block)
    graph.drop_unread()
