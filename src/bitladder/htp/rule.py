"""What a rule is: where the NPU does otherwise than a graph says, why, and the edit of the graph that puts it right."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from onnx import NodeProto

from bitladder.htp.graph import Graph
from bitladder.socs import Soc

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["OLD", "Effect", "Example", "Rule", "Writer"]

OLD = frozenset({"v68", "v69"})
"""Hexagon generations that take less than the later ones."""

Effect: TypeAlias = Literal["wrong", "inaccurate", "refused"]
"""What comes of it without the repair: other outputs, more noise than the bits explain, or none at all."""

Writer: TypeAlias = Literal["bitladder", "aimet", "plain"]
"""Who writes the QDQ graph: our export; AIMET by its defaults, with integer biases, where ours leaves them in float; a
plain quantizer (targets/plain_qdq.py), where the fault is none that our export makes."""


@dataclass(frozen=True)
class Example:
    """A tiny network that shows a rule, and at which precisions it does."""

    build: "Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]"
    """Give the network and samples for it; torch's seed is set before."""
    precisions: tuple[str, ...]
    """`FP16`, `W8A16`, ..."""
    soc: str = "SM8650"
    writer: Writer = "bitladder"
    weights_block: int | None = None
    """Input channels that share a scale; None: all of them do."""
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Bits of the weights and activations of layers that are not the precision's, by name."""


@dataclass(frozen=True)
class Rule:
    """One rule. `find` gives the nodes that it concerns; those that are repaired already are not among them."""

    name: str
    effect: Effect
    where: str
    """Which nodes, for people: what completes `the NPU is wrong at ...`."""
    why: str
    """The cause, as far as it was found."""
    remedy: str
    """What the repair does."""
    find: Callable[[Graph, Soc], Iterator[NodeProto]]
    repair: Callable[[Graph, NodeProto, Soc], None]
    example: Example
    changes: str = ""
    """What of the graph's own function the repair changes, for people; nothing where it is left out."""
