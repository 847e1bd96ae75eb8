"""Toy QDQ graphs, built without AIMET."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from bitladder.params import TargetParams
from bitladder.tasks.task import Split

WEIGHT_SCALE = 1 / 127

BIAS = 0.5


def settings(**changes) -> TargetParams:
    values = {
        "backend": "hexagon-emulator",
        "soc": "SM8650",
        "samples": 3,
        "max_gap": 0.1,
        "max_relative_gap": None,
        "workers": 1,
        "compile_limit_s": 60,
        "sample_limit_s": 60,
    }
    return TargetParams(**{**values, **changes})


def samples(count: int = 3) -> Split:
    images = torch.rand(count, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    return Split({"x": images}, torch.arange(count) % 2)


def two_convs(path: Path, full_range_bias: bool = False, bits: int = 8) -> Path:
    """Build `first` and `second`, 1x1 convolutions with 8-bit weights, activations of `bits`, and int32 biases.

    With `full_range_bias` that of `second` fills int32, as AIMET's default export does where the input has no
    quantizer of its own: it is then not in units of input scale x weight scale.
    """
    levels = 2**bits - 1
    rng = np.random.default_rng(0)
    constants = {
        "zero": np.array(0, np.uint8 if bits == 8 else np.uint16),
        "weight_zero": np.zeros(4, np.int8),
        "bias_zero": np.zeros(4, np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "zero"], ["x0"]),
    ]
    constants["x_scale"] = np.array(1 / levels, np.float32)
    before, scale = "x0", 1 / levels
    for name in ("first", "second"):
        unit = BIAS / 2**31 * 1.01 if full_range_bias and name == "second" else scale * WEIGHT_SCALE
        scale = (3 if name == "first" else 10) / levels
        constants |= {
            f"{name}_w": rng.integers(1, 127, (4, 4, 1, 1)).astype(np.int8),
            f"{name}_w_scale": np.full(4, WEIGHT_SCALE, np.float32),
            f"{name}_b": np.rint(np.full(4, BIAS) / unit).astype(np.int32),
            f"{name}_b_scale": np.full(4, unit, np.float32),
            f"{name}_scale": np.array(scale, np.float32),
        }
        nodes += [
            helper.make_node(
                "DequantizeLinear", [f"{name}_w", f"{name}_w_scale", "weight_zero"], [f"{name}_wd"], axis=0
            ),
            helper.make_node("DequantizeLinear", [f"{name}_b", f"{name}_b_scale", "bias_zero"], [f"{name}_bd"], axis=0),
            helper.make_node("Conv", [before, f"{name}_wd", f"{name}_bd"], [f"{name}_r"], name),
            helper.make_node("QuantizeLinear", [f"{name}_r", f"{name}_scale", "zero"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", "zero"], [f"{name}_d"]),
        ]
        before = f"{name}_d"
    nodes.append(helper.make_node("ReduceMean", [before, "axes"], ["output"], "pool", keepdims=0))
    constants["axes"] = np.array([2, 3], np.int64)
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path
