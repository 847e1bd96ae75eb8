"""One op between quantizers, on the emulator and by a model of it: to try a hypothesis of the NPU's arithmetic.

graph = one_op("Add", [((1, 8, 16, 16), left), ((1, 8, 16, 16), right)], output)
difference = compare(graph, random_inputs(graph), pool, {**FAMILIES, "Add": my_hypothesis})
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from bitladder.htp.arithmetic.executor import FAMILIES, Executor
from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer
from bitladder.socs import find_soc
from bitladder.targets.backend import CONTEXT_FILE, compile_context, run_batch

Shape = tuple[int, ...]


class Constant:
    """An operand that is constant: quantized where it has a quantizer, else in float."""

    def __init__(self, values: np.ndarray, quantizer: Quantizer | None = None) -> None:
        self.values, self.quantizer = values, quantizer


def quantizer(scale: float, zero_point: int, bits: int) -> Quantizer:
    kind = {8: TensorProto.UINT8, 16: TensorProto.UINT16}[bits]
    return Quantizer(np.array(scale, np.float32), np.array(zero_point), kind)


def one_op(op: str, operands: list[tuple[Shape, Quantizer] | Constant], output: Quantizer, **attributes: object):
    """Build the QDQ graph of one op."""
    shapes = {f"x{i}": one[0] for i, one in enumerate(operands) if not isinstance(one, Constant)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    made = helper.make_graph([], "one", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    graph = Graph(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    last = graph.proto.graph.node.add(output=["last"])  # what is added goes ahead of it
    names = []
    for index, one in enumerate(operands):
        if not isinstance(one, Constant):
            names.append(graph.add_quantizer(f"x{index}", one[1], last))
        elif one.quantizer is not None:
            names.append(graph.add_quantized(f"c{index}", one.values, one.quantizer, last))
        else:
            names.append(graph.add_constant(f"c{index}", one.values))
    graph.add_quantizer(graph.add_node(op, names, "made", last, **attributes), output, last, "out")
    graph.remove(last)
    graph.proto.graph.node[-1].output[0] = "y"
    return onnx.shape_inference.infer_shapes(graph.proto)


def random_inputs(graph: onnx.ModelProto, count: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Give inputs that meet every integer of their quantizers."""
    numbers, reader, found = np.random.default_rng(seed), Graph(graph), {}
    for value in graph.graph.input:
        shape = (count, *reader.shape(value.name)[1:])
        one = reader.quantizer(value.name)
        integers = numbers.integers(one.levels[0], one.levels[1] + 1, shape)
        found[value.name] = ((integers - one.zero_point) * one.scale).astype(np.float32)
    return found


def emulate(graph: onnx.ModelProto, inputs: dict[str, np.ndarray], pool, soc: str = "SM8650") -> np.ndarray:
    """Run samples on the emulator; give the integers of the output."""
    soc_model = find_soc(soc).soc_model
    with TemporaryDirectory() as folder:
        onnx.save(graph, Path(folder) / "model.onnx")
        placed = pool.schedule(compile_context, args=(f"{folder}/model.onnx", folder, soc_model, False)).result()
        assert not placed["cpu"], placed
        rows = [{name: x[i : i + 1] for name, x in inputs.items()} for i in range(len(next(iter(inputs.values()))))]
        context = f"{folder}/{CONTEXT_FILE}"
        found = [pool.schedule(run_batch, args=(context, soc_model, False, row)).result()["y"] for row in rows]
    return integers(graph, np.concatenate(found))


def model(graph: onnx.ModelProto, inputs: dict[str, np.ndarray], families=FAMILIES) -> np.ndarray:
    """Give the output's integers by the models of these families."""
    executor = Executor(graph, families)
    assert not executor.float_ops, executor.float_ops
    return integers(graph, executor({name: torch.from_numpy(x) for name, x in inputs.items()})["y"].numpy())


def compare(graph: onnx.ModelProto, inputs: dict[str, np.ndarray], pool, families=FAMILIES) -> np.ndarray:
    """Give the model's integers less the emulator's."""
    return model(graph, inputs, families) - emulate(graph, inputs, pool)


def integers(graph: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    one = Graph(graph).quantizer("y")
    return (np.rint(values / one.scale.astype(np.float64)) + one.zero_point).astype(np.int64)
