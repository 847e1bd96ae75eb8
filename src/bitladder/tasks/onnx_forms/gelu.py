"""GELU in parts made one op: the NPU takes Gelu, and no Erf."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from bitladder.tasks.onnx_forms.graph import Constants

__all__ = ["fuse_gelu"]

TOLERANCE = 1e-4  # relative: some write 1.4142 for the root of 2


def fuse_gelu(graph: onnx.GraphProto, erf: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
    """Make a Gelu where an Erf is part of x / 2 * (1 + erf(x / sqrt(2))), in any order.

    The parts are left without a reader.
    """
    makers = {output: node for node in graph.node for output in node.output}
    x, inner = _scaled(makers.get(erf.input[0]), constants)
    end = _only_reader(graph, erf.output[0])
    if end is None or end.op_type != "Add" or not np.isclose(inner, 0.5**0.5, TOLERANCE):
        return None
    if not any(_is_number(name, constants) and constants[name].item() == 1 for name in end.input):
        return None
    number, times_x = 1.0, False
    while not times_x or not np.isclose(number, 0.5, TOLERANCE):
        tensor = end.output[0]
        end = _only_reader(graph, tensor)
        if end is None:
            return None
        source, value = _scaled(end, constants)
        if source != tensor:  # times x, or times a part of it
            others = [name for name in end.input if name != tensor]
            if end.op_type != "Mul" or not others or times_x:
                return None
            source, value = (x, 1.0) if others[0] == x else _scaled(makers.get(others[0]), constants)
            if source != x:
                return None
            times_x = True
        number *= value
    output = end.output[0]
    end.output[0] = f"{output}.in_parts"
    return [helper.make_node("Gelu", [x], [output], name=f"{output}.Gelu"), erf]


def _scaled(node: onnx.NodeProto | None, constants: Constants) -> tuple[str, float]:
    """Take what a node makes for another tensor times a number; no tensor, where it is none."""
    if node is None or node.op_type not in ("Mul", "Div"):
        return "", 1.0
    places: Sequence[int] = (0, 1) if node.op_type == "Mul" else (1,)
    for place in places:
        if _is_number(node.input[place], constants) and (number := constants[node.input[place]].item()):
            return node.input[1 - place], number if node.op_type == "Mul" else 1 / number
    return "", 1.0


def _is_number(name: str, constants: Constants) -> bool:
    return name in constants and constants[name].size == 1


def _only_reader(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    found = [node for node in graph.node if name in node.input]
    return found[0] if len(found) == 1 and all(value.name != name for value in graph.output) else None
