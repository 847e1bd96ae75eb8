"""Einsum in other words: the NPU takes Transpose, Reshape and MatMul, and no Einsum."""

import math
import string
from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bitladder.tasks.onnx_forms.graph import Constants

__all__ = ["Einsum", "write_einsum"]

Term = tuple[str, str]
"""A tensor's name, and a letter for each of its dimensions."""


def write_einsum(graph: onnx.GraphProto, node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
    """Write an Einsum node out; one that cannot be is left, and the NPU names it."""
    shapes = {
        value.name: [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    shapes |= {name: list(values.shape) for name, values in constants.items()}
    try:
        written = Einsum(node, shapes, constants)
    except (KeyError, ValueError):
        return None
    graph.initializer.extend(written.constants)
    return written.nodes


class Einsum:
    """An Einsum node in other words: `nodes` stand in its place, and read `constants`."""

    def __init__(self, node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]], constants: Constants) -> None:
        """Write the node out. Raise ValueError where it takes a diagonal, broadcasts, or sizes are not known.

        Args:
            node: the Einsum.
            shapes: of its inputs; -1 stands for a size that is not known.
            constants: values of those inputs that are constant: they are brought into their new form here.

        """
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._name, self._values = node.name or node.output[0], constants
        terms, self._result = _read(node, shapes)
        self._sizes: dict[str, int] = {}
        for name, letters in terms:
            for letter, size in zip(letters, shapes[name], strict=True):
                if self._sizes.setdefault(letter, size) != size:
                    raise ValueError(f"{letter} is {size} and {self._sizes[letter]}")
        for index, (name, letters) in enumerate(terms):
            others = self._result + "".join(other for place, (_, other) in enumerate(terms) if place != index)
            terms[index] = self._sum_out(name, letters, others)
        while len(terms) > 1:
            others = self._result + "".join(letters for _, letters in terms[2:])
            terms[:2] = [self._multiply(terms[0], terms[1], others)]
        name, letters = terms[0]
        self._add("Identity", self._arranged(name, letters, self._result), output=node.output[0])

    def _sum_out(self, name: str, letters: str, others: str) -> Term:
        axes = [axis for axis, letter in enumerate(letters) if letter not in others]
        if not axes:
            return name, letters
        summed = self._add("ReduceSum", name, self._constant(np.array(axes)), keepdims=0)
        return summed, "".join(letter for letter in letters if letter in others)

    def _multiply(self, one: Term, other: Term, wanted: str) -> Term:
        """Multiply two tensors as batches of matrices, and sum over the letters that are not wanted any more."""
        (left, own), (right, its) = one, other
        both = [letter for letter in own if letter in its]
        batch = "".join(letter for letter in both if letter in wanted)
        summed = "".join(letter for letter in both if letter not in wanted)
        rows = "".join(letter for letter in own if letter not in its)
        columns = "".join(letter for letter in its if letter not in own)
        if not summed:
            letters = batch + rows + columns
            left = self._grouped(left, own, [letter if letter in own else "" for letter in letters])
            right = self._grouped(right, its, [letter if letter in its else "" for letter in letters])
            return self._add("Mul", left, right), letters
        left = self._grouped(left, own, [*batch, rows, summed])
        right = self._grouped(right, its, [*batch, summed, columns])
        product = self._add("MatMul", left, right)
        if len(rows) != 1 or len(columns) != 1:
            product = self._reshape(product, [*batch, *rows, *columns])
        return product, batch + rows + columns

    def _grouped(self, name: str, letters: str, groups: Sequence[str]) -> str:
        """Bring a tensor into an order, some dimensions as one; an empty group is a dimension of one."""
        name = self._arranged(name, letters, "".join(groups))
        return name if all(len(group) == 1 for group in groups) else self._reshape(name, groups)

    def _arranged(self, name: str, letters: str, order: str) -> str:
        if letters == order:
            return name
        permutation = [letters.index(letter) for letter in order]
        if name in self._values:
            return self._constant(self._values[name].transpose(permutation))
        return self._add("Transpose", name, perm=permutation)

    def _reshape(self, name: str, groups: Sequence[str]) -> str:
        sizes = []
        for group in groups:
            own = [self._sizes[letter] for letter in group]
            sizes.append(-1 if -1 in own else math.prod(own))
        if sizes.count(-1) > 1:
            raise ValueError("more than one size is not known")
        known = {tensor.name: tensor for tensor in self.constants}
        if name in self._values or name in known:
            values = self._values[name] if name in self._values else numpy_helper.to_array(known[name])
            return self._constant(values.reshape(sizes))
        return self._add("Reshape", name, self._constant(np.array(sizes)))

    def _add(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = f"{self._name}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output or name], name=name, **attributes))
        return output or name

    def _constant(self, values: np.ndarray) -> str:
        name = f"{self._name}.constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _read(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> tuple[list[Term], str]:
    """Read the equation, a letter a dimension: those of `...` are capitals that it does not use."""
    (equation,) = (helper.get_attribute_value(one).decode() for one in node.attribute if one.name == "equation")
    left, arrow, result = equation.replace(" ", "").partition("->")
    free = [letter for letter in string.ascii_uppercase if letter not in equation]
    most = 0
    terms = []
    for name, term in zip(node.input, left.split(","), strict=True):
        spread = len(shapes[name]) - len(term.replace("...", ""))
        most = max(most, spread if "..." in term else 0)
        letters = term.replace("...", "".join(free[:spread][::-1]))
        if len(set(letters)) != len(letters):
            raise ValueError(f"{term} takes a diagonal")
        terms.append((name, letters))
    dots = "".join(free[:most][::-1])  # from the last dimension on, as broadcasting counts
    if not arrow:
        every = reduce(str.__add__, (letters for _, letters in terms))
        once = sorted(letter for letter in set(every) - set(dots) if every.count(letter) == 1)
        return terms, dots + "".join(once)
    return terms, result.replace("...", dots)
