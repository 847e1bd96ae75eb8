"""Asking the backend itself what a SoC takes: a toy Conv and a toy MatMul, compiled at every precision."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bitladder.errors import UserError
from bitladder.precision import OPSET
from bitladder.socs import Soc
from bitladder.targets.backend import compile_context
from bitladder.targets.workers import result, worker_pool

__all__ = ["PROBED", "Verdict", "probe"]

PROBED = {"FP16": None, "W16A16": (16, 16), "W8A16": (8, 16), "W8A8": (8, 8), "W4A16": (4, 16), "W4A8": (4, 8)}
"""Precisions that are asked for, as bits of weights and activations."""

LIMIT_S = 60.0  # a toy compiles in under a second

_WEIGHTS = {4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}
_ACTIVATIONS = {8: TensorProto.UINT8, 16: TensorProto.UINT16}

_CHIP = re.compile(rb"soc_type=([A-Za-z0-9]+);arch=(\d+)")


@dataclass(frozen=True)
class Verdict:
    """Whether a SoC takes a precision; `reason` says why not. `chip`: the backend's name for it, and its generation."""

    precision: str
    takes: bool
    reason: str
    chip: str | None


def probe(soc: Soc) -> Iterator[Verdict]:
    """Compile toys for a SoC, one verdict a precision. A compile that never ends is given up after LIMIT_S."""
    with TemporaryDirectory() as name, worker_pool(1, Path(name)) as pool:
        for precision, bits in PROBED.items():
            reasons, chip = [], None
            for kind in ("Conv", "MatMul"):
                folder = Path(name) / f"{precision}-{kind}"
                folder.mkdir()
                onnx.save(_toy_model(kind, bits), folder / "toy.onnx")
                job = (str(folder / "toy.onnx"), str(folder), soc.soc_model, bits is None)
                future = pool.schedule(compile_context, args=job, timeout=LIMIT_S)
                try:
                    placement = result(future, kind, f"{LIMIT_S:g} s", Path(name))
                except UserError as refusal:
                    reasons.append(str(refusal))
                    continue
                if placement["cpu"]:
                    reasons.append(f"{kind} is left for the CPU")
                for binary in folder.glob("*.bin"):
                    if found := _CHIP.search(binary.read_bytes()):
                        chip = f"{found[1].decode()} v{found[2].decode()}"
            yield Verdict(precision, not reasons, "; ".join(reasons), chip)


def _toy_model(kind: str, bits: tuple[int, int] | None) -> onnx.ModelProto:
    """Build a model of one Conv or MatMul, float or with quantizers of these bits of weights and activations."""
    shape, weights = ([1, 8, 8, 8], (8, 8, 3, 3)) if kind == "Conv" else ([1, 8, 16], (16, 16))
    out = [1, 8, 6, 6] if kind == "Conv" else shape
    values = np.resize(np.arange(-7, 8), weights)
    nodes, constants = [], []
    if bits is None:
        constants.append(numpy_helper.from_array(values.astype(np.float32), "w"))
        nodes.append(helper.make_node(kind, ["x", "w"], ["y"], "toy"))
    else:
        weight_type, activation_type = _WEIGHTS[bits[0]], _ACTIVATIONS[bits[1]]
        constants += [
            numpy_helper.from_array(np.array(0.01, np.float32), "scale"),
            helper.make_tensor("zero", activation_type, [], [2 ** (bits[1] - 1)]),
            helper.make_tensor("weight_zero", weight_type, [], [0]),
            helper.make_tensor("w", weight_type, weights, values.flatten().tolist()),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "scale", "weight_zero"], ["wd"]),
            helper.make_node(kind, ["xd", "wd"], ["r"], "toy"),
            helper.make_node("QuantizeLinear", ["r", "scale", "zero"], ["rq"]),
            helper.make_node("DequantizeLinear", ["rq", "scale", "zero"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
