"""A rung's bit-widths as a value."""

from dataclasses import dataclass

__all__ = ["FLOAT", "OPSET", "Precision"]

FLOAT = {"fp32": 32, "fp16": 16}
"""Bit-widths of the two floating-point entries that stand beside the rungs."""

OPSET = 21
"""The first ONNX opset whose QuantizeLinear takes 4 and 16 bits; all graphs are written in it."""


@dataclass(frozen=True, order=True)
class Precision:
    """Bit-widths of weights and activations, in bits."""

    weights: int
    activations: int

    def __str__(self) -> str:
        """Give the field's label, such as W4A8: derived, never typed."""
        return f"W{self.weights}A{self.activations}"
