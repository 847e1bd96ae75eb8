"""ONNX's LSTM, GRU and RNN step by step, as `recurrent.py` has torch's, and ReduceL2 in its parts.

As one op each, the NPU computes them in float.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from bitladder.quantize.prepare.recurrent import MOST_STEPS
from bitladder.tasks.onnx_forms.graph import constants_of

__all__ = ["write_steps"]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PLAIN = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def write_steps(proto: onnx.ModelProto) -> None:
    """Write out what can be, where shapes are known: call it on a graph for a batch of one."""
    graph, constants = proto.graph, constants_of(proto)
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
    }
    makers = {name: node for node in graph.node for name in node.output}
    nodes: list[NodeProto] = []
    for node in graph.node:
        writer = _Writer(graph, node)
        if node.op_type in GATES and _fits(node, constants, shapes):
            zero = [not name or _is_zero(name, constants, makers) for name in _states(node)]
            _Recurrent(writer, constants, shapes[node.input[0]][0], zero).write()
            nodes += writer.nodes
        elif node.op_type == "ReduceL2":
            square = writer.add("Mul", node.input[0], node.input[0])
            keepdims = _attribute(node, "keepdims", 1)
            total = writer.add("ReduceSum", square, *node.input[1:], keepdims=keepdims)
            writer.add("Sqrt", total, output=node.output[0])
            nodes += writer.nodes
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


class _Writer:
    """Makes the nodes that stand in one node's place."""

    def __init__(self, graph: onnx.GraphProto, node: NodeProto) -> None:
        self.graph, self.node, self.nodes = graph, node, []  # type: tuple[Any, NodeProto, list[NodeProto]]
        self.count = 0

    def add(self, kind: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; give its output, or a list of them."""
        name = self._name(kind)
        made = [output] if output else [name] if outputs == 1 else [f"{name}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, name, **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, values: Any, kind: str = "constant") -> str:
        """Add an initializer; give its name."""
        name = self._name(kind)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def part(self, values: str, start: int, end: int) -> str:
        """Take a range of the last dimension."""
        bounds = [self.constant(np.array([one], np.int64)) for one in (start, end, -1)]
        return str(self.add("Slice", values, *bounds))

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{self.node.name}/{kind}_{self.count}"


class _Recurrent:
    """One LSTM, GRU or RNN."""

    def __init__(self, write: _Writer, constants: dict[str, np.ndarray], steps: int, zero: Sequence[bool]) -> None:
        self.add, self.constant, self.part = write.add, write.constant, write.part
        self.node, self.steps, self.zero = write.node, steps, zero
        inputs = [*write.node.input, *[""] * 8]
        self.values, self.states = inputs[0], inputs[5:7]
        self.weights, self.recurrence = constants[inputs[1]], constants[inputs[2]]
        ways, size, _ = self.recurrence.shape
        self.biases = constants[inputs[3]] if inputs[3] else np.zeros((ways, 2 * size), np.float32)
        self.size = size // GATES[write.node.op_type]

    def write(self) -> None:
        """Write all steps of all directions, and the outputs that are read."""
        reverse = _attribute(self.node, "direction", b"forward") == b"reverse"
        ways = len(self.recurrence)
        found = [self._direction(way, reverse or way == 1) for way in range(ways)]
        axis = self.constant(np.array([1], np.int64), "axis")
        outputs = [*self.node.output, "", ""]
        if outputs[0]:
            whole = self.constant(np.array([self.steps, 1, -1, self.size], np.int64), "shape")
            every = []
            for shown, _ in found:
                rows = [self.add("Unsqueeze", one, axis) for one in shown]
                joined = self.add("Concat", *rows, axis=1)  # samples, steps, values: one Concat of what has one range
                turned = self.add("Transpose", joined, perm=[1, 0, 2])
                every.append(self.add("Reshape", turned, whole, output=outputs[0] if ways == 1 else ""))
            if ways > 1:
                self.add("Concat", *every, axis=1, output=outputs[0])
        first = self.constant(np.array([0], np.int64), "axis")
        for index, output in enumerate(outputs[1:3]):
            if output:
                ends = [state[index] for _, state in found]
                rows = [self.add("Unsqueeze", end, first, output=output if ways == 1 else "") for end in ends]
                if ways > 1:
                    self.add("Concat", *rows, axis=0, output=output)

    def _direction(self, way: int, backward: bool) -> tuple[list[str], list[str]]:
        rows = len(self.recurrence[way])
        is_gru = self.node.op_type == "GRU"
        given, before = np.split(self.biases[way], 2)
        weights = self.constant(np.ascontiguousarray(self.weights[way].T), "weight")
        recurrence = self.constant(np.ascontiguousarray(self.recurrence[way].T), "recurrence")
        bias = self.constant(given if is_gru else given + before, "bias")
        total = self.add("Add", self.add("MatMul", self.values, weights), bias)
        if is_gru:  # its reset gate works on the second bias alone
            bias = self.constant(before, "bias")
            # beside the first step's gates it is an operand, which is quantized otherwise than a bias
            first = [self.constant(one) for one in np.split(before, [2 * self.size])]
        pieces = (
            [total] if self.steps == 1 else self.add("Split", total, axis=0, outputs=self.steps, num_outputs=self.steps)
        )
        shape = self.constant(np.array([-1, rows], np.int64), "shape")
        state = [self._start(index, way) for index in range(2)]
        shown = [""] * self.steps
        for step in reversed(range(self.steps)) if backward else range(self.steps):
            gates = self.add("Reshape", pieces[step], shape)
            matrix: Any = self.add("MatMul", state[0], recurrence) if state[0] else None
            if is_gru:
                matrix = self._gru_parts(self.add("Add", matrix, bias)) if matrix else first
            state = getattr(self, f"_{self.node.op_type.lower()}")(gates, matrix, state)
            shown[step] = state[0]
        return shown, state

    def _start(self, index: int, way: int) -> str:
        if self.zero[index]:
            return ""
        place = self.constant(np.array(way, np.int64), "index")
        return str(self.add("Gather", self.states[index], place, axis=0))

    def _lstm(self, gates: str, matrix: str | None, state: list[str]) -> list[str]:
        size = self.size
        total = self.add("Add", gates, matrix) if matrix else gates
        opened = self.add("Sigmoid", self.part(total, 0, 3 * size))  # in the order input, output, forget
        cell = self.add("Mul", self.part(opened, 0, size), self.add("Tanh", self.part(total, 3 * size, 4 * size)))
        if state[1]:
            cell = self.add("Add", self.add("Mul", self.part(opened, 2 * size, 3 * size), state[1]), cell)
        return [self.add("Mul", self.part(opened, size, 2 * size), self.add("Tanh", cell)), cell]

    def _gru_parts(self, gates: str) -> list[str]:
        return [self.part(gates, 0, 2 * self.size), self.part(gates, 2 * self.size, 3 * self.size)]

    def _gru(self, gates: str, before: list[str], state: list[str]) -> list[str]:
        size, (opened, new) = self.size, self._gru_parts(gates)
        opened = self.add("Sigmoid", self.add("Add", opened, before[0]))  # in the order keep, reset
        keep, reset = self.part(opened, 0, size), self.part(opened, size, 2 * size)
        new = self.add("Tanh", self.add("Add", new, self.add("Mul", reset, before[1])))
        if not state[0]:
            return [self.add("Sub", new, self.add("Mul", keep, new)), ""]
        return [self.add("Add", new, self.add("Mul", keep, self.add("Sub", state[0], new))), ""]

    def _rnn(self, gates: str, matrix: str | None, state: list[str]) -> list[str]:
        return [self.add("Tanh", self.add("Add", gates, matrix) if matrix else gates), ""]


def _fits(node: NodeProto, constants: dict[str, np.ndarray], shapes: dict[str, list[int]]) -> bool:
    """Tell the usual kind, of constant weights and one known length, as every exporter writes it."""
    inputs = [*node.input, *[""] * 8]
    steps = (shapes.get(inputs[0]) or [0])[0]
    ways = 2 if _attribute(node, "direction", b"forward") == b"bidirectional" else 1
    activations = [one.decode() for one in _attribute(node, "activations", [])] or PLAIN[node.op_type] * ways
    odd = any(_attribute(node, name, 0) for name in ("clip", "layout", "input_forget"))
    return (
        0 < steps <= MOST_STEPS
        and all(name in constants for name in inputs[1:3])
        and (not inputs[3] or inputs[3] in constants)
        and not inputs[4]  # lengths of their own for each sample
        and not inputs[7]
        and activations == PLAIN[node.op_type] * ways
        and not odd
        and (node.op_type != "GRU" or bool(_attribute(node, "linear_before_reset", 0)))
    )


def _states(node: NodeProto) -> list[str]:
    return [*node.input, *[""] * 7][5:7]


def _is_zero(name: str, constants: dict[str, np.ndarray], makers: dict[str, NodeProto]) -> bool:
    """Tell zeros of a size that may be computed."""
    if name in constants:
        return not constants[name].any()
    maker = makers.get(name)
    if maker is None:
        return False
    if maker.op_type == "ConstantOfShape":
        values = _attribute(maker, "value", None)
        return values is None or not numpy_helper.to_array(values).any()
    return maker.op_type in ("Expand", "Slice", "Reshape", "Unsqueeze") and _is_zero(maker.input[0], constants, makers)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)
