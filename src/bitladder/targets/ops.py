"""What each op costs on a target, and what a graph's weights take."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from bitladder.running.files import write_csv

__all__ = ["OPS_FILE", "read_profile", "weights_bytes", "write_ops"]

OPS_FILE = "ops.csv"

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


def weights_bytes(model: Path) -> int:
    """Sum the bytes of a graph's constants, as they are stored in it: weights, biases and the quantizers' scales."""
    total = 0.0
    for tensor in onnx.load(model).graph.initializer:
        size = 0.5 if tensor.data_type in _HALF_BYTES else helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        total += math.prod(tensor.dims) * size
    return math.ceil(total)
