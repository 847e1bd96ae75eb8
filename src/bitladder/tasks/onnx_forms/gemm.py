"""Gemm without factors and transposes of its own, which the NPU's fully connected layer does not have."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bitladder.tasks.onnx_forms.graph import Constants

__all__ = ["plain_gemm"]


def plain_gemm(graph: onnx.GraphProto, node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
    """Move the factors of a Gemm into its constants, and into nodes before it where it has none."""
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    alpha, beta, turned = given.get("alpha", 1.0), given.get("beta", 1.0), given.get("transA", 0)
    if alpha == beta == 1 and not turned:
        return None
    before: list[onnx.NodeProto] = []
    inputs, name = list(node.input), node.name or node.output[0]

    def add(kind: str, index: int, *more: str, **attributes: object) -> None:
        output = f"{name}.{kind}.{index}"
        before.append(helper.make_node(kind, [inputs[index], *more], [output], name=output, **attributes))
        inputs[index] = output

    def constant(values: np.ndarray, index: int) -> str:
        graph.initializer.append(numpy_helper.from_array(values, f"{name}.constant.{index}"))
        return f"{name}.constant.{index}"

    def scale(index: int, factor: float) -> None:
        if inputs[index] in constants:
            inputs[index] = constant(constants[inputs[index]] * np.float32(factor), index)
        else:
            add("Mul", index, constant(np.array([factor], np.float32), index))

    if turned:
        add("Transpose", 0, perm=[1, 0])
    if alpha != 1:
        scale(1, alpha)
    if beta != 1 and len(inputs) > 2 and inputs[2]:
        scale(2, beta)
    return [*before, helper.make_node("Gemm", inputs, list(node.output), name=node.name, transB=given.get("transB", 0))]
