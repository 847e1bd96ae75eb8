"""Outputs that a Concat joins, such as a detector's boxes in pixels and scores from 0 to 1, each kept in its own range.

AIMET ties the quantizers of a Concat and of all that it joins, as its inputs and its output have one scale on the NPU.
At 8 bits the smaller values are then lost: scores of 0 to 1 in steps of 2.5. Where nothing but the network's output
follows, 16 bits for the Concat cost little and hold both.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel

if TYPE_CHECKING:
    from aimet_onnx.quantsim import QuantizationSimModel as OnnxQuantizationSimModel

__all__ = ["part_joined_onnx", "part_joined_torch"]

JOINED_BITS = 16
"""Of a Concat that the network ends in."""


def part_joined_torch(sim: QuantizationSimModel) -> None:
    """Give what a Concat at the network's end joins quantizers of its own, before calibration."""
    modules = dict(sim.model.named_modules())

    def layer_of(operation: Any) -> Any:
        return modules.get(operation.dotted_name.partition(".")[2])  # first is the network's class

    def quantizer_of(operation: Any) -> Any:
        layer = layer_of(operation)
        return layer.output_quantizers[0] if isinstance(layer, QuantizationMixin) else None

    for shared, branches in _find_joined(sim.connected_graph.ordered_ops, quantizer_of):
        for branch in branches:
            own = copy.deepcopy(shared)
            for operation in branch:
                layer_of(operation).output_quantizers[0] = own
        shared.bitwidth = JOINED_BITS


def part_joined_onnx(sim: "OnnxQuantizationSimModel") -> None:
    """Do the same in a sim of aimet-onnx."""

    def quantizer_of(operation: Any) -> Any:
        found = sim.qc_quantize_op_dict.get(operation.outputs[0].name) if operation.outputs else None
        return found if found is not None and found.enabled else None

    for shared, branches in _find_joined(sim.connected_graph.ordered_ops, quantizer_of):
        for branch in branches:
            own = shared._copy()
            sim._set_quantizers({operation.outputs[0].name: own for operation in branch}, rebuild_session=True)
        shared.set_bitwidth(JOINED_BITS)


def _find_joined(
    operations: Iterable[Any], quantizer_of: Callable[[Any], Any]
) -> Iterator[tuple[Any, list[list[Any]]]]:
    """Give the quantizer of each Concat that the network ends in, and which operations have it before the Concat.

    These are given by the Concat's inputs, the last Concat first; what the caller changes counts for those that follow.

    Args:
        operations: of AIMET's graph of the network, in order.
        quantizer_of: gives the quantizer of an operation's output; None where there is none.

    """
    for operation in reversed(list(operations)):
        shared = quantizer_of(operation) if operation.type == "Concat" else None
        if shared is None or shared.bitwidth >= JOINED_BITS:
            continue

        def is_tied(one: Any, shared: Any = shared) -> bool:
            return quantizer_of(one) in (None, shared)

        if all(map(is_tied, _reach(operation, _readers, is_tied))):
            branches = [_reach(source, _sources, is_tied) for source in _sources(operation)]
            yield shared, [[one for one in branch if quantizer_of(one) is shared] for branch in branches]


def _sources(operation: Any) -> list[Any]:
    return [source.producer for source in operation.inputs if source.producer is not None]


def _readers(operation: Any) -> list[Any]:
    return list(operation.output_ops or ())


def _reach(start: Any, next_: Callable[[Any], list[Any]], through: Callable[[Any], bool]) -> list[Any]:
    """Give an operation and what is reached from it, through some."""
    found, waiting = [start], [start]
    while waiting:
        one = waiting.pop()
        new = [other for other in next_(one) if other not in found] if through(one) else []
        found += new
        waiting += new
    return found
