"""Small graphs, made at random, that are valid: of the ops that rules look at and of others, in float or QDQ form."""

import random

import numpy as np
import onnx
from onnx import TensorProto, helper

from bitladder.htp.graph import Graph
from bitladder.htp.quantizer import Quantizer

ELEMENTWISE = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Abs",
    "Neg",
    "Exp",
    "Gelu",
)
IMAGE = (1, 4, 8, 8)
TOKENS = (1, 6, 8)


class Builder:
    """Puts op behind op; after each there may be a quantizer."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.bits = self.random.choice((0, 8, 16))
        self.shape = self.random.choice((IMAGE, TOKENS))
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, self.shape)
        proto = helper.make_model(
            helper.make_graph([], "random", [value], [out]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
        )
        self.graph = Graph(proto)

    def build(self) -> onnx.ModelProto:
        tensor = self.quantized("x", always=True)
        for _ in range(self.random.randint(1, 5)):
            steps = (self.elementwise, self.clip, self.layer, self.join, self.constant, self.norm, self.other)
            tensor = self.quantized(self.random.choice(steps)(tensor), always=self.random.random() < 0.8)
        self.graph.add_node("Identity", [self.quantized(tensor, always=True)], "last", None)
        self.graph.proto.graph.node[-1].output[0] = "y"
        return self.graph.proto

    def node(self, kind: str, inputs: list[str], **attributes: object) -> str:
        return self.graph.add_node(kind, inputs, kind.lower(), None, **attributes)

    def quantized(self, tensor: str, always: bool) -> str:
        if not self.bits or not always:
            return tensor
        low, high = self.random.choice(((0, 1), (-1, 1), (-3, 5), (0, 6), (-0.2, 9)))
        return self.graph.add_quantizer(tensor, Quantizer.of_range(low, high, self.bits), None)

    def weights(self, shape: tuple[int, ...], axis: int) -> str:
        values = self.numbers.normal(size=shape) / 4
        if not self.bits:
            return self.graph.add_constant("w", values.astype(np.float32))
        kind = self.random.choice((TensorProto.INT4, TensorProto.INT8))
        scale = np.full(shape[axis], 0.1 if kind == TensorProto.INT4 else 0.01)
        quantizer = Quantizer(scale, np.zeros(shape[axis], np.int64), kind, axis)
        return self.graph.add_quantized("w", values, quantizer, None)

    def floats(self, *shape: int) -> str:
        return self.graph.add_constant("c", self.numbers.uniform(0.2, 1.5, shape).astype(np.float32))

    def elementwise(self, tensor: str) -> str:
        return self.node(self.random.choice(ELEMENTWISE), [tensor])

    def clip(self, tensor: str) -> str:
        ends = [self.graph.add_constant("end", np.array(value, np.float32)) for value in (-0.5, 2)]
        return self.node("Clip", [tensor, *self.random.choice((ends, ["", ends[1]], ends[:1]))])

    def layer(self, tensor: str) -> str:
        if self.shape == TOKENS:
            made = self.node("MatMul", [tensor, self.weights((8, 8), 1)])
            return self.node("Add", [made, self.floats(8)]) if self.random.random() < 0.7 else made
        kind, groups = self.random.choice((("Conv", 1), ("Conv", 4), ("ConvTranspose", 4), ("ConvTranspose", 1)))
        shape = (4, 4 // groups, 1, 1)
        axis = 0 if kind == "Conv" else 1
        return self.node(kind, [tensor, self.weights(shape, axis), self.floats(4)], group=groups)

    def join(self, tensor: str) -> str:
        other = self.quantized(self.elementwise(tensor), always=True)
        if self.shape == TOKENS and self.random.random() < 0.5:
            turned = self.quantized(self.node("Transpose", [other], perm=[0, 2, 1]), always=True)
            scores = self.quantized(self.node("MatMul", [tensor, turned]), always=True)
            return self.node("MatMul", [self.node("Softmax", [scores]), other])
        if self.random.random() < 0.5:
            return self.node(self.random.choice(("Add", "Mul", "Max")), [tensor, other])
        joined = self.quantized(self.node("Concat", [tensor, other], axis=1), always=True)
        half = self.graph.add_constant("half", np.array([self.shape[1]] * 2))
        parts = [f"{joined}_{side}" for side in "ab"]
        self.graph.proto.graph.node.append(helper.make_node("Split", [joined, half], parts, joined + "_split", axis=1))
        return self.random.choice(parts)

    def constant(self, tensor: str) -> str:
        kind = self.random.choice(("Add", "Mul", "Sub", "Div", "PRelu"))
        return self.node(kind, [tensor, self.floats(*(1,) * (len(self.shape) - 1))])

    def norm(self, tensor: str) -> str:
        if self.shape == TOKENS:
            return self.node("LayerNormalization", [tensor, self.gamma(8), self.floats(8)])
        if self.random.random() < 0.5:
            return self.node("InstanceNormalization", [tensor, self.gamma(4), self.floats(4)])
        return self.node("BatchNormalization", [tensor, self.gamma(4), *(self.floats(4) for _ in range(3))])

    def gamma(self, channels: int) -> str:
        if not self.bits:
            return self.floats(channels)
        values = self.numbers.uniform(0.2, 1.5, channels)
        return self.graph.add_quantized("gamma", values, Quantizer.of_range(0, 1.5, 8), None)

    def other(self, tensor: str) -> str:
        if self.random.random() < 0.3:
            sure = self.node(
                "Add", [self.node("Abs", [tensor]), self.graph.add_constant("one", np.array(1, np.float32))]
            )
            return self.node("Log", [self.quantized(sure, always=True)])
        if self.random.random() < 0.4:
            axis = self.graph.add_constant("axis", np.array([len(self.shape) - 1]))
            length = self.node("ReduceL2", [tensor, axis], keepdims=1)
            least = self.graph.add_constant("least", np.array(1e-12, np.float32))
            return self.node("Div", [tensor, self.node("Max", [length, least])])
        if self.shape == IMAGE and self.random.random() < 0.5:
            pooled = self.node("AveragePool", [tensor], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
            sizes = self.graph.add_constant("sizes", np.array(IMAGE))
            return self.node("Resize", [self.quantized(pooled, always=True), "", "", sizes], mode="nearest")
        return self.node("CumSum", [tensor, self.graph.add_constant("along", np.array(1))])


def random_graph(seed: int) -> onnx.ModelProto:
    """Give a valid graph, the same for the same seed."""
    return Builder(seed).build()
