"""A graph's work summed over its operations by kind: all that the latency model sees of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bitladder.latency.graph import KINDS, Op

__all__ = ["FEATURES", "PRECISIONS", "Feature", "Work", "count_macs", "features", "sum_by_precision", "sum_work"]

PRECISIONS = ("fp16", "w8a8", "w8a16")

_WEIGHT_BYTES = {"fp16": 2, "w8a8": 1, "w8a16": 1}
_ACTIVATION_BYTES = {"fp16": 2, "w8a8": 1, "w8a16": 2}

VTCM = 8 * 2**20
"""Bytes of the memory beside the matrix unit: a larger tensor passes through DRAM."""

_MATRIX = ("conv", "depthwise", "linear", "matmul")
_VECTOR = ("pointwise", "curve", "norm", "softmax")


@dataclass(frozen=True)
class Work:
    """What the operations of one kind amount to.

    `elements` are activations read and written, in whole tiles; `spilled_1` and `spilled_2` those of them that are of
    tensors too large for VTCM, at one and two bytes an element.
    """

    ops: int = 0
    macs: int = 0
    padded_macs: int = 0
    weights: int = 0
    elements: int = 0
    spilled_1: int = 0
    spilled_2: int = 0


@dataclass(frozen=True)
class Feature:
    """A term of the model: its part of the chip, and the physics of it in a line."""

    part: str
    why: str


FEATURES = {
    "graph": Feature("fixed", "starting a graph takes its time, however small"),
    "quantized_input": Feature("fixed", "an integer graph turns its float input into integers"),
    "matrix_ops": Feature("fixed", "each matrix operation is dispatched, each head and window of attention by itself"),
    "vector_ops": Feature("fixed", "each vector operation starts its threads"),
    "pool_ops": Feature("fixed", "so does each pooling or resizing"),
    "move_ops": Feature("fixed", "so does each copy that changes the layout"),
    "recurrent_steps": Feature("fixed", "a step of an LSTM waits for the step before it"),
    "macs": Feature("matrix", "multiply-accumulates of whole tiles: 8-bit twice as fast as 16-bit"),
    "attention_macs": Feature("matrix", "products of two activations: neither side is laid out beforehand"),
    "weight_bytes": Feature("memory", "weights come from DRAM once"),
    "matrix_bytes": Feature("vector", "activations of matrix operations, read and written in VTCM"),
    "depthwise_bytes": Feature("vector", "depthwise convolutions run on the vector unit, some taps a pass"),
    "pointwise_bytes": Feature("vector", "sums and products read and write each activation"),
    "curve_bytes": Feature("vector", "sigmoid and its like are tables or polynomials, several passes"),
    "pool_bytes": Feature("vector", "pooling and resizing read each activation several times"),
    "move_bytes": Feature("vector", "transposes and slices move activations from tile to tile"),
    "concat_bytes": Feature("vector", "concatenation copies whole tiles, or nothing"),
    "norm_bytes": Feature("vector", "a norm passes over its activations three times"),
    "softmax_bytes": Feature("vector", "so does softmax"),
    "border_bytes": Feature("memory", "inputs and outputs are converted and change their layout"),
    "spilled_bytes": Feature("memory", "tensors larger than VTCM go to DRAM and back"),
    "window_taps": Feature("vector", "averages over odd windows have no integer kernel: a scalar loop"),
}


def sum_work(ops: Iterable[Op]) -> dict[str, Work]:
    """Sum operations by kind. Every kind of KINDS is in the result."""
    sums = {kind: [0] * 7 for kind in KINDS}
    for op in ops:
        spilled = [sum(n for n in op.tiled if n * size > VTCM) for size in (1, 2)]
        counts = (op.times, op.macs, op.padded_macs, op.weights, sum(op.tensors), *spilled)
        sums[op.kind] = [total + count for total, count in zip(sums[op.kind], counts, strict=True)]
    return {kind: Work(*counts) for kind, counts in sums.items()}


def sum_by_precision(ops: Iterable[Op]) -> dict[str, dict[str, Work]]:
    """Sum the operations of each precision that the graph's quantizers say."""
    by_precision: dict[str, list[Op]] = {}
    for op in ops:
        by_precision.setdefault(op.precision, []).append(op)
    return {precision: sum_work(own) for precision, own in by_precision.items()}


def count_macs(work: Mapping[str, Work]) -> int:
    """Count the multiply-accumulates of a graph; 0 where it has an LSTM or GRU, whose are not counted."""
    return 0 if work["recurrent"].ops else sum(work[kind].macs for kind in _MATRIX)


def features(work: Mapping[str, Work], precision: str, quantized_input: bool = True) -> np.ndarray:
    """Give the value of each of FEATURES for a graph at a precision, in 10^9 MACs, 10^8 bytes, 10^6 taps and counts.

    Of a graph at several precisions each part has its own; what the graph costs once goes with its inputs and outputs.
    `quantized_input`: whether an integer graph turns a float input into integers; bitladder's do.
    """
    size = _ACTIVATION_BYTES[precision]
    ops = {kind: of.ops for kind, of in work.items()}
    traffic = {kind: of.elements * size / 1e8 for kind, of in work.items()}
    spilled = sum(of.spilled_1 if size == 1 else of.spilled_2 for kind, of in work.items() if kind != "border")
    integer = precision != "fp16"
    values = {
        "graph": ops["border"],
        "quantized_input": ops["border"] * (quantized_input and integer),
        "matrix_ops": sum(ops[kind] for kind in _MATRIX),
        "vector_ops": sum(ops[kind] for kind in _VECTOR),
        "pool_ops": ops["pool"] + ops["window"],
        "move_ops": ops["move"] + ops["concat"],
        "recurrent_steps": ops["recurrent"],
        "macs": (work["conv"].padded_macs + work["linear"].padded_macs) / 1e9,
        "attention_macs": work["matmul"].padded_macs / 1e9,
        "weight_bytes": sum(of.weights for of in work.values()) * _WEIGHT_BYTES[precision] / 1e8,
        "matrix_bytes": traffic["conv"] + traffic["linear"] + traffic["matmul"],
        "pool_bytes": traffic["pool"] + traffic["window"],
        **{f"{kind}_bytes": traffic[kind] for kind in ("depthwise", "move", "concat", "border", *_VECTOR)},
        "spilled_bytes": spilled * size / 1e8,
        "window_taps": work["window"].macs / 1e6 * integer,
    }
    return np.array([values[name] for name in FEATURES])
