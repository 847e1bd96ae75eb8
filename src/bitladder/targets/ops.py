"""What each op costs on a target, and what a graph's weights take."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from bitladder.running.files import write_csv

__all__ = ["OPS_FILE", "place_in", "read_profile", "weights_bytes", "where_from", "write_ops"]

OPS_FILE = "ops.csv"

QDQ = ("QuantizeLinear", "DequantizeLinear")

COLUMNS = ("op", "unit", "cycles", "share", "source")

_NODE = re.compile(r"(?P<op>.*?)[: ]OpId_\d+ \(cycles\)$")

_HALF_BYTES = {TensorProto.INT4, TensorProto.UINT4}


def read_profile(path: Path) -> list[dict[str, Any]]:
    """Read the Hexagon backend's events of one inference: a row per op, in order, with its cycles."""
    with path.open(newline="", encoding="utf-8") as file:
        found = ((_NODE.match(event["Event Identifier"]), event["Time"]) for event in csv.DictReader(file))
        return [{"op": node["op"], "unit": "npu", "cycles": int(time)} for node, time in found if node]


def write_ops(path: Path, rows: list[dict[str, Any]], source: str) -> None:
    """Write a table of ops, each with its share of all cycles.

    `source` says whose cycles they are: emulated ones are the host's, and say little of the device's.
    """
    total = sum(row["cycles"] for row in rows) or 1
    write_csv(path, COLUMNS, [{**row, "share": row["cycles"] / total, "source": source} for row in rows])


def where_from(model: Path, nodes: Sequence[tuple[str, str]]) -> list[str]:
    """Say of nodes of a graph, by name and type, which ops they are, and where they are in the user's network.

    A quantizer stands for the op that it is of: the one before it, or after it where it is an input's or a weight's.
    Nodes that the backend itself has put in are named where there are no others.
    """
    graph = onnx.load(model).graph
    named = {node.name: node for node in graph.node}
    makers = {output: node for node in graph.node for output in node.output}
    readers = {name: node for node in reversed(graph.node) for name in node.input}
    ops: dict[str, None] = {}
    for name, _ in nodes:
        node = named.get(name)
        while node is not None and node.op_type in QDQ:
            before, after = makers.get(node.input[0]), readers.get(node.output[0])
            node = before if node.op_type == "QuantizeLinear" and before is not None else after
        if node is not None:
            ops[f"{node.name} ({node.op_type}){f' in {node.doc_string}' if node.doc_string else ''}"] = None
    return list(ops) or [f"{name} ({kind})" for name, kind in nodes]


def place_in(model: Path, message: str) -> str:
    """Say where in the user's network the node is that a message names; empty where it names none."""
    try:
        nodes = [node for node in onnx.load(model).graph.node if node.doc_string]
    except (DecodeError, OSError):
        return ""
    # of an output's name, a node's is a part
    nodes = [node for node in nodes if re.search(rf"{re.escape(node.name)}(?![\w.])", message)]
    return f", in {max(nodes, key=lambda node: len(node.name)).doc_string}" if nodes else ""


def weights_bytes(model: Path) -> int:
    """Sum the bytes of a graph's constants, as they are stored in it: weights, biases and the quantizers' scales."""
    total = 0.0
    for tensor in onnx.load(model).graph.initializer:
        size = 0.5 if tensor.data_type in _HALF_BYTES else helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        total += math.prod(tensor.dims) * size
    return math.ceil(total)
