"""A graph's work summed over its operations by kind: all that the latency model sees of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bitladder.latency.graph import KINDS, Op

__all__ = ["FEATURES", "PRECISIONS", "Feature", "Work", "features", "sum_work"]

PRECISIONS = ("fp16", "w8a8", "w8a16")

_WEIGHT_BYTES = {"fp16": 2, "w8a8": 1, "w8a16": 1}
_ACTIVATION_BYTES = {"fp16": 2, "w8a8": 1, "w8a16": 2}

_MATRIX = ("conv", "depthwise", "linear", "matmul")
_VECTOR = ("pointwise", "curve", "norm", "softmax")


@dataclass(frozen=True)
class Work:
    """What the operations of one kind amount to. `elements` are activations read and written."""

    ops: int = 0
    macs: int = 0
    padded_macs: int = 0
    weights: int = 0
    elements: int = 0


@dataclass(frozen=True)
class Feature:
    """A term of the model: its part of the chip, what a unit of it should cost on a phone of 2024, and how surely.

    `unit_ms` is the mean and `spread` the standard deviation, of the logarithm, of what is believed before fitting;
    `by_precision` is the spread of what each precision changes of it.
    """

    part: str
    unit_ms: Mapping[str, float]
    spread: float
    by_precision: float = 0.15


def _same(unit_ms: float) -> dict[str, float]:
    return dict.fromkeys(PRECISIONS, unit_ms)


FEATURES = {
    "graph": Feature("fixed", _same(0.25), 0.5, 0.5),  # starting a graph, its inputs and outputs
    "quantized_input": Feature("fixed", {"fp16": 0.1, "w8a8": 0.1, "w8a16": 0.1}, 0.5),
    "matrix_ops": Feature("fixed", _same(0.0014), 0.5),
    "vector_ops": Feature("fixed", _same(0.0014), 0.5),
    "pool_ops": Feature("fixed", _same(0.0014), 0.5),
    "move_ops": Feature("fixed", _same(0.0014), 0.5),
    # 10^9 multiply-accumulates at the rates that are advertised: 8-bit twice as fast as 16-bit and FP16
    "macs": Feature("matrix", {"fp16": 0.09, "w8a8": 0.045, "w8a16": 0.09}, 0.5, 0.3),
    "attention_macs": Feature("matrix", {"fp16": 0.3, "w8a8": 0.15, "w8a16": 0.3}, 0.7, 0.3),
    "weight_bytes": Feature("memory", _same(1.5), 0.4),  # 10^8 bytes at 65 GB/s: weights come from DRAM
    # 10^8 bytes of activations at 500 GB/s and less: these stay on the chip
    **{f"{kind}_bytes": Feature("vector", _same(0.2), 0.7) for kind in ("matrix", "depthwise", "pointwise")},
    **{f"{kind}_bytes": Feature("vector", _same(0.3), 0.7) for kind in ("curve", "pool", "move")},
    **{f"{kind}_bytes": Feature("vector", _same(5.0), 0.7) for kind in ("norm", "softmax")},
}


def sum_work(ops: Iterable[Op]) -> dict[str, Work]:
    """Sum operations by kind. Every kind of KINDS is in the result."""
    sums = {kind: [0] * 5 for kind in KINDS}
    for op in ops:
        counts = (1, op.macs, op.padded_macs, op.weights, op.read + op.written)
        sums[op.kind] = [total + count for total, count in zip(sums[op.kind], counts, strict=True)]
    return {kind: Work(*counts) for kind, counts in sums.items()}


def features(work: Mapping[str, Work], precision: str, quantized_input: bool = True) -> np.ndarray:
    """Give the value of each of FEATURES, in its unit, for a graph at a precision.

    `quantized_input`: integer graphs turn their float input into integers, which costs as an operation.
    """
    ops = {kind: of.ops for kind, of in work.items()}
    traffic = {kind: of.elements * _ACTIVATION_BYTES[precision] / 1e8 for kind, of in work.items()}
    values = {
        "graph": 1.0,
        "quantized_input": float(quantized_input and precision != "fp16"),
        "matrix_ops": sum(ops[kind] for kind in _MATRIX),
        "vector_ops": sum(ops[kind] for kind in _VECTOR),
        "pool_ops": ops["pool"],
        "move_ops": ops["move"],
        "macs": (work["conv"].padded_macs + work["linear"].padded_macs) / 1e9,
        "attention_macs": work["matmul"].padded_macs / 1e9,
        "weight_bytes": sum(of.weights for of in work.values()) * _WEIGHT_BYTES[precision] / 1e8,
        "matrix_bytes": traffic["conv"] + traffic["linear"] + traffic["matmul"],
        **{f"{kind}_bytes": traffic[kind] for kind in ("depthwise", "pool", "move", *_VECTOR)},
    }
    return np.array([values[name] for name in FEATURES])
