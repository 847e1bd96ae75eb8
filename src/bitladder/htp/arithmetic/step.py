"""A step of the integer executor: what it reads, what it makes, and how.

Tensors of integers are float32: convolutions take it, and it holds every integer up to 2^24.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from bitladder.htp.arithmetic.layer import Layer

__all__ = ["Family", "Step"]


@dataclass(frozen=True, eq=False)
class Step:
    """One op on a batch of samples. `exact` tells a model of the NPU's integers from an op that runs in float."""

    node: str
    op: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    run: Callable[..., Tensor | tuple[Tensor, ...]]
    exact: bool = True


Family: TypeAlias = Callable[[Layer], Callable[..., Tensor] | None]
"""A family of ops: gives what computes a layer's integers from those of its tensors; None where it has no model."""
