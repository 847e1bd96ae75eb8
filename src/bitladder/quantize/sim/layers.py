"""What is told of each layer of a sim: its name, its SQNR, what it costs."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

__all__ = ["SAMPLES", "Cost", "LayerSqnr", "What", "no_such_layer"]

What = Literal["weight", "activation"]

SAMPLES = 32  # enough for an SQNR to a tenth of a dB, and no more than a moment's work


@dataclass(frozen=True)
class LayerSqnr:
    """SQNR of one layer's output in the sim against the same layer's in FP32, in dB."""

    layer: str
    kind: str
    sqnr_db: float


@dataclass(frozen=True)
class Cost:
    """How many weights a layer has, and at how many positions of its output it multiplies by them."""

    weights: int
    positions: int


def no_such_layer(name: str, layers: list[str]) -> str:
    """Say which layers there are, those near to the name first."""
    near = ", ".join(get_close_matches(name, layers, 3, 0.3)) or ", ".join(layers[:5])
    return f"ladder: layers: the network has no quantized layer {name!r}; near it are {near}"
