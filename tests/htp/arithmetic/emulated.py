"""One op between quantizers, on the emulator and by a model of it: to try a hypothesis of the NPU's arithmetic.

    graph = one_op("Add", [Quantizer.of_range(-1, 2, 8), Quantizer.of_range(-1, 1, 8)], [(1, 8, 16, 16)] * 2, out)
    share, first = compare(graph, random_integers(graph, count=2), pool)
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from bitladder.htp.arithmetic.executor import FAMILIES, Executor
from bitladder.htp.graph import Graph, Quantizer
from bitladder.socs import find_soc
from bitladder.targets.backend import CONTEXT_FILE, compile_context, run_batch

__all__ = ["Constant", "compare", "emulate", "one_op", "random_floats"]

Shape = tuple[int, ...]


class Constant:
    """An operand that is constant: quantized where it has a quantizer, else in float."""

    def __init__(self, values: np.ndarray, quantizer: Quantizer | None = None) -> None:
        self.values, self.quantizer = values, quantizer


def one_op(
    op: str,
    operands: list[tuple[Shape, Quantizer] | Constant],
    output: Quantizer,
    clip: str = "",
    clip_ends: tuple[float, ...] = (),
    **attributes: object,
) -> onnx.ModelProto:
    """Build a graph of one op, with an activation that clips where one is named."""
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, one[0])
              for i, one in enumerate(operands) if not isinstance(one, Constant)]  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    proto = helper.make_model(
        helper.make_graph([], "one", inputs, outputs), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    graph, names = Graph(proto), []
    marker = proto.graph.node.add()  # what is added goes ahead of it
    marker.output.append("marker")
    for index, one in enumerate(operands):
        if not isinstance(one, Constant):
            names.append(graph.add_quantizer(f"x{index}", one[1], marker))
        elif one.quantizer is not None:
            names.append(graph.add_quantized(f"c{index}", one.values, one.quantizer, marker))
        else:
            names.append(graph.add_constant(f"c{index}", one.values))
    made = graph.add_node(op, names, "made", marker, **attributes)
    if clip:
        ends = [graph.add_constant("end", np.array(end, np.float32)) for end in clip_ends]
        made = graph.add_node(clip, [made, *ends], "clipped", marker)
    graph.add_quantizer(made, output, marker, "out")
    proto.graph.node.remove(marker)
    proto.graph.node[-1].output[0] = "y"
    return onnx.shape_inference.infer_shapes(proto)


def random_floats(graph: onnx.ModelProto, count: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Give inputs that meet every integer of the inputs' quantizers, each with the value in the middle of its step."""
    numbers, reader = np.random.default_rng(seed), Graph(graph)
    found = {}
    for value in graph.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        quantizer = reader.quantizer(value.name)
        integers = numbers.integers(quantizer.levels[0], quantizer.levels[1] + 1, (count, *shape[1:]))
        found[value.name] = ((integers - quantizer.zero_point) * quantizer.scale).astype(np.float32)
    return found


def emulate(graph: onnx.ModelProto, inputs: dict[str, np.ndarray], soc: str = "SM8650") -> np.ndarray:
    """Run samples on the emulator in this process; give the integers of the output."""
    soc_model = find_soc(soc).soc_model
    with TemporaryDirectory() as folder:
        onnx.save(graph, Path(folder) / "model.onnx")
        placed = compile_context(f"{folder}/model.onnx", folder, soc_model, False)
        assert not placed["cpu"], placed
        rows = [
            run_batch(f"{folder}/{CONTEXT_FILE}", soc_model, False, {name: x[i : i + 1] for name, x in inputs.items()})
            for i in range(len(next(iter(inputs.values()))))
        ]
    return integers(graph, np.concatenate([row["y"] for row in rows]))


def integers(graph: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    """Give the integers that stand behind the output's values."""
    quantizer = Graph(graph).quantizer("y")
    return (np.rint(values / quantizer.scale.astype(np.float64)) + quantizer.zero_point).astype(np.int64)


def modelled(graph: onnx.ModelProto, inputs: dict[str, np.ndarray], families=FAMILIES) -> np.ndarray:
    """Give the output's integers by the models of these families."""
    executor = Executor(graph, families)
    assert not executor.float_ops, executor.float_ops
    found = executor({name: torch.from_numpy(values) for name, values in inputs.items()})
    return integers(graph, found["y"].numpy())


def compare(graph: onnx.ModelProto, inputs: dict[str, np.ndarray], families=FAMILIES) -> np.ndarray:
    """Give the model's integers less the emulator's."""
    return modelled(graph, inputs, families) - emulate(graph, inputs)
