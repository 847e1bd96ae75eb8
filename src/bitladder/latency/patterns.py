"""Nodes that exporters write in place of one operation: GELU around Erf, and layer norm spelled out."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx

__all__ = ["Links", "is_bias", "merge_patterns"]

_ARITHMETIC = {"Add", "Mul", "Div"}


class Links:
    """Which node makes and which nodes read each tensor, with nodes that change no value seen through."""

    def __init__(self, nodes: Sequence[onnx.NodeProto], source: Callable[[str], str], constant: set[str]) -> None:
        self._source, self._constant = source, constant
        self._makers = {output: node for node in nodes for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in self.inputs(node):
                self._readers.setdefault(name, []).append(node)

    def split_inputs(self, node: onnx.NodeProto) -> tuple[list[str], list[str]]:
        """Give the names that a node reads: of data, and of constants."""
        names = [name for name in node.input if name]
        return [name for name in names if name not in self._constant], [
            name for name in names if name in self._constant
        ]

    def inputs(self, node: onnx.NodeProto) -> list[str]:
        """Give the tensors that a node reads, each once, without constants."""
        return list(dict.fromkeys(map(self._source, self.split_inputs(node)[0])))

    def makers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Give the nodes that make what a node reads."""
        return [self._makers[name] for name in self.inputs(node) if name in self._makers]

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Give the nodes that read a node's first output."""
        return self._readers.get(node.output[0], [])

    def chain(self, node: onnx.NodeProto, kinds: set[str]) -> Iterator[onnx.NodeProto]:
        """Follow the only reader of each node for as long as it is of these kinds."""
        while len(readers := self.readers(node)) == 1 and readers[0].op_type in kinds:
            node = readers[0]
            yield node


def is_bias(node: onnx.NodeProto, links: Links) -> bool:
    """Whether it adds a constant to what a matrix operation makes."""
    return (
        node.op_type == "Add"
        and len(links.inputs(node)) == 1
        and any(maker.op_type in {"MatMul", "Conv"} for maker in links.makers(node))
    )


def merge_patterns(nodes: Sequence[onnx.NodeProto], links: Links) -> Mapping[int, str | None]:
    """Give, by id of node, the kind of the operation that it stands for, or None where another node stands for it."""
    found: dict[int, str | None] = {}
    for node in nodes:
        if node.op_type == "Erf":
            found |= _gelu(node, links)
        elif node.op_type == "Sub" and any(maker.op_type == "ReduceMean" for maker in links.makers(node)):
            found |= _layer_norm(node, links)
    return found


def _gelu(erf: onnx.NodeProto, links: Links) -> dict[int, str | None]:
    """Find x * 0.5 * (1 + erf(x / sqrt 2)), in any order of its products."""
    tail = list(links.chain(erf, _ARITHMETIC))[:3]
    product = next((node for node in tail if len(links.inputs(node)) == 2), None)
    scaled = [maker for maker in links.makers(erf) if maker.op_type in {"Mul", "Div"}]
    if product is None or not scaled:
        return {}
    within = set(links.inputs(scaled[0]))
    halves = [m for m in links.makers(product) if m.op_type in {"Mul", "Div"} and set(links.inputs(m)) == within]
    others = [scaled[0], *halves, *(node for node in tail if tail.index(node) <= tail.index(product) + 1)]
    return {**{id(node): None for node in others}, id(erf): "curve"}


def _layer_norm(centred: onnx.NodeProto, links: Links) -> dict[int, str | None]:
    """Find (x - mean) / sqrt(mean((x - mean)^2) + epsilon), then a scale and an offset."""
    mean = next(maker for maker in links.makers(centred) if maker.op_type == "ReduceMean")
    squares = [node for node in links.readers(centred) if node.op_type in {"Pow", "Mul"}]
    for square in squares:
        spread = list(links.chain(square, {"ReduceMean", "Add", "Sqrt", "Div", "Mul", "Reciprocal"}))
        whole = next((node for node in spread if node in links.readers(centred)), None)
        if whole is not None and any(node.op_type == "Sqrt" for node in spread):
            return {**{id(node): None for node in (mean, square, *spread)}, id(centred): "norm"}
    return {}
