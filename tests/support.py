"""Names that tests share."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

DELETED = object()
"""Stands for a key to leave out of params.yaml."""


@dataclass(frozen=True)
class Trained:
    """A task of few digits, its splits, its FP32 network after a short training, and that made fit for AIMET."""

    task: Any
    splits: Any
    model: Any
    prepared: Any
    sample: Any


CONFIG = "htp_v75"


def rung_setting(trained, precision, techniques, folder=Path(), **changes):
    """What quantize() takes, for the small trained network: 100 samples to fit to, the rest of calibration left."""
    from bitladder.params import AdaroundParams, PtqParams, SeqMseParams
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.quantize.techniques.technique import Setting

    params = PtqParams(
        techniques=techniques if techniques == "auto" else list(techniques),
        samples=100,
        batch_size=100,
        seq_mse=SeqMseParams(samples=100),
        adaround=AdaroundParams(iterations=60, samples=100),
    ).model_copy(update=changes)
    return Setting(
        model=trained.prepared,
        unfolded=lambda: prepare(copy.deepcopy(trained.model), trained.sample, fold=False)[0],
        sample=trained.sample,
        fit=trained.splits["calibration"].first(100),
        precision=precision,
        config=CONFIG,
        params=params,
        seed=0,
        work=folder,
    )


def prepared_as_before(model, x):
    """Prepare a network with one sample, and compare the outputs of several."""
    import torch

    from bitladder.quantize.prepare.prepare import prepare

    model.eval()
    with torch.no_grad():
        expected = model(x)
        prepared, _ = prepare(model, (x[:1],))
        assert torch.allclose(prepared(x), expected, atol=1e-5)
    return prepared


def conv_model(path: Path, channels: int = 64, batch: int | str = 1) -> Path:
    """Write a float graph of one 3 x 3 convolution and a ReLU on 3 x 32 x 32."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.zeros((channels, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 32, 32])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, channels, 32, 32])
    graph = helper.make_graph(nodes, "g", [x], [z], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def quantized_convs(path: Path, bits: Sequence[tuple[int, int]]) -> Path:
    """Write a QDQ graph of 3 x 3 convolutions of 64 channels on 32 x 32, each with its bits of weights and outputs.

    Where a convolution's input has other bits than its output, it is quantized anew ahead of it.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kinds = {4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}
    constants = [numpy_helper.from_array(np.array(0.1, np.float32), "scale")]
    constants += [
        numpy_helper.from_array(np.array(0, kind), f"zero{kind(0).itemsize * 8}") for kind in (np.uint8, np.uint16)
    ]
    constants += [helper.make_tensor(f"weight_zero{width}", kind, [], [0]) for width, kind in kinds.items()]
    nodes = []

    def quantized(tensor: str, width: int) -> str:
        made = f"{tensor}_{width}"
        ends = ["scale", f"zero{width}"]
        nodes.append(helper.make_node("QuantizeLinear", [tensor, *ends], [f"{made}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{made}_q", *ends], [made]))
        return made

    before, now = quantized("x", bits[0][1]), bits[0][1]
    for index, (weights, activations) in enumerate(bits):
        before = before if activations == now else quantized(before, activations)
        now = activations
        constants.append(helper.make_tensor(f"w{index}", kinds[weights], (64, 64, 3, 3), [1] * 64 * 64 * 9))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"w{index}", "scale", f"weight_zero{weights}"], [f"w{index}d"])
        )
        nodes.append(helper.make_node("Conv", [before, f"w{index}d"], [f"c{index}"], f"conv{index}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        before = quantized(f"r{index}", now)
    x, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 32, 32]) for name in ("x", before))
    graph = helper.make_graph(nodes, "g", [x], [out], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path
